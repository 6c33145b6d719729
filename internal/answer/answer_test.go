package answer

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"

	"github.com/quipudb/quipu/internal/client"
)

var update = flag.Bool("update", false, "rewrite the expected output in testdata")

// plotted is the range that the matrices of testdata were asked for.
var plotted = Plot{
	Range: client.Range{Start: time.Unix(1431860400, 0), End: time.Unix(1431860400+4*3600, 0), Step: time.Hour},
	Width: 70, Height: 8,
}

func decodeFile(t *testing.T, path string) Value {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var data struct {
		ResultType string          `json:"resultType"`
		Result     json.RawMessage `json:"result"`
	}
	if err := json.Unmarshal(content, &data); err != nil {
		t.Fatal(err)
	}
	v, err := Decode(client.Answer{Type: data.ResultType, Result: data.Result})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// TestGolden shows every answer of testdata as a table, and as a plot if it has
// one; -update rewrites what is expected.
func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("no answers in testdata: %v", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			v := decodeFile(t, file)
			var out bytes.Buffer
			if err := FprintTable(&out, v); err != nil {
				t.Fatal(err)
			}
			golden(t, strings.TrimSuffix(file, ".json")+".table", out.Bytes())
			if v.Matrix == nil {
				return
			}
			out.Reset()
			if err := FprintPlot(&out, v, plotted); err != nil {
				t.Fatal(err)
			}
			golden(t, strings.TrimSuffix(file, ".json")+".plot", out.Bytes())
		})
	}
}

func golden(t *testing.T, file string, got []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s\n got:\n%s\nwant:\n%s", file, got, want)
	}
}

func TestOnlyARangeCanBePlotted(t *testing.T) {
	v := decodeFile(t, "testdata/topk.json")
	if err := FprintPlot(&bytes.Buffer{}, v, plotted); !errors.Is(err, ErrNoPlot) {
		t.Errorf("error %v, want %v", err, ErrNoPlot)
	}
}

func TestPlotColorsLegendAndLinesAlike(t *testing.T) {
	var out bytes.Buffer
	p := plotted
	p.Colors = true
	if err := FprintPlot(&out, decodeFile(t, "testdata/many_series.json"), p); err != nil {
		t.Fatal(err)
	}
	for i, c := range colors {
		if n := strings.Count(out.String(), c.String()); n < 2 {
			t.Errorf("color %d is used %d times, want it in the plot and in the legend", i, n)
		}
	}
}

// Lines of a plot that stand for different values have different labels.
func TestValueAxisTellsLinesApart(t *testing.T) {
	for _, course := range [][]float64{
		{12345.1, 12345.9}, {1e9 + 0.5, 1e9 + 2}, {-0.000123456, -0.000123457}, {0.5, 1e6}, {1e300, 1.0001e300},
	} {
		const height = 15
		axis := valueAxis([][]float64{course}, height)
		last := ""
		for line := range height + 1 {
			label := axis(course[0] + (course[1]-course[0])*float64(line)/height)
			if label == last {
				t.Errorf("between %g and %g two lines are at %s", course[0], course[1], label)
			}
			last = label
		}
	}
	for f, want := range map[float64]string{0.5: "0.5", 2.0 / 3: "0.6667", 12.3456: "12.35"} {
		if got := valueAxis([][]float64{{f}}, 15)(f); got != want {
			t.Errorf("a course of one value is at %s, want %s", got, want)
		}
	}
}

func TestColumns(t *testing.T) {
	nan := math.NaN()
	for _, tc := range []struct {
		name   string
		course []float64
		n      int
		want   []float64
	}{
		{"one value fills all", []float64{7}, 3, []float64{7, 7, 7}},
		{"as many as columns", []float64{1, 2, 3}, 3, []float64{1, 2, 3}},
		{"stretched, a value alone shows", []float64{nan, 5, nan}, 6, []float64{nan, nan, 5, 5, nan, nan}},
		{"squeezed, the highest shows", []float64{1, 9, 2, nan, nan, nan, -3, -8}, 4, []float64{9, 2, nan, -3}},
	} {
		got := columns(tc.course, tc.n)
		same := slices.EqualFunc(got, tc.want, func(a, b float64) bool { return a == b || math.IsNaN(a) && math.IsNaN(b) })
		if !same {
			t.Errorf("%s: columns(%v, %d) = %v, want %v", tc.name, tc.course, tc.n, got, tc.want)
		}
	}
}

func TestNumber(t *testing.T) {
	for _, tc := range []struct {
		f    float64
		want string
	}{
		{0, "0"}, {10000, "10000"}, {1e6, "1000000"}, {-12345678901, "-12345678901"}, {1 << 60, "1152921504606846976"},
		{0.25, "0.25"}, {1234567.5, "1234567.5"}, {0.000001, "0.000001"}, {3.5e-9, "3.5e-09"},
		{math.Inf(1), "+Inf"}, {math.Inf(-1), "-Inf"}, {math.NaN(), "NaN"},
	} {
		if got := number(tc.f); got != tc.want {
			t.Errorf("number(%g) = %s, want %s", tc.f, got, tc.want)
		}
	}
}

func TestDecodeRefusesWhatItDoesNotKnow(t *testing.T) {
	for _, a := range []client.Answer{
		{Type: "streams", Result: []byte(`[]`)},
		{Type: "vector", Result: []byte(`{"metric":1}`)},
		{Type: "scalar", Result: []byte(`"3"`)},
	} {
		if v, err := Decode(a); err == nil {
			t.Errorf("Decode(%s %s) = %+v", a.Type, a.Result, v)
		}
	}
}

func TestLabelNamesBeginWithTheMetric(t *testing.T) {
	got := labelNames([]model.Metric{{"b": "1", "__name__": "x"}, {"a": "1", "Z": "2"}})
	if want := []model.LabelName{"__name__", "Z", "a", "b"}; !slices.Equal(got, want) {
		t.Errorf("names %v, want %v", got, want)
	}
}
