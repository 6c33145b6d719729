package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"strings"
)

// event is a line of "go test -json"; "go doc test2json" describes it.
type event struct {
	Action     string
	Package    string
	ImportPath string // of build events, instead of Package
	Test       string
	Output     string
}

// test names one test, or a package where name is empty.
type test struct{ pkg, name string }

// tally counts tests, subtests included, and keeps the output of each until it is
// known whether anyone needs to read it.
type tally struct {
	out                     io.Writer
	passed, failed, skipped int
	failures                []string            // the names of failed tests
	output                  map[test][]string   // of unfinished tests and packages
	failedIn                map[string]bool     // packages with a failed test
	running                 map[string][]string // tests begun and not ended, by package
}

func newTally(out io.Writer) *tally {
	return &tally{out: out, output: map[test][]string{}, failedIn: map[string]bool{}, running: map[string][]string{}}
}

// read takes events until the stream ends. A line that is no event is printed.
func (t *tally) read(events io.Reader) error {
	lines := bufio.NewReader(events)
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			var e event
			if json.Unmarshal(line, &e) == nil {
				t.take(e)
			} else {
				fmt.Fprintf(t.out, "%s", line)
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read the events of go test: %w", err)
		}
	}
}

func (t *tally) take(e event) {
	id := test{e.Package, e.Test}
	switch e.Action {
	case "build-output":
		fmt.Fprint(t.out, e.Output)
	case "run":
		t.running[e.Package] = append(t.running[e.Package], e.Test)
	case "output":
		t.output[id] = append(t.output[id], e.Output)
	case "pass", "skip", "fail":
		if e.Test == "" {
			t.endPackage(e)
		} else {
			t.endTest(e.Action, id)
		}
	}
}

func (t *tally) endTest(action string, id test) {
	switch action {
	case "pass":
		t.passed++
	case "skip":
		t.skipped++
	case "fail":
		t.failed++
		t.failures = append(t.failures, id.pkg+" "+id.name)
		t.failedIn[id.pkg] = true
		t.flush(id)
	}
	delete(t.output, id)
	running := t.running[id.pkg]
	for i, name := range running {
		if name == id.name {
			t.running[id.pkg] = append(running[:i], running[i+1:]...)
			break
		}
	}
}

// endPackage prints the closing line of a package that passed, and all that is
// left of one that failed: a panic or a timeout ends it with tests still running.
func (t *tally) endPackage(e event) {
	id := test{pkg: e.Package}
	if e.Action == "fail" {
		for _, name := range t.running[e.Package] {
			t.flush(test{e.Package, name})
		}
		t.flush(id)
		if !t.failedIn[e.Package] {
			t.failed++
			t.failures = append(t.failures, e.Package)
		}
	} else {
		for _, line := range t.output[id] {
			if strings.HasPrefix(line, "ok ") {
				fmt.Fprint(t.out, line)
			}
		}
	}
	delete(t.output, id)
	delete(t.running, e.Package)
}

func (t *tally) flush(id test) {
	for _, line := range t.output[id] {
		fmt.Fprint(t.out, line)
	}
}

// summary prints what failed, then the line that counts.
func (t *tally) summary() {
	for _, name := range t.failures {
		fmt.Fprintf(t.out, "failed: %s\n", name)
	}
	if t.skipped > 0 {
		fmt.Fprintf(t.out, "%d skipped\n", t.skipped)
	}
	fmt.Fprintf(t.out, "%d passed, %d failed\n", t.passed, t.failed)
}
