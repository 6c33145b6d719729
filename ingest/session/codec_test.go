package session

import (
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write the golden file")

// The three forms have the bytes that data directories have.
func TestFormatsGolden(t *testing.T) {
	w := newWorld(t, Options{})
	events := encode([]seen{{siteRule, 1, start, "/"}, {siteRule, 1, start + 5000, "/a"}, {shopRule, 2, start + 70_000, "/cart"}})
	w.apply(events)
	w.now += 3 * gap
	b := w.Settle(w.now, grid)
	w.apply(b.State)
	w.apply(encode([]seen{{siteRule, 1, start + 3*gap, "/"}}))
	for hash := range w.visitors.seen {
		if hash != 1 {
			delete(w.visitors.seen, hash) // they are in no order
		}
	}
	var out strings.Builder
	for _, form := range []struct {
		name string
		of   []byte
	}{{"events", events}, {"settled", b.State}, {"state", w.Save()}} {
		fmt.Fprintf(&out, "%s %s\n", form.name, hex.EncodeToString(form.of))
		if err := Check(form.of); err != nil {
			t.Errorf("%s: %v", form.name, err)
		}
	}
	const name = "testdata/formats.golden"
	if *update {
		if err := os.WriteFile(name, []byte(out.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil || out.String() != string(want) {
		t.Errorf("have\n%swant\n%s%v", &out, want, err)
	}
}

// Whatever bytes are read: they are refused, and nothing changes, or what they make is
// saved and loaded, and counted in the end.
func FuzzChange(f *testing.F) {
	f.Add(encode([]seen{{siteRule, 1, start, "/"}, {shopRule, 2, start, "/a"}}))
	w := newWorld(new(testing.T), Options{})
	w.apply(encode([]seen{{siteRule, 1, start, "/"}, {shopRule, 2, start, "/a"}}))
	w.now += 3 * gap
	b := w.Settle(w.now, grid)
	f.Add(b.State)
	w.apply(b.State)
	w.apply(encode([]seen{{siteRule, 1, start + 2*gap, "/"}, {siteRule, 1, start + 5*gap, "/"}}))
	saved := w.Save()
	f.Add(saved)
	f.Fuzz(func(t *testing.T, src []byte) {
		w := newWorld(t, Options{})
		w.apply(encode([]seen{{siteRule, 1, start, "/"}, {siteRule, 1, start + 2*gap, "/a"}}))
		before := describe(t, w.Save())
		if err := w.Apply(src); err != nil {
			if got := describe(t, w.Save()); got != before {
				t.Fatalf("%x is refused and changes\n%s\nto\n%s", src, before, got)
			}
			if w.Load(src) != nil {
				return
			}
		}
		w.reload()
		w.now = timeMax + 100*GapMax.Milliseconds()
		w.settle()
		if n := w.Open(); n != 0 {
			t.Fatalf("%d sessions are open at the end", n)
		}
	})
}

func BenchmarkEncodeAndApply(b *testing.B) {
	const each = 1000
	var labels []Labels
	for i := range 100 {
		labels = append(labels, Labels{siteRule, values(fmt.Sprint("/page/", i))})
	}
	t := NewTable(Options{})
	var e Encoder
	events := make([]Event, each)
	for i := 0; b.Loop(); i++ {
		for j := range events {
			n := uint64(i*each + j)
			events[j] = Event{n * 0x9e3779b97f4a7c15 >> 44, start + int64(i)*1000, int32(n % 100)} // of a million visitors
		}
		if err := t.Apply(e.Encode(labels, events)); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/each, "ns/event")
}

// What appends wait for where a million sessions are open and a million visitors known:
// the state is saved, looked through for what is due, and some of it counted.
func BenchmarkFullTable(b *testing.B) {
	now := start
	t := NewTable(Options{Now: func() time.Time { return time.UnixMilli(now) }})
	var batch []seen
	for i := range uint64(OpenMax) {
		batch = append(batch, seen{siteRule, i * 0x9e3779b97f4a7c15, start, "/"})
		t.visitors.saw(i*0x9e3779b97f4a7c15, start, start)
	}
	if err := t.Apply(encode(batch)); err != nil {
		b.Fatal(err)
	}
	b.Run("Save", func(b *testing.B) {
		for b.Loop() {
			b.SetBytes(int64(len(t.Save())))
		}
	})
	b.Run("Due", func(b *testing.B) {
		for b.Loop() {
			if t.Due(now) {
				b.Fatal("due")
			}
		}
	})
	b.Run("Settle", func(b *testing.B) {
		for b.Loop() {
			if t.Settle(now+10*gap, grid) == nil {
				b.Fatal("nothing is due")
			}
		}
	})
}
