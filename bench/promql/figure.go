package main

import (
	"fmt"
	"io"
	"math"
)

// query is what is asked of a set of data.
type query struct {
	expr       string
	data       string
	span, step duration // 0: an instant, at the end of the data
	rules      bool     // a group of recording rules, evaluated once
	// overSamples and overIncrements are how many times less CPU than upstream a query
	// must take; 0: it is only reported.
	overSamples, overIncrements float64
}

// header names the columns of write.
const header = "query        storage     CPU s    of upstream   must be     judged  wall s   MiB    of upstream  must be   judged\n"

// write prints a line of what one storage took for a query, beside upstream's.
func write(w io.Writer, name, storage string, r, theirs *results, times float64) {
	fmt.Fprintf(w, "%-12s %-11s %-8.3g", name, storage, r.CPU)
	if theirs == nil {
		fmt.Fprintf(w, " %-13s %-11s %-7s %-8.3g %-6.0f\n", "-", "-", "-", r.Wall, r.MemoryMiB)
		return
	}
	must, judged := "-", "-"
	if times > 0 {
		must, judged = fmt.Sprintf("1/%g", times), "ok"
		if r.CPU*times > theirs.CPU {
			judged = "short"
		}
	}
	memory := "ok"
	if r.MemoryMiB > theirs.MemoryMiB/4 {
		memory = "short"
	}
	fmt.Fprintf(w, " %-13s %-11s %-7s %-8.3g %-6.0f %-12s %-9s %s", fmt.Sprintf("1/%.3g", theirs.CPU/r.CPU), must, judged, r.Wall, r.MemoryMiB,
		fmt.Sprintf("1/%.3g", theirs.MemoryMiB/r.MemoryMiB), "1/4", memory)
	if r.Values != theirs.Values || math.Abs(r.Sum-theirs.Sum) > 1e-9*math.Abs(theirs.Sum) {
		fmt.Fprintf(w, "  results differ: %d values, sum %g; upstream %d, %g", r.Values, r.Sum, theirs.Values, theirs.Sum)
	}
	fmt.Fprintln(w)
}
