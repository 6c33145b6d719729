//go:build race

package tsdb

// With the race detector, which takes five times as long, there is less of what one
// goroutine does alone: "make test-model" runs the whole without it.
const (
	modelOpsDefault = 600
	sweepEvery      = 5 // states that crashes leave
	seedsOf         = 4 // one of so many seeds
)
