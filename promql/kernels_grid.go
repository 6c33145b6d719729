package promql

import "github.com/quipudb/quipu/internal/column"

// gridKernels compute functions from runs of increments without the samples between.
var gridKernels = map[string]kernel{}

// sparse reports whether the samples of c are many more than its increments.
func sparse(c *column.Column) bool {
	return false
}
