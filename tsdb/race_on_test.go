//go:build race

package tsdb

// modelOpsDefault is fewer with the race detector, which takes five times as long:
// "make test-model" runs the whole without it.
const modelOpsDefault = 600
