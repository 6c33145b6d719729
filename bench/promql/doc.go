// Command promql measures queries and prints one line a figure: CPU time and memory of
// a query over Prometheus samples and over increments in our storage, and of upstream's
// engine over upstream's storage in the same run, over the same data. "make
// bench-promql" runs it. It is no test: it exits 0 whatever the figures are.
//
// CPU time is user and system time of the whole process, collection of garbage
// included: the median of three runs of the query after one that is not counted. Memory
// is the most that the heap held while that first one ran, less what it held before.
//
// # Files
//
//	main.go     flags; the figures in their order
//	figure.go   what a figure must be, and its line
//	data.go     what the series are
//	fill.go     the data into each storage
//	measure.go  one query in a process of its own
//	rules.go    groups of rules, ours beside upstream's
//	usage_*.go  CPU time of this process
//
// # Invariants
//
//	I1: A directory is filled by one process; each query is measured in one of its own.
//	I2: Both storages have the same series, times and values: increments show as the
//	    totals that the others hold as samples.
//	I3: Ours is in blocks, as data is after two hours; upstream's is in its head with
//	    chunks in memory, the fastest that it has.
package main
