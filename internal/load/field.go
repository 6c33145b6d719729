package load

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
)

// Fields that are not in further_data or what a format calls its properties.
const (
	fieldEvent = "event"
	fieldUser  = "user_id"
)

// Field is a field of every event and how many values it has. The name "event" is the
// event's name, "user_id" its user.
type Field struct {
	Name   string
	Values int
	// Zipf makes the n-th most frequent value come up one n-th as often as the first;
	// else all are as frequent.
	Zipf bool
}

// valuesMax keeps values within the digits that they are written with.
const valuesMax = 100_000_000

// DefaultFields are those of the event that figures of ingestion are about: about 300
// bytes as a plain event.
func DefaultFields() []Field {
	return []Field{
		{Name: fieldEvent, Values: 1},
		{Name: fieldUser, Values: 200_000},
		{Name: "page", Values: 2000, Zipf: true},
		{Name: "country", Values: 30},
		{Name: "device", Values: 3},
	}
}

// ParseField reads a field as it is written: name=values, or name=values:zipf.
func ParseField(text string) (Field, error) {
	name, rest, ok := strings.Cut(text, "=")
	count, spread, spreads := strings.Cut(rest, ":")
	n, err := strconv.Atoi(count)
	if !ok || err != nil || spreads && spread != "zipf" && spread != "uniform" {
		return Field{}, fmt.Errorf("field %q is not of the form name=values or name=values:zipf, as page=2000:zipf", text)
	}
	f := Field{Name: name, Values: n, Zipf: spread == "zipf"}
	return f, f.check()
}

func (f Field) check() error {
	if f.Name == "" || strings.ContainsFunc(f.Name, func(r rune) bool {
		return r != '_' && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
	}) {
		return fmt.Errorf("field %q: a name has letters, digits and _", f.Name)
	}
	if f.Values < 1 || f.Values > valuesMax {
		return fmt.Errorf("field %s has %d values: it must be 1 to %d", f.Name, f.Values, valuesMax)
	}
	return nil
}

func checkFields(fields []Field) error {
	seen := map[string]bool{}
	for _, f := range fields {
		if err := f.check(); err != nil {
			return err
		}
		if seen[f.Name] || f.Name == "duration_ms" {
			return fmt.Errorf("field %s is there twice", f.Name)
		}
		seen[f.Name] = true
	}
	return nil
}

// values draws the texts of a field, all of one length.
type values struct {
	count  uint64
	prefix string
	digits int
	// Of a field whose values are not as frequent as each other: by value, up to where
	// a draw of 32 bits means it, and which other value it means else (Walker's
	// alias method, in Vose's form: https://www.keithschwarz.com/darts-dice-coins/).
	upTo  []uint32
	other []uint32
}

// newValues prepares drawing. Values look like those of the fields that people have.
func newValues(f Field) *values {
	v := &values{count: uint64(f.Values), digits: len(strconv.Itoa(f.Values - 1)), prefix: f.Name + "-"}
	switch f.Name {
	case fieldEvent:
		v.prefix = "page_view_"
	case fieldUser:
		v.prefix = "user-"
	case "page":
		v.prefix = "/docs/reference/"
	}
	if f.Zipf {
		weights := make([]float64, f.Values)
		for i := range weights {
			weights[i] = 1 / float64(i+1)
		}
		v.upTo, v.other = aliases(weights)
	}
	return v
}

// aliases makes the two tables of the alias method.
func aliases(weights []float64) (upTo, other []uint32) {
	n, sum := len(weights), 0.0
	for _, w := range weights {
		sum += w
	}
	scaled := make([]float64, n)
	var small, large []uint32
	for i, w := range weights {
		scaled[i] = w * float64(n) / sum
		if scaled[i] < 1 {
			small = append(small, uint32(i))
		} else {
			large = append(large, uint32(i))
		}
	}
	upTo, other = make([]uint32, n), make([]uint32, n)
	for len(small) > 0 && len(large) > 0 {
		s, l := small[len(small)-1], large[len(large)-1]
		small = small[:len(small)-1]
		upTo[s], other[s] = uint32(scaled[s]*(1<<32-1)), l
		if scaled[l] -= 1 - scaled[s]; scaled[l] < 1 {
			large = large[:len(large)-1]
			small = append(small, l)
		}
	}
	for _, i := range append(small, large...) { // 1, but for rounding
		upTo[i], other[i] = 1<<32-1, i
	}
	return upTo, other
}

// draw returns the number of a value.
func (v *values) draw(random *rand.PCG) uint64 {
	r := random.Uint64()
	at := (r >> 32) * v.count >> 32
	if v.upTo != nil && uint32(r) > v.upTo[at] {
		return uint64(v.other[at])
	}
	return at
}

// width is that of a value's text.
func (v *values) width() int { return len(v.prefix) + v.digits }

// put writes the digits of value n at the end of dst, whose prefix is there already.
func (v *values) put(dst []byte, n uint64) {
	putDecimal(dst[len(v.prefix):], n)
}

// putDecimal fills dst with the last digits of n.
func putDecimal(dst []byte, n uint64) {
	for i := len(dst) - 1; i >= 0; i-- {
		dst[i] = byte('0' + n%10)
		n /= 10
	}
}

// putHex fills dst with the last hexadecimal digits of n.
func putHex(dst []byte, n uint64) {
	for i := len(dst) - 1; i >= 0; i-- {
		dst[i] = "0123456789abcdef"[n&15]
		n >>= 4
	}
}
