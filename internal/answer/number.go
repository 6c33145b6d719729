package answer

import (
	"math"
	"strconv"
	"time"

	"github.com/prometheus/common/model"
)

// decimalMax bounds what is written without an exponent.
const decimalMax = 1e21

// number writes a value: integers in full (A2), others with the digits that
// they need; an exponent is for the very small and the very large.
func number(f float64) string {
	switch {
	case math.IsNaN(f):
		return "NaN"
	case math.IsInf(f, 0):
		return map[bool]string{true: "+Inf", false: "-Inf"}[f > 0]
	case math.Abs(f) >= decimalMax:
	case f == math.Trunc(f):
		return strconv.FormatFloat(f, 'f', 0, 64)
	case math.Abs(f) >= 1e-6:
		return strconv.FormatFloat(f, 'f', -1, 64)
	}
	return strconv.FormatFloat(f, 'g', -1, 64)
}

// histogram sums up a native histogram in one cell.
func histogram(h *model.SampleHistogram) string {
	count, sum := float64(h.Count), float64(h.Sum)
	text := "count " + number(count) + ", sum " + number(sum)
	if count > 0 {
		text += ", mean " + strconv.FormatFloat(sum/count, 'g', 6, 64)
	}
	return text
}

// instant writes a time in UTC, which is what the grid and the days are in.
func instant(t model.Time) string {
	layout := "2006-01-02 15:04:05"
	if int64(t)%1000 != 0 {
		layout += ".000"
	}
	return time.UnixMilli(int64(t)).UTC().Format(layout)
}
