package answer

import (
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/guptarohit/asciigraph"
	"github.com/prometheus/common/model"

	"github.com/quipudb/quipu/internal/client"
)

const (
	// plotSeriesMax is how many series a terminal can tell apart.
	plotSeriesMax = 10
	plotHeight    = 15
	// plotWidthMin is the least that leaves room for two times on the axis.
	plotWidthMin = 30
)

// ErrNoPlot says that a value is none that has a course over time.
var ErrNoPlot = errors.New("only a range of values can be plotted")

// Plot says how to draw.
type Plot struct {
	// Range are the instants that were asked for: they are the time axis, also
	// where series have no value.
	Range client.Range
	// Width of the terminal in columns; Height of the plot in lines, 0 for a
	// common one.
	Width, Height int
	Colors        bool
}

// colors are told apart on a dark and on a light background.
var colors = [plotSeriesMax]asciigraph.AnsiColor{
	asciigraph.DodgerBlue, asciigraph.OrangeRed, asciigraph.ForestGreen, asciigraph.MediumOrchid, asciigraph.DarkOrange,
	asciigraph.DarkCyan, asciigraph.Crimson, asciigraph.Goldenrod, asciigraph.SlateGray, asciigraph.HotPink,
}

// FprintPlot draws a matrix, at most ten series of it. Of native histograms it
// draws the count.
func FprintPlot(w io.Writer, v Value, p Plot) error {
	if v.Matrix == nil {
		return ErrNoPlot
	}
	if len(v.Matrix) == 0 {
		return line(w, "(no series)")
	}
	shown := v.Matrix[:min(len(v.Matrix), plotSeriesMax)]
	data := make([][]float64, len(shown))
	finite := false
	for i, s := range shown {
		var drawable bool
		data[i], drawable = p.course(s)
		finite = finite || drawable
	}
	if !finite {
		return line(w, "(no finite values)")
	}
	if _, err := io.WriteString(w, p.draw(data)+"\n"+p.legend(shown)); err != nil {
		return err
	}
	if more := len(v.Matrix) - len(shown); more > 0 {
		return line(w, fmt.Sprintf("and %d more series, which are not drawn", more))
	}
	return nil
}

// course puts the samples of a series on the steps of the range; a step without
// a finite sample is NaN, which leaves a gap.
func (p Plot) course(s *model.SampleStream) (values []float64, finite bool) {
	step := max(1, p.Range.Step.Milliseconds())
	start := p.Range.Start.UnixMilli()
	values = make([]float64, max(1, (p.Range.End.UnixMilli()-start)/step+1))
	for i := range values {
		values[i] = math.NaN()
	}
	set := func(at model.Time, f float64) {
		i := (int64(at) - start) / step
		if i < 0 || i >= int64(len(values)) || math.IsNaN(f) || math.IsInf(f, 0) {
			return
		}
		values[i], finite = f, true
	}
	for _, sample := range s.Values {
		set(sample.Timestamp, float64(sample.Value))
	}
	for _, sample := range s.Histograms {
		set(sample.Timestamp, float64(sample.Histogram.Count))
	}
	return values, finite
}

// columns stretches or squeezes a course to n columns. Stretched, a value fills
// the columns nearest to it, so that one alone shows; squeezed, a column shows
// the highest of its values, so that none goes under.
func columns(course []float64, n int) []float64 {
	out := make([]float64, n)
	for i := range out {
		if len(course) <= n {
			out[i] = course[(i*(len(course)-1)+(n-1)/2)/(n-1)]
			continue
		}
		out[i] = math.NaN()
		for _, f := range course[i*len(course)/n : (i+1)*len(course)/n] {
			if !math.IsNaN(f) && !(out[i] >= f) {
				out[i] = f
			}
		}
	}
	return out
}

func (p Plot) draw(data [][]float64) string {
	height := p.Height
	if height == 0 {
		height = plotHeight
	}
	axis, labelWidth := valueAxis(data, height), 0
	for _, course := range data {
		for _, f := range course {
			labelWidth = max(labelWidth, len(axis(f)))
		}
	}
	width := max(plotWidthMin, p.Width-labelWidth-6)
	for i := range data {
		data[i] = columns(data[i], width)
	}
	options := []asciigraph.Option{
		asciigraph.Height(height),
		asciigraph.YAxisValueFormatter(axis),
		asciigraph.XAxisRange(float64(p.Range.Start.UnixMilli()), float64(p.Range.End.UnixMilli())),
		asciigraph.XAxisTickCount(min(6, max(2, (p.Width-labelWidth)/20))),
		asciigraph.XAxisValueFormatter(p.timeAxis()),
	}
	if p.Colors {
		options = append(options, asciigraph.SeriesColors(colors[:len(data)]...))
	}
	return asciigraph.PlotMany(data, options...)
}

// valueAxis writes the values at the lines of a plot: integers as such, others
// with as many digits as tell two lines apart.
func valueAxis(data [][]float64, height int) func(float64) string {
	integers, lowest, highest := true, math.Inf(1), math.Inf(-1)
	for _, course := range data {
		for _, f := range course {
			if !math.IsNaN(f) {
				integers = integers && f == math.Trunc(f)
				lowest, highest = min(lowest, f), max(highest, f)
			}
		}
	}
	if integers {
		return func(f float64) string { return number(math.Round(f)) }
	}
	const digitsMin, digitsMax = 4, 17 // a float64 has no more
	digits := digitsMin
	if largest, line := max(-lowest, highest), (highest-lowest)/float64(height); line > 0 {
		digits = min(max(digits, 1+exponent(largest)-exponent(line)), digitsMax)
	}
	return func(f float64) string { return strconv.FormatFloat(f, 'g', digits, 64) }
}

// exponent is the power of ten of f's first digit.
func exponent(f float64) int { return int(math.Floor(math.Log10(f))) }

// timeAxis writes as much of a time as the range needs.
func (p Plot) timeAxis() func(float64) string {
	layout := "15:04:05"
	switch span := p.Range.End.Sub(p.Range.Start); {
	case span > 300*24*time.Hour:
		layout = "2006-01-02"
	case span > 20*time.Hour:
		layout = "02 Jan 15:04"
	case span > 10*time.Minute:
		layout = "15:04"
	}
	return func(millis float64) string { return time.UnixMilli(int64(millis)).UTC().Format(layout) }
}

// legend names the series, one a line, and the range that the axis abbreviates.
func (p Plot) legend(shown model.Matrix) string {
	text := &strings.Builder{}
	fmt.Fprintf(text, "%s to %s UTC, step %s\n", instant(model.Time(p.Range.Start.UnixMilli())), instant(model.Time(p.Range.End.UnixMilli())), model.Duration(p.Range.Step))
	if len(shown) == 1 && len(shown[0].Metric) == 0 {
		return text.String()
	}
	for i, s := range shown {
		box := "■"
		if p.Colors {
			box = colors[i].String() + box + asciigraph.Default.String()
		}
		fmt.Fprintf(text, "%s %s\n", box, printable(s.Metric.String()))
	}
	return text.String()
}
