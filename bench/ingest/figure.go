package main

import (
	"fmt"
	"io"
	"strconv"
)

// figure is one line of the output.
type figure struct {
	name  string
	value float64
	unit  string
	// atMost and atLeast are what the value must be; 0: only reported.
	atMost, atLeast float64
	// note is more about it, for people.
	note string
}

// header names the columns of write.
const header = "figure                          value  unit                     must be      judged\n"

func (f *figure) write(w io.Writer) {
	must, judged := "-", "-"
	switch {
	case f.atMost > 0:
		must, judged = "<= "+number(f.atMost), judge(f.value <= f.atMost)
	case f.atLeast > 0:
		must, judged = ">= "+number(f.atLeast), judge(f.value >= f.atLeast)
	}
	fmt.Fprintf(w, "%-28s %8s  %-24s %-12s %-6s", f.name, number(f.value), f.unit, must, judged)
	if f.note != "" {
		fmt.Fprintf(w, "  %s", f.note)
	}
	fmt.Fprintln(w)
}

func judge(ok bool) string {
	if ok {
		return "ok"
	}
	return "short"
}

// number prints three significant digits, and all digits before the point.
func number(v float64) string {
	if v >= 100 {
		return strconv.FormatFloat(v, 'f', 0, 64)
	}
	return strconv.FormatFloat(v, 'g', 3, 64)
}
