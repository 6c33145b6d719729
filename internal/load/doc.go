// Package load sends events to a server at a given rate, and tells how the server
// took them and what that cost both sides.
//
//	options.go   what is sent, how much of it and how fast
//	field.go     fields of events, how many values each has and how they spread
//	batch.go     a request whose events become others in place
//	format.go    the formats of bodies, by name
//	format_*.go  one format each: the bytes of an event
//	connection.go  one connection: a request out, its answer in
//	answer.go    what an answer says became of the events
//	latency.go   times of answers, by how long they took
//	server.go    the server's own metrics
//	usage_*.go   CPU time of this process
//	run.go       a run: connections, schedule, count
//	report.go    what came of it, and how it is printed
//
// The generator shares a machine with the server that it measures, so it is built to
// cost a tenth of it: texts of a body have the same length for all values, and a batch
// becomes the next one by writing over its times, ids and values.
//
// Invariants:
//
//	I1: with a rate, a batch is due at a time that does not depend on any answer, and
//	    its latency counts from there: a server that stalls is charged for all
//	    that waited.
//	I2: the report is whole: every event that was sent is in an answer's verdicts, or
//	    in an answer that gave none, or was not answered. A sum that is not what was
//	    sent is an error.
//	I3: no two batches of a run are the same, nor two ids, but for those that are
//	    meant to be.
package load
