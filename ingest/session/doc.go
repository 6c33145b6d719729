// Package session puts events of one key, such as a user, that follow each other
// within a gap together to sessions, and counts those that have ended.
//
// A session is counted when no event can belong to it any more, so until then it is
// state: of each rule and hashed key some intervals of time, farther apart than the
// gap, with the number of events and the labels of the first. Merging an event or an
// interval into them is commutative and associative (labels are of the earliest event;
// of several of one time the least in the order of bytes), so that the order of events
// does not matter, nor in which batches they came.
//
// A Table is the state of one tenant, kept in step with storage's log: what a batch
// changes is bytes that are logged with it (Encode) and applied once they are (Apply);
// what is counted by now is a batch of increments and the removal of their sessions
// (Settle), logged and applied in the same way; and all of it can be saved and loaded.
//
// Files:
//   - rule.go: what a rule says, and the metrics that it makes
//   - codec.go: changes and whole states as bytes
//   - encode.go: the events of a batch as a change
//   - table.go: open sessions, and merging into them
//   - settle.go: sessions that have ended, as increments
//   - visitors.go: who had a session before
//   - metrics.go: the process's own metrics
//
// Invariants:
//
//	I1: what a change does to a table is a function of both, whatever the time is, so
//	    that a replay of the log has the same sessions. Only when sessions were touched
//	    is not kept: after a replay that is the time of the replay.
//	I2: the sessions of a rule and visitor are farther apart than the rule's gap, and in
//	    order, the latest first.
//	I3: a session is settled after all earlier ones of its rule and visitor.
//	I4: a visitor is known as a keyed hash alone.
package session
