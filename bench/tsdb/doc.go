// Command tsdb measures the storage engine and prints one line a figure: its name,
// value and unit, what it must be, "ok" or "short", and Prometheus's own storage
// measured in the same run where the two can be compared. "make bench-tsdb" runs it.
// It is no test: it exits 0 whatever the figures are, and a figure that could not be
// measured says why.
//
// CPU time is user and system time of the whole process, goroutines of garbage
// collection and of the log included, with the log's fsync on. Time is wall time
// where a person waits for it.
//
// # Files
//
//	main.go        flags; the figures in their order
//	figure.go      what a figure must be, and its line
//	probe.go       measurements, each a process of its own
//	usage_*.go     CPU time and memory of this process
//	workload.go    series, batches and Poisson counts
//	stores.go      both storages as they are opened here
//	probe_*.go     the measurements by subject
//
// # Invariants
//
//	I1: A probe runs in a process and a directory of its own, so that no heap, page
//	    of files or background work of another is in its figure.
//	I2: Both storages get the same series, times and values. Prometheus gets them
//	    as running totals, with the series references that its scraper keeps
//	    unless a figure says otherwise, and without an fsync for each batch, which
//	    it does not do.
//	I3: Labels that are appended share no memory with those that storage keeps, as
//	    it is when each request is decoded: comparing them costs what it costs.
//	I4: Only what is outside a figure is done without fsync.
package main
