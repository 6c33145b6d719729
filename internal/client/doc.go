// Package client talks HTTP to a Quipu server.
//
//	client.go   the server's address, credentials, one request, its errors
//	retry.go    which errors pass, and how long to wait for that
//	events.go   posting a batch of events
//	query.go    asking PromQL
//	rules.go    groups of recording and alerting rules
//	keys.go     API keys
//	tenants.go  tenants, and the data of answers in JSON
//	stored.go   what is deleted, and snapshots
//
// Invariants:
//
//	C1: a request is sent as often as its method is called; only Retry repeats,
//	    and only errors that Passes accepts.
//	C2: an answer that does not account for every event of a batch is an error.
package client
