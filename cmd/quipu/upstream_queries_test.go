package main

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"time"
)

// asked is a generated query.
type asked struct {
	expr       string
	start, end int64 // milliseconds
	step       time.Duration
}

type queryWriter struct{ r *rand.Rand }

func oneOf[T any](r *rand.Rand, of ...T) T { return of[r.IntN(len(of))] }

func (w queryWriter) query() asked {
	q := asked{expr: w.expr(w.r.IntN(3))}
	q.start = twinStart + w.r.Int64N(twinSpan/1000)*1000
	q.end = q.start
	if w.r.IntN(3) > 0 {
		q.step = time.Duration(oneOf(w.r, 15, 15, 30, 47, 60, 300, 1200)) * time.Second
		q.end += int64(w.r.IntN(24)) * q.step.Milliseconds()
		if w.r.IntN(4) == 0 {
			q.end += w.r.Int64N(q.step.Milliseconds())
		}
	}
	return q
}

func (w queryWriter) expr(depth int) string {
	if depth == 0 {
		return w.vector()
	}
	a := w.expr(depth - 1)
	switch w.r.IntN(10) {
	case 0:
		return fmt.Sprintf(oneOf(w.r, "(%s) * 2", "-(%s)", "abs(%s)", "(%s) > 1", "sort(%s)", "absent(%s)", "scalar(%s)",
			`label_replace(%s, "x", "$1", "country", "(.*)")`, "timestamp(%s)"), a)
	case 1, 2:
		return fmt.Sprintf("(%s) %s (%s)", a, oneOf(w.r, "+", "/", "and", "or", "unless", "- on (country)", "* on (page, country)", "== bool"), w.vector())
	case 3:
		return w.subquery(a)
	case 4, 5:
		return w.ofHistogram(w.histogram())
	}
	return w.aggregate(a, false)
}

func (w queryWriter) subquery(a string) string {
	return fmt.Sprintf("%s((%s)[%s:%s]%s)", oneOf(w.r, "sum_over_time", "max_over_time", "rate", "last_over_time", "count_over_time"), a,
		oneOf(w.r, "3m", "10m", "25m"), oneOf(w.r, "", "15s", "1m", "4m"), w.modifiers(false))
}

// aggregate is an aggregation of a. Those that choose among equals by their order stand
// only where the engine does not leave it to its maps.
func (w queryWriter) aggregate(a string, ordered bool) string {
	by := oneOf(w.r, "", "", "by (country) ", "by (page) ", "by (country, page) ", "without (page) ", "by (__name__) ", "by (le) ", "without (le, country) ")
	kind := w.r.IntN(12)
	if !ordered && (kind < 2 || kind == 3) {
		kind = 4
	}
	switch kind {
	case 0:
		return fmt.Sprintf("topk %s(%d, %s)", by, w.r.IntN(5), a)
	case 1:
		return fmt.Sprintf("bottomk %s(%d, %s)", by, 1+w.r.IntN(3), a)
	case 2:
		return fmt.Sprintf("quantile %s(%s, %s)", by, oneOf(w.r, "0.5", "0", "0.99", "1", "-1", "2"), a)
	case 3:
		if w.r.IntN(2) == 0 {
			return fmt.Sprintf("limitk %s(2, %s)", by, a)
		}
		if strings.Contains(a, "(") { // it makes labels of numbers, whose last digits may differ
			a = fmt.Sprintf("round(%s, 0.000123457)", a)
		}
		return fmt.Sprintf("count_values %s(\"v\", %s)", by, a)
	}
	return fmt.Sprintf("%s %s(%s)", oneOf(w.r, "sum", "sum", "sum", "avg", "min", "max", "count", "group", "stddev", "stdvar"), by, a)
}

func (w queryWriter) name() string {
	return oneOf(w.r, "views_total", "views_total", "views_total", "clicks", "requests_total", "requests_total", "load", "temperature",
		"latency", "size", "size_bucket", "size_count", "size_sum", "native", "visitors")
}

func (w queryWriter) selector() string {
	switch w.r.IntN(12) {
	case 0:
		return fmt.Sprintf(`{__name__=~"%s|%s"}`, w.name(), w.name())
	case 1:
		return `nothing`
	case 2, 3, 4:
		return w.name() + oneOf(w.r, `{country="DE"}`, `{page!="/"}`, `{page=~"/a|/b"}`, `{country="PE",page="/a"}`)
	}
	return w.name()
}

