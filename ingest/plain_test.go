package ingest

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// sameAsParse fails where the fast way takes an event for another than the parser.
func sameAsParse(t *testing.T, rules *ruleset, raw []byte) {
	t.Helper()
	fast, slow := newPlain(), newPlain()
	fast.begin(rules, newMemory().profile, present)
	slow.begin(rules, newMemory().profile, present)
	for _, after := range []string{"", `,{"event":"next"}]`, " ]"} {
		element := append(bytes.TrimLeft(raw, space), after...)
		if n, want := fast.elementLen(element), valueLen(element); n != want {
			t.Errorf("%q is an element of %d bytes, by brackets and quotes of %d", element, n, want)
		}
	}
	fast.ahead = nil
	if !fast.scan(raw) {
		return
	}
	if r := slow.parsePlain(raw); r != nil {
		t.Fatalf("%q is scanned, but %s", raw, r.text)
	}
	if a, b := fast.finish(), slow.finish(); (a == nil) != (b == nil) || fast.hasTrace != slow.hasTrace {
		t.Errorf("%q: rejected %v, parsed %v; exemplars %v, parsed %v", raw, a, b, fast.hasTrace, slow.hasTrace)
	}
	for i := range fast.fields {
		f, s := fast.fields[i], slow.fields[i]
		if f.kind != s.kind || i != slotFurtherData && !bytes.Equal(f.text, s.text) {
			t.Errorf("%q: %s is %v, parsed %v", raw, rules.paths[i], &f, &s)
		}
	}
	if a, b := fmt.Sprintf("%v", fast.numbers), fmt.Sprintf("%v", slow.numbers); a != b {
		t.Errorf("%q: numbers %s, parsed %s", raw, a, b)
	}
}

// Events are what the parser makes of them, also where bytes of them are damaged.
func TestScanEqualsParse(t *testing.T) {
	rules, err := parseRules("default", DefaultRules)
	if err != nil {
		t.Fatal(err)
	}
	dotted, err := parseRules("dotted", []byte(`metrics: [{name: a, type: counter, labels: {x: n1.0, y: page.event, z: event.event}}]`))
	if err != nil {
		t.Fatal(err)
	}
	var events []string
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		src, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(src)) {
			if strings.HasPrefix(line, "{\"") || strings.HasPrefix(line, "{}") {
				events = append(events, strings.TrimSpace(line))
			}
		}
	}
	seed := uint64(time.Now().UnixNano())
	r := rand.New(rand.NewPCG(seed, 0))
	for range 300 {
		text, _ := randomEvent(r)
		events = append(events, text)
	}
	t.Logf("seed %d", seed)
	for _, e := range events {
		for _, rules := range []*ruleset{rules, dotted} {
			sameAsParse(t, rules, []byte(e))
		}
		for range 200 {
			b := []byte(e)
			for range 1 + r.IntN(2) {
				at := r.IntN(len(b))
				c := "{}[]\":,\\ 0-.eEtfn\x00\xff"[r.IntN(18)]
				switch r.IntN(3) {
				case 0:
					b[at] = c
				case 1:
					b = slices.Insert(b, at, c)
				case 2:
					if b = slices.Delete(b, at, at+1); len(b) == 0 {
						b = []byte("{}")
					}
				}
			}
			sameAsParse(t, rules, b)
			sameAsParse(t, dotted, b)
		}
	}
}
