package ingest

import "strconv"

// powersOfTen are exact as float64.
var powersOfTen = [...]float64{1, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15}

// digitsExact is the most digits of which every number is exact as a float64.
const digitsExact = 15

// parseNumber is the number that a text is by the grammar of JSON; ok is false where it
// is none. A decimal of up to digitsExact digits is the quotient of two exact floats,
// and so rounded as strconv rounds it (Clinger, 1990), in a fifth of the time.
func parseNumber(text []byte) (f float64, ok bool) {
	if f, ok = parseShort(text); ok {
		return f, true
	}
	if !isNumber(string(text)) {
		return 0, false
	}
	f, err := strconv.ParseFloat(string(text), 64)
	return f, err == nil
}

// parseShort is parseNumber for short decimals without exponent.
func parseShort(text []byte) (f float64, ok bool) {
	rest, negative := text, false
	if len(rest) > 0 && rest[0] == '-' {
		rest, negative = rest[1:], true
	}
	if len(rest) == 0 || len(rest) > digitsExact+1 || rest[0] == '0' && len(rest) > 1 && rest[1] != '.' {
		return 0, false
	}
	mantissa, digits, fraction, point := uint64(0), 0, 0, false
	for _, c := range rest {
		switch {
		case c-'0' < 10:
			mantissa = mantissa*10 + uint64(c-'0')
			digits++
			if point {
				fraction++
			}
		case c == '.' && !point && digits > 0:
			point = true
		default:
			return 0, false
		}
	}
	if digits > digitsExact || point && fraction == 0 {
		return 0, false
	}
	f = float64(mantissa) / powersOfTen[fraction]
	if negative {
		f = -f
	}
	return f, true
}

// parseMillis reads a timestamp of up to 16 digits alone, the usual one; ok is false
// for everything else, which parseTimestamp reads.
func parseMillis(text []byte) (ms int64, ok bool) {
	if len(text) == 0 || len(text) > 16 {
		return 0, false
	}
	for _, c := range text {
		if c-'0' >= 10 {
			return 0, false
		}
		ms = ms*10 + int64(c-'0')
	}
	switch { // as timestampUnits
	case ms < 1e11:
		return ms * 1000, true
	case ms < 1e14:
		return ms, true
	}
	return ms / 1000, true
}