func (w queryWriter) modifiers(inner bool) string {
	var b strings.Builder
	if inner {
		b.WriteString(oneOf(w.r, "", "", "", "", "", " anchored", " smoothed"))
	}
	switch w.r.IntN(12) {
	case 0:
		fmt.Fprintf(&b, " @ %d", (twinStart+w.r.Int64N(twinSpan))/1000)
	case 1:
		b.WriteString(oneOf(w.r, " @ start()", " @ end()"))
	}
	if w.r.IntN(4) == 0 {
		b.WriteString(" offset " + oneOf(w.r, "15s", "7s", "5m", "-1m", "1h"))
	}
	return b.String()
}

// vector is what can be computed directly, or nearly.
func (w queryWriter) vector() string {
	width := oneOf(w.r, "30s", "1m", "5m", "5m", "17m", "1h")
	sel := w.selector()
	var v string
	switch w.r.IntN(10) {
	case 0, 1, 2, 3, 4:
		v = fmt.Sprintf("%s(%s[%s]%s)", oneOf(w.r, "rate", "rate", "increase", "delta", "irate", "idelta", "changes", "resets"), sel, width, w.modifiers(true))
	case 5, 6:
		v = fmt.Sprintf("%s(%s[%s]%s)", oneOf(w.r, "sum_over_time", "avg_over_time", "min_over_time", "max_over_time", "count_over_time", "last_over_time",
			"first_over_time", "present_over_time", "stddev_over_time", "stdvar_over_time", "mad_over_time", "deriv", "absent_over_time"), sel, width, w.modifiers(w.r.IntN(20) == 0))
	case 7:
		v = fmt.Sprintf("%s%s[%s]%s)", oneOf(w.r, "quantile_over_time(0.9, ", "quantile_over_time(-0.5, "), sel, width, w.modifiers(false))
		if w.r.IntN(3) == 0 {
			v = fmt.Sprintf("predict_linear(%s[%s]%s, 600)", sel, width, w.modifiers(false))
		}
	default:
		v = sel + w.modifiers(false)
	}
	if w.r.IntN(3) > 0 {
		a := w.aggregate(v, true)
		if w.r.IntN(6) == 0 && strings.HasPrefix(a, "sum") {
			return w.aggregate(a, true)
		}
		return a
	}
	return v
}

// histogram is what the functions of histograms take.
func (w queryWriter) histogram() string {
	sel := oneOf(w.r, "latency", "size", "native", "size_bucket", "size_bucket", `size_bucket{country!="DE"}`, `{__name__=~"size|size_bucket"}`,
		`{__name__=~"latency|size_bucket"}`, `{__name__=~"size_bucket|requests_total"}`)
	of := sel + w.modifiers(false)
	if w.r.IntN(3) > 0 {
		f := oneOf(w.r, "rate", "rate", "rate", "increase", "delta", "idelta", "last_over_time", "sum_over_time")
		of = fmt.Sprintf("%s(%s[%s]%s)", f, sel, oneOf(w.r, "2m", "5m", "20m"), w.modifiers(f == "increase"))
	}
	if w.r.IntN(4) == 0 {
		return of
	}
	return fmt.Sprintf("%s %s (%s)", oneOf(w.r, "sum", "sum", "sum", "avg", "max", "stddev", "count"), oneOf(w.r, "by (le)", "by (le)", "by (le, page)", "by (country)", "without (page)", ""), of)
}

// ofHistogram is a function of histograms.
func (w queryWriter) ofHistogram(of string) string {
	q := func() string { return oneOf(w.r, "0.5", "0.9", "0.9", "0", "1", "-1", "2", "NaN") }
	f := oneOf(w.r, "quantile", "quantile", "quantile", "quantiles", "fraction", "count", "sum", "avg", "stddev", "stdvar")
	switch f {
	case "quantile":
		return fmt.Sprintf("histogram_quantile(%s, %s)", q(), of)
	case "quantiles":
		return fmt.Sprintf("histogram_quantiles(%s, %q, %s, %s)", of, oneOf(w.r, "q", "q", "page"), q(), q())
	case "fraction":
		return fmt.Sprintf("histogram_fraction(%s, %s, %s)", oneOf(w.r, "0", "-Inf", "0.2", "NaN"), oneOf(w.r, "1", "0.5", "+Inf", "-1"), of)
	}
	return fmt.Sprintf("histogram_%s(%s)", f, of)
}
