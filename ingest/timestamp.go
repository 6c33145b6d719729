package ingest

import (
	"math"
	"strconv"
	"strings"
	"time"
)

// timestampUnits tell seconds, milliseconds, microseconds and nanoseconds since
// 1970 apart by magnitude: as seconds, 1e11 is the year 5138; as milliseconds it
// is 1973, and so on by factors of a thousand.
var timestampUnits = [...]struct {
	below float64 // the unit of numbers below this
	mul   int64   // milliseconds in a unit, or
	div   int64   // units in a millisecond
}{
	{below: 1e11, mul: 1000, div: 1},
	{below: 1e14, mul: 1, div: 1},
	{below: 1e17, mul: 1, div: 1000},
	{below: math.Inf(1), mul: 1, div: 1e6},
}

// dateLayouts are the written forms; one without a zone is UTC. Parsing accepts
// fractions of a second in both.
var dateLayouts = [...]string{time.RFC3339, time.DateTime}

// parseTimestamp returns the milliseconds since 1970, rounded down, that a JSON
// number or the text of a JSON string means; ok is false where it means none.
func parseTimestamp(text string) (ms int64, ok bool) {
	if ms, ok = decimalMillis(text); ok {
		return ms, true
	}
	if isNumber(text) {
		f, err := strconv.ParseFloat(text, 64)
		if err != nil && !math.IsInf(f, 0) {
			return 0, false
		}
		return floatMillis(f), true
	}
	for _, layout := range dateLayouts {
		if t, err := time.Parse(layout, text); err == nil {
			return t.UnixMilli(), true
		}
	}
	return 0, false
}

// decimalMillis reads the common form, digits and a fraction, in integers: a
// float64 cannot hold nanoseconds, and would move an event at the edge of a
// window into the next one.
func decimalMillis(text string) (ms int64, ok bool) {
	whole, fraction, hasPoint := strings.Cut(text, ".")
	if whole == "" || len(whole) > 19 || hasPoint && fraction == "" || !digits(whole) || !digits(fraction) {
		return 0, false
	}
	n, err := strconv.ParseInt(whole, 10, 64)
	if err != nil {
		return 0, false
	}
	for _, u := range timestampUnits {
		if float64(n) >= u.below {
			continue
		}
		ms = n * u.mul / u.div
		if u.mul == 1000 {
			thousandths, err := strconv.Atoi((fraction + "000")[:3])
			if err != nil {
				return 0, false
			}
			ms += int64(thousandths)
		}
		return ms, true
	}
	return 0, false
}

// floatMillis is for what decimalMillis leaves: signs, exponents and more digits.
func floatMillis(f float64) int64 {
	for _, u := range timestampUnits {
		if math.Abs(f) >= u.below {
			continue
		}
		if ms := math.Floor(f * float64(u.mul) / float64(u.div)); math.Abs(ms) < math.MaxInt64 {
			return int64(ms)
		}
	}
	if f < 0 {
		return math.MinInt64
	}
	return math.MaxInt64
}

func digits(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return true
}

// isNumber reports whether s is a number by the grammar of JSON (RFC 8259,
// section 6). The JSON parser is more lenient: it takes NaN, Inf and 1-2.
func isNumber(s string) bool {
	s = strings.TrimPrefix(s, "-")
	n := digitsLen(s)
	if n == 0 || n > 1 && s[0] == '0' {
		return false
	}
	s = s[n:]
	if strings.HasPrefix(s, ".") {
		if n = digitsLen(s[1:]); n == 0 {
			return false
		}
		s = s[1+n:]
	}
	if s == "" {
		return true
	}
	if s[0] != 'e' && s[0] != 'E' {
		return false
	}
	s = s[1:]
	if s != "" && (s[0] == '+' || s[0] == '-') {
		s = s[1:]
	}
	return s != "" && digits(s)
}

func digitsLen(s string) int {
	n := 0
	for n < len(s) && s[n] >= '0' && s[n] <= '9' {
		n++
	}
	return n
}
