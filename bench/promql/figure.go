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
	// again names a query that is asked once more one step later; times are then less than
	// that took.
	again string
}

// header names the columns of write.
const header = "query        storage     CPU s    of upstream   must be     judged  wall s   MiB    of upstream  must be   judged\n"

// write prints a line of what one storage took for a query, beside upstream's or, of a
// query that was asked again, beside the first time's.
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
	memory, ofTheirs, mustMemory := "ok", fmt.Sprintf("1/%.3g", theirs.MemoryMiB/r.MemoryMiB), "1/4"
	switch {
	case theirs.MemoryMiB == 0: // of the first time
		memory, ofTheirs, mustMemory = "-", "-", "-"
	case r.MemoryMiB > theirs.MemoryMiB/4:
		memory = "short"
	}
	fmt.Fprintf(w, " %-13s %-11s %-7s %-8.3g %-6.0f %-12s %-9s %s", fmt.Sprintf("1/%.3g", theirs.CPU/r.CPU), must, judged, r.Wall, r.MemoryMiB,
		ofTheirs, mustMemory, memory)
	if r.Values != theirs.Values || math.Abs(r.Sum-theirs.Sum) > 1e-9*math.Abs(theirs.Sum) {
		fmt.Fprintf(w, "  results differ: %d values, sum %g; upstream %d, %g", r.Values, r.Sum, theirs.Values, theirs.Sum)
	}
	fmt.Fprintln(w)
}
