//go:build !race

package tsdb

const (
	modelOpsDefault = 10_000
	sweepEvery      = 1
	seedsOf         = 1
)
