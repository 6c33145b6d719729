// Command ingest measures how the server takes events, and prints one line a figure:
// its name, value and unit, what it must be, "ok" or "short". "make bench-ingest" runs
// it. It is no test: it exits 0 whatever the figures are, and a figure that could not
// be measured says why.
//
// It starts the real binary on a temporary directory, with the log's fsync on, and sends
// it events with the generator of "quipu bench events", which runs in this process on
// the same CPUs. CPU time of the server is what its own metrics say; it has its garbage
// collection, its fsyncs and its answers to /metrics in it.
//
// # Files
//
//	main.go     flags; the measurements in their order
//	figure.go   what a figure must be, and its line
//	server.go   a server on a directory of its own
//	posted.go   measurements of a server under load
//	alone.go    measurements of a part, in this process
//	machine.go  what the machine does beside: fsync, other processes
//
// # Invariants
//
//	I1: Each measurement of a server has a server and a directory of its own, and its
//	    events are warmed up with the same load: series exist, memory has its size.
//	I2: A run whose answers do not account for every event is no figure.
package main
