//go:build !race

package tsdb

const modelOpsDefault = 10_000
