package main

import (
	"fmt"
	"io"
	"strconv"
)

// source names one result of one probe.
type source struct{ probe, key string }

// figure is one line of the output.
type figure struct {
	name  string
	unit  string
	ours  source
	upstr source // upstream's; zero where there is nothing to compare with
	// atMost is what the value must be; 0 where it is only reported.
	atMost float64
	// scaled says that the work, and so what the value must be, shrinks with -scale.
	scaled bool
}

// header names the columns of write.
const header = "figure                          value  unit                     must be      judged  upstream in the same run\n"

// write prints the figure's line. run measures a probe, or returns what it has
// measured before.
func (f *figure) write(w io.Writer, scale float64, run func(probe string) (results, error)) {
	value, err := f.ours.read(run)
	if err != nil {
		fmt.Fprintf(w, "%-28s not measured: %v\n", f.name, err)
		return
	}
	must, judged := "-", "-"
	if f.atMost > 0 {
		limit := f.atMost
		if f.scaled {
			limit *= scale
		}
		must, judged = "<= "+number(limit), "ok"
		if value > limit {
			judged = "short"
		}
	}
	fmt.Fprintf(w, "%-28s %8s  %-24s %-12s %-6s", f.name, number(value), f.unit, must, judged)
	if f.upstr != (source{}) {
		theirs, err := f.upstr.read(run)
		if err != nil {
			fmt.Fprintf(w, "  upstream not measured: %v", err)
		} else {
			fmt.Fprintf(w, "  %s, ratio %.2f", number(theirs), value/theirs)
		}
	}
	fmt.Fprintln(w)
}

func (s source) read(run func(string) (results, error)) (float64, error) {
	r, err := run(s.probe)
	if err != nil {
		return 0, err
	}
	v, ok := r[s.key]
	if !ok {
		return 0, fmt.Errorf("probe %s has no result %q", s.probe, s.key)
	}
	return v, nil
}

// number prints three significant digits, and all digits before the point.
func number(v float64) string {
	if v >= 100 {
		return strconv.FormatFloat(v, 'f', 0, 64)
	}
	return strconv.FormatFloat(v, 'g', 3, 64)
}
