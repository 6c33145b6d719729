package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/quipudb/quipu/promql"
	"github.com/quipudb/quipu/promql/ruler/ruletest"
)

// rulesCmd is about recording and alerting rules.
type rulesCmd struct {
	Check rulesCheckCmd `cmd:"" help:"Say what is wrong with files of recording and alerting rules."`
	Test  rulesTestCmd  `cmd:"" help:"Run unit tests of recording and alerting rules, in promtool's format."`

	List   rulesListCmd   `cmd:"" help:"List the groups of rules that a server has."`
	Get    rulesGetCmd    `cmd:"" help:"Print groups of rules of a server, as a file."`
	Load   rulesLoadCmd   `cmd:"" help:"Load files of rules into a server."`
	Delete rulesDeleteCmd `cmd:"" help:"Remove groups of rules from a server."`
}

type rulesCheckCmd struct {
	Files []string `arg:"" name:"file" help:"Files of rules."`
}

// Run checks every file and prints a line for each that is right.
func (c *rulesCheckCmd) Run(con *console) error {
	p := promql.NewParser()
	var failed []error
	for _, name := range c.Files {
		n, duplicates, err := ruletest.Check(name, p)
		if err != nil {
			failed = append(failed, err)
			continue
		}
		for _, d := range duplicates {
			fmt.Fprintf(con.err, "warning: there is another rule of this name and labels: %s\n", d)
		}
		fmt.Fprintf(con.out, "%s: %d rules\n", name, n)
	}
	return errors.Join(failed...)
}

type rulesTestCmd struct {
	Files []string `arg:"" name:"file" help:"Tests, which name their files of rules."`
}

// Run runs the tests of every file and prints what differs.
func (c *rulesTestCmd) Run(con *console) error {
	p := promql.NewParser()
	failed := 0
	var broken []error
	for _, name := range c.Files {
		results, err := ruletest.Run(name, p)
		if err != nil {
			broken = append(broken, err)
			continue
		}
		for _, r := range results {
			if len(r.Errors) == 0 {
				fmt.Fprintf(con.out, "%s: %s: ok\n", name, r.Name)
				continue
			}
			failed++
			fmt.Fprintf(con.out, "%s: %s: FAILED\n", name, r.Name)
			for _, err := range r.Errors {
				fmt.Fprintf(con.out, "  %s\n", strings.ReplaceAll(err.Error(), "\n", "\n  "))
			}
		}
	}
	if failed > 0 {
		broken = append(broken, fmt.Errorf("%d tests failed", failed))
	}
	return errors.Join(broken...)
}
