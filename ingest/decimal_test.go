package ingest

import (
	"math"
	"math/rand/v2"
	"strconv"
	"testing"
	"time"
)

// The short ways give what the long ones give, to the bit, or leave it to them.
func TestDecimals(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	r := rand.New(rand.NewPCG(seed, 0))
	texts := []string{"", "-", "0", "-0", "00", "01", "0.", ".5", "1.", "1..2", "1.2.3", "-.5", "0.1", "999999999999999", "9999999999999999", "0.000000000000001", "1e5", "+1", " 1", "12345678.12345678", "100000000000", "99999999999", "100000000000000", "99999999999999999", "100000000000000000", "999999999999999999"}
	for range 20_000 {
		b := make([]byte, 1+r.IntN(19))
		for i := range b {
			b[i] = "0123456789012345678901234567890.-e"[r.IntN(34)]
		}
		texts = append(texts, string(b), strconv.FormatFloat(r.Float64()*math.Pow(10, float64(r.IntN(12))), 'f', r.IntN(8), 64))
	}
	for _, text := range texts {
		want, err := strconv.ParseFloat(text, 64)
		wantOK := err == nil && isNumber(text)
		if got, ok := parseNumber([]byte(text)); ok != wantOK || ok && math.Float64bits(got) != math.Float64bits(want) {
			t.Errorf("seed %d: %q is %v %v, want %v %v", seed, text, got, ok, want, wantOK)
		}
		if got, ok := parseMillis([]byte(text)); ok {
			if want, wantOK := parseTimestamp(text); !wantOK || got != want {
				t.Errorf("seed %d: timestamp %q is %v, want %v %v", seed, text, got, want, wantOK)
			}
		}
	}
}
