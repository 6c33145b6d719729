// Package dedup remembers which events were counted, so that one which is sent again
// is not: exactly, across restarts, for a window of time, within a stated budget of
// memory and disk.
//
// An id is 128 bits of a hash over tenant and event id. The newest ids are in memory,
// in tables by the hour in which they were seen; when those are full, or the
// write-ahead log wants its segments back, they are written into one sorted file for
// each hour. A file is dropped whole when all of it is older than the window, or the
// oldest one when there are too many ids. A filter in memory tells for most ids that a
// file does not have them; where it cannot, the file is read: it alone decides.
//
// # Files
//
//	set.go      Set: reservations, memory, expiry
//	table.go    ids of one hour in memory
//	file.go     ids of one hour on disk: writing, merging, looking up
//	filter.go   the filter of a file
//
// # Invariants
//
//	I1: An id is in at least one place that a look-up visits, in the order memory,
//	    what is being written, files, from when it was settled until it expires.
//	I2: A batch reserves its ids in ascending order, so that two batches never wait
//	    for each other.
//	I3: A reservation is settled once: its ids then count as seen, or as never seen.
//
// # Lock order
//
//	Set.flushing, shard.mu. No file is read or written under shard.mu.
package dedup
