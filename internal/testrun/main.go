// Command testrun runs "go test" and ends with one line that counts: "12 passed, 0
// failed". It prints the output of failed tests and a line for each package; its
// arguments are those of "go test". It fails where a test failed or "go test" did.
//
// Files: main.go (the command), tally.go (reading the events of "go test -json").
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
)

func main() {
	err := run(os.Args[1:], os.Stdout)
	if err == nil {
		return
	}
	if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) {
		fmt.Fprintln(os.Stderr, "testrun:", err) // else what failed is printed already
	}
	os.Exit(1)
}

func run(args []string, out io.Writer) error {
	cmd := exec.Command("go", append([]string{"test", "-json"}, args...)...)
	cmd.Stderr = os.Stderr
	events, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start go test: %w", err)
	}
	t := newTally(out)
	err = errors.Join(t.read(events), cmd.Wait())
	if err != nil && t.failed == 0 {
		t.failed = 1 // "go test" failed before any test could
	}
	t.summary()
	return err
}
