//go:build !race

package main

const upstreamQueriesDefault = 20_000
