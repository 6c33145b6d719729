//go:build race

package main

// upstreamQueriesDefault is fewer with the race detector, which takes many times as
// long: "make test-upstream" asks all without it.
const upstreamQueriesDefault = 1000
