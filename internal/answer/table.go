package answer

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/prometheus/common/model"
)

// FprintTable writes a value as columns: one for each label, then the times if
// there are several, then the values. A value without labels stands alone.
func FprintTable(w io.Writer, v Value) error {
	switch {
	case v.Scalar != nil:
		return line(w, number(float64(v.Scalar.Value)))
	case v.String != nil:
		return line(w, v.String.Value)
	case len(v.Vector) == 1 && len(v.Vector[0].Metric) == 0:
		return line(w, vectorCell(v.Vector[0])) // a sum: no columns to name
	case len(v.Matrix) > 0:
		return matrixTable(v.Matrix).fprint(w)
	case len(v.Vector) > 0:
		return vectorTable(v.Vector).fprint(w)
	}
	return line(w, "(no series)")
}

func line(w io.Writer, text string) error {
	_, err := fmt.Fprintln(w, text)
	return err
}

// table is rows of cells under a header; the last column is to the right.
type table struct {
	header []string
	rows   [][]string
}

func vectorTable(vector model.Vector) table {
	metrics := make([]model.Metric, len(vector))
	for i, s := range vector {
		metrics[i] = s.Metric
	}
	names := labelNames(metrics)
	t := table{header: append(headers(names), "value")}
	for _, s := range vector {
		t.rows = append(t.rows, append(labelCells(s.Metric, names), vectorCell(s)))
	}
	return t
}

func vectorCell(s *model.Sample) string {
	if s.Histogram != nil {
		return histogram(s.Histogram)
	}
	return number(float64(s.Value))
}

// matrixTable has a row for each sample of each series.
func matrixTable(matrix model.Matrix) table {
	metrics := make([]model.Metric, len(matrix))
	for i, s := range matrix {
		metrics[i] = s.Metric
	}
	names := labelNames(metrics)
	t := table{header: append(headers(names), "time", "value")}
	for _, s := range matrix {
		cells := labelCells(s.Metric, names)
		add := func(at model.Time, value string) {
			row := append(append([]string(nil), cells...), instant(at), value)
			t.rows = append(t.rows, row)
		}
		// Both lists are by time; a series that changed its kind has both.
		values, histograms := s.Values, s.Histograms
		for len(values) > 0 || len(histograms) > 0 {
			if len(histograms) == 0 || len(values) > 0 && values[0].Timestamp <= histograms[0].Timestamp {
				add(values[0].Timestamp, number(float64(values[0].Value)))
				values = values[1:]
				continue
			}
			add(histograms[0].Timestamp, histogram(histograms[0].Histogram))
			histograms = histograms[1:]
		}
	}
	return t
}

func headers(names []model.LabelName) []string {
	cells := make([]string, len(names))
	for i, name := range names {
		cells[i] = string(name)
		if name == model.MetricNameLabel {
			cells[i] = "metric"
		}
	}
	return cells
}

func labelCells(m model.Metric, names []model.LabelName) []string {
	cells := make([]string, len(names))
	for i, name := range names {
		cells[i] = printable(string(m[name]))
	}
	return cells
}

// printable keeps control characters, which clients can put into any label, from
// reaching the terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return utf8.RuneError
		}
		return r
	}, s)
}

func (t table) fprint(w io.Writer) error {
	widths := make([]int, len(t.header))
	rows := append([][]string{t.header}, t.rows...)
	for _, row := range rows {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	text := &strings.Builder{}
	for _, row := range rows {
		for i, cell := range row {
			fill := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell))
			if i == len(row)-1 {
				text.WriteString(fill + cell)
				break
			}
			text.WriteString(cell + fill + "  ")
		}
		text.WriteByte('\n')
	}
	_, err := io.WriteString(w, text.String())
	return err
}
