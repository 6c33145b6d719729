package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"syscall"

	"github.com/alecthomas/kong"
)

// commandLine is everything that can be said to quipu.
type commandLine struct {
	Version kong.VersionFlag `help:"Print the version and exit."`

	Serve    serveCmd    `cmd:"" help:"Run the server on a data directory."`
	Import   importCmd   `cmd:"" help:"Post existing logs to a running server as events."`
	Query    queryCmd    `cmd:"" help:"Ask a running server a PromQL question."`
	Events   eventsCmd   `cmd:"" help:"Check, test and explain event rules."`
	Rules    rulesCmd    `cmd:"" help:"Check, test, load and show recording and alerting rules."`
	Tenants  tenantsCmd  `cmd:"" help:"Make, change, suspend and delete tenants of a running server, and show what they use."`
	Erase    eraseCmd    `cmd:"" help:"Delete what a running server has stored of a tenant, and show how far that is."`
	Snapshot snapshotCmd `cmd:"" help:"Make, list and delete snapshots of a running server, and restore tenants from them."`
	Config   configCmd   `cmd:"" help:"Check the configuration of a server."`
	Bench    benchCmd    `cmd:"" help:"Measure a running server."`
	Keys     keysCmd     `cmd:"" help:"Make, list and revoke API keys."`
	Check    checkCmd    `cmd:"" help:"Verify a data directory offline."`
	TSDB     tsdbCmd     `cmd:"" name:"tsdb" help:"Look into a data directory offline."`
	Demo     demoCmd     `cmd:"" hidden:"" help:"Serve a temporary directory, import a log into it and ask about it."`
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// The second signal is the system's to handle: it ends the process.
	context.AfterFunc(ctx, stop)
	os.Exit(run(os.Args[1:], standardConsole(ctx)))
}

// statusMisunderstood is the exit status for a command line that says no command.
// It is kong's for all that cannot be parsed.
const statusMisunderstood = 80

// run parses the arguments, runs the command and returns the exit status.
func run(args []string, con *console) int {
	if len(args) == 0 {
		usage := *con
		usage.out = con.err // I1: nobody asked for it
		run([]string{"--help"}, &usage)
		return statusMisunderstood
	}
	status := -1
	parser, err := kong.New(&commandLine{},
		kong.Name("quipu"),
		kong.Description("Quipu counts events and answers PromQL."),
		kong.Vars{"version": "quipu " + version()},
		kong.Writers(con.out, con.err),
		kong.Exit(func(code int) { status = code }),
		kong.Bind(con),
	)
	if err != nil {
		panic(err) // the struct above is not a command line
	}
	parsed, err := parser.Parse(flagsOf(args))
	if status >= 0 {
		return status // --help or --version said it all
	}
	if err == nil {
		err = parsed.Run()
	}
	if err == nil {
		return 0
	}
	fmt.Fprintf(con.err, "quipu: %v\n", err)
	if coder := kong.ExitCoder(nil); errors.As(err, &coder) {
		return coder.ExitCode()
	}
	return 1
}

// flagsOf writes "help", "help COMMAND" and "version", which people try, as the
// flags that they are.
func flagsOf(args []string) []string {
	switch {
	case args[0] == "help":
		return append(slices.Clone(args[1:]), "--help")
	case args[0] == "version" && len(args) == 1:
		return []string{"--version"}
	}
	return args
}

// version is what the build says of itself: a tag, or the commit it was made of.
func version() string {
	build, ok := debug.ReadBuildInfo()
	if !ok || build.Main.Version == "" {
		return "(unknown version)"
	}
	return build.Main.Version
}
