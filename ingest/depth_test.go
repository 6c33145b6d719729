package ingest

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

// randomValue is a JSON value and how many objects and arrays it has inside each other.
func randomValue(r *rand.Rand, most int) (text string, depth int) {
	texts := []string{`"{[["`, `"\\"`, `"\"[["`, `"]}"`, "1", "null", "true"}
	if most == 0 || r.IntN(4) == 0 {
		return texts[r.IntN(len(texts))], 0
	}
	var parts []string
	object := r.IntN(2) == 0
	for i := range r.IntN(4) {
		value, d := randomValue(r, most-1)
		if depth = max(depth, d); object {
			value = fmt.Sprintf(`"{%d\"": %s`, i, value)
		}
		parts = append(parts, value)
	}
	if object {
		return "{" + strings.Join(parts, ", ") + "}", depth + 1
	}
	return "[" + strings.Join(parts, " ,") + "]", depth + 1
}

// An event is too deep where more brackets that are none of a text are open than its
// tenant allows, and only there.
func TestDepth(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	r := rand.New(rand.NewPCG(seed, 1))
	for range 20_000 {
		text, depth := randomValue(r, 8)
		for _, most := range []int{max(0, depth-1), depth, depth + 1} {
			if rejected := checkDepth([]byte(text), most); (rejected != nil) != (depth > most) {
				t.Fatalf("seed %d: %s is %d deep, of at most %d: %v", seed, text, depth, most, rejected)
			}
		}
	}
}
