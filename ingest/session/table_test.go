package session

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"

	"github.com/quipudb/quipu/internal/increment"
)

const (
	gap  = int64(30 * 60 * 1000)
	grid = 15_000
)

var (
	start    = time.Date(2026, 3, 4, 15, 0, 0, 0, time.UTC).UnixMilli()
	siteRule = &Rule{Name: "site", Gap: 30 * time.Minute, Labels: []string{"page"}}
	shopRule = &Rule{Name: "shop", Gap: time.Minute, Labels: []string{"page"}, Bounds: []float64{5, 10}}
)

// seen is an event of a test.
type seen struct {
	rule    *Rule
	visitor uint64
	at      int64
	page    string
}

func values(page string) string {
	return string(append(binary.AppendUvarint(nil, uint64(len(page))), page...))
}

// encode is the change of a batch.
func encode(events []seen) []byte {
	var labels []Labels
	var out []Event
	for _, e := range events {
		l := Labels{e.rule, values(e.page)}
		at := slices.Index(labels, l)
		if at < 0 {
			at = len(labels)
			labels = append(labels, l)
		}
		out = append(out, Event{e.visitor, e.at, int32(at)})
	}
	var e Encoder
	return e.Encode(labels, out)
}

// world is a table and a clock.
type world struct {
	t   *testing.T
	now int64
	o   Options
	*Table
	counted map[string]float64
}

func newWorld(t *testing.T, o Options) *world {
	w := &world{t: t, now: start, counted: map[string]float64{}}
	o.Now = func() time.Time { return time.UnixMilli(w.now) }
	w.o, w.Table = o, NewTable(o)
	return w
}

func (w *world) apply(change []byte) {
	w.t.Helper()
	if len(change) == 0 {
		return
	}
	if err := w.Apply(change); err != nil {
		w.t.Fatal(err)
	}
}

// reload goes on with another table that has what this one saved.
func (w *world) reload() {
	w.t.Helper()
	saved := w.Save()
	next := NewTable(w.o)
	if err := next.Load(saved); err != nil {
		w.t.Fatal(err)
	}
	if got, want := describe(w.t, next.Save()), describe(w.t, saved); got != want {
		w.t.Fatalf("loaded\n%s\nwant\n%s", got, want)
	}
	w.Table = next
}

// settle counts all that is due.
func (w *world) settle() {
	w.t.Helper()
	for {
		due := w.Due(w.now)
		b := w.Settle(w.now, grid)
		if due != (b != nil) {
			w.t.Fatalf("due %v, and %v is settled", due, b)
		}
		if b == nil {
			return
		}
		addCounted(w.t, w.counted, b.Increments)
		w.apply(b.State)
	}
}

func addCounted(t *testing.T, to map[string]float64, incs []increment.Increment) {
	t.Helper()
	for i := range incs {
		inc := &incs[i]
		if err := inc.Validate(grid); err != nil {
			t.Fatal(err)
		}
		at := fmt.Sprintf("%s %d", inc.Labels, inc.Time-start)
		if inc.Hist == nil {
			to[at] += inc.Value
			continue
		}
		to[at+" sum"] += inc.Hist.Sum
		for _, b := range inc.Hist.Pos {
			bound := "+Inf"
			if int(b.Index) < len(inc.Hist.Bounds) {
				bound = fmt.Sprint(inc.Hist.Bounds[b.Index])
			}
			to[at+" "+bound] += float64(b.Count)
		}
	}
}

// recount is what the events are to be counted as, done in the plainest way.
func recount(t *testing.T, events []seen) map[string]float64 {
	out := map[string]float64{}
	events = slices.Clone(events)
	slices.SortFunc(events, func(a, b seen) int {
		return cmp.Or(strings.Compare(a.rule.Name, b.rule.Name), cmp.Compare(a.visitor, b.visitor), cmp.Compare(a.at, b.at), strings.Compare(values(a.page), values(b.page)))
	})
	known := ""
	for len(events) > 0 {
		first, n := events[0], 1
		for n < len(events) && events[n].rule == first.rule && events[n].visitor == first.visitor && events[n].at-events[n-1].at <= first.rule.Gap.Milliseconds() {
			n++
		}
		who := fmt.Sprint(first.rule.Name, first.visitor)
		visitor := "new"
		if who == known {
			visitor = "returning"
		}
		known = who
		win := first.at/grid*grid - start
		at := func(metric, more string) string {
			return fmt.Sprintf(`{__name__="%s_%s", page="%s"%s} %d`, first.rule.Name, metric, first.page, more, win)
		}
		seconds := float64(events[n-1].at-first.at) / 1000
		out[at("sessions_total", `, visitor="`+visitor+`"`)]++
		out[at("session_seconds", "")+" sum"] += seconds
		out[at("session_events", "")+" sum"] += float64(n)
		bounds := secondsBounds
		if first.rule.Bounds != nil {
			bounds = first.rule.Bounds
		}
		out[at("session_seconds", "")+" "+upTo(bounds, seconds)]++
		out[at("session_events", "")+" "+upTo(eventsBounds, float64(n))]++
		if n == 1 {
			out[at("bounces_total", "")]++
		}
		events = events[n:]
	}
	return out
}

func upTo(bounds []float64, v float64) string {
	for _, b := range bounds {
		if v <= b {
			return fmt.Sprint(b)
		}
	}
	return "+Inf"
}

func mustBe(t *testing.T, got, want map[string]float64) {
	t.Helper()
	for k, v := range want {
		if d := got[k] - v; d > 1e-6 || d < -1e-6 {
			t.Errorf("%s: %v, want %v", k, got[k], v)
		}
	}
	for k, v := range got {
		if _, ok := want[k]; !ok && v != 0 {
			t.Errorf("%s: %v, want none", k, v)
		}
	}
}

// describe is a state as text, in an order of its own.
func describe(t *testing.T, saved []byte) string {
	t.Helper()
	if saved == nil {
		return ""
	}
	c, err := decodeChange(saved)
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, p := range c.parts {
		l := c.labels[p.of]
		lines = append(lines, fmt.Sprintf("%+v %q %d: %d to %d, %d events", *c.rules[l.rule], l.values, p.visitor, p.first, p.last, p.events))
	}
	for _, v := range c.visitors {
		lines = append(lines, fmt.Sprintf("visitor %+v", v))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func randomEvents(r *rand.Rand, n int) []seen {
	var out []seen
	at := start
	for range n {
		at += r.Int64N(gap / 4)
		e := seen{siteRule, r.Uint64N(6), at / 1000 * 1000, fmt.Sprint("/", r.IntN(3))}
		if r.IntN(3) == 0 {
			e.rule, e.visitor = shopRule, 100+e.visitor // hashes are apart for each rule
		}
		out = append(out, e)
		for r.IntN(2) == 0 { // some at the same time, and soon after
			e.at += r.Int64N(40) * 1000
			e.page = fmt.Sprint("/", r.IntN(12))
			out = append(out, e)
		}
	}
	return out
}

// In whatever order events come, in whichever batches, and however often the state is
// saved and loaded: sessions are those of a plain recount.
func TestSessionsInAnyOrder(t *testing.T) {
	for seed := range uint64(150) {
		r := rand.New(rand.NewPCG(seed, 1))
		events := randomEvents(r, 1+r.IntN(60))
		want := recount(t, events)
		w := newWorld(t, Options{})
		r.Shuffle(len(events), func(i, j int) { events[i], events[j] = events[j], events[i] })
		for rest := events; len(rest) > 0; {
			n := 1 + r.IntN(min(20, len(rest)))
			w.apply(encode(rest[:n]))
			rest = rest[n:]
			if r.IntN(4) == 0 {
				w.reload()
			}
		}
		w.now += 100 * 24 * 3600 * 1000
		w.settle()
		mustBe(t, w.counted, want)
		if w.Open() != 0 {
			t.Errorf("%d sessions are open", w.Open())
		}
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

// Events that come late by up to the gap are in their sessions, though those that have
// ended are counted all the time, and another table that only applies what was logged has
// the same.
func TestSessionsOfLateEvents(t *testing.T) {
	early := 0
	for seed := range uint64(150) {
		r := rand.New(rand.NewPCG(seed, 2))
		events := randomEvents(r, 1+r.IntN(80))
		want := recount(t, events)
		w := newWorld(t, Options{Quiet: time.Second})
		replayed := newWorld(t, Options{})
		type arrival struct {
			at int64
			seen
		}
		var all []arrival
		for _, e := range events {
			all = append(all, arrival{e.at + r.Int64N(e.rule.Gap.Milliseconds()+1), e})
		}
		slices.SortFunc(all, func(a, b arrival) int { return cmp.Compare(a.at, b.at) })
		for len(all) > 0 {
			n := 1 + r.IntN(min(3, len(all)))
			var batch []seen
			for _, a := range all[:n] {
				batch = append(batch, a.seen)
			}
			// A batch arrives with its first event: nothing in it is later than it may be.
			w.now = max(w.now, all[0].at)
			all = all[n:]
			change := encode(batch)
			w.apply(change)
			replayed.apply(change)
			if r.IntN(8) == 0 {
				w.reload()
			}
			for b := w.Settle(w.now, grid); b != nil; b = w.Settle(w.now, grid) {
				early++
				addCounted(t, w.counted, b.Increments)
				w.apply(b.State)
				replayed.apply(b.State)
			}
			if got, want := describe(t, replayed.Save()), describe(t, w.Save()); got != want {
				t.Fatalf("seed %d: replayed\n%s\nwant\n%s", seed, got, want)
			}
		}
		w.now += 100 * 24 * 3600 * 1000
		w.settle()
		mustBe(t, w.counted, want)
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
	if early < 1000 {
		t.Errorf("only %d batches of sessions were counted before the end", early)
	}
}

// Changes of batches that are logged at the same time are applied in any order.
func TestChangesCommute(t *testing.T) {
	for seed := range uint64(100) {
		r := rand.New(rand.NewPCG(seed, 3))
		events := randomEvents(r, 40)
		r.Shuffle(len(events), func(i, j int) { events[i], events[j] = events[j], events[i] })
		var changes [][]byte
		for rest := events; len(rest) > 0; {
			n := 1 + r.IntN(min(10, len(rest)))
			changes = append(changes, encode(rest[:n]))
			rest = rest[n:]
		}
		want := ""
		for range 4 {
			w := newWorld(t, Options{})
			for _, c := range changes {
				w.apply(c)
			}
			if got := describe(t, w.Save()); want != "" && got != want {
				t.Fatalf("seed %d:\n%s\nin another order\n%s", seed, got, want)
			} else {
				want = got
			}
			r.Shuffle(len(changes), func(i, j int) { changes[i], changes[j] = changes[j], changes[i] })
		}
	}
}

// A session is counted when its gap has passed twice and nothing came for a while; what
// comes for it after that is another.
func TestSessionIsCountedOnceItIsQuiet(t *testing.T) {
	w := newWorld(t, Options{})
	w.apply(encode([]seen{{siteRule, 1, start, "/"}}))
	w.now = start + 2*gap
	if w.settle(); len(w.counted) != 0 {
		t.Errorf("counted at twice the gap: %v", w.counted)
	}
	w.now++
	if !w.Due(w.now) {
		t.Error("not due after twice the gap")
	}
	w.reload() // it is touched now
	if w.settle(); len(w.counted) != 0 {
		t.Errorf("counted though it was touched just now: %v", w.counted)
	}
	w.now += QuietDefault.Milliseconds()
	w.settle()
	w.apply(encode([]seen{{siteRule, 1, start + 1000, "/late"}}))
	w.now += QuietDefault.Milliseconds()
	w.settle()
	mustBe(t, w.counted, map[string]float64{
		`{__name__="site_sessions_total", page="/", visitor="new"} 0`:           1,
		`{__name__="site_sessions_total", page="/late", visitor="returning"} 0`: 1,
		`{__name__="site_bounces_total", page="/"} 0`:                           1,
		`{__name__="site_bounces_total", page="/late"} 0`:                       1,
		`{__name__="site_session_events", page="/"} 0 1`:                        1,
		`{__name__="site_session_events", page="/"} 0 sum`:                      1,
		`{__name__="site_session_events", page="/late"} 0 1`:                    1,
		`{__name__="site_session_events", page="/late"} 0 sum`:                  1,
		`{__name__="site_session_seconds", page="/"} 0 0`:                       1,
		`{__name__="site_session_seconds", page="/late"} 0 0`:                   1,
	})
}

// Past the limit of open sessions those that were touched least recently are counted, and
// no event is lost.
func TestOpenSessionsAreBounded(t *testing.T) {
	const most, sent = 1000, 5000
	w := newWorld(t, Options{OpenMax: most})
	for i := range uint64(sent) {
		w.now += 1000
		w.apply(encode([]seen{{siteRule, i, w.now, "/"}, {siteRule, 0, w.now, "/"}}))
		if w.Crowded() {
			w.settle()
		}
		if w.Open() > most {
			t.Fatalf("%d sessions are open after %d", w.Open(), i)
		}
	}
	if w.Open() < most*9/10 {
		t.Errorf("%d sessions are open", w.Open())
	}
	w.now += 10 * gap
	w.settle()
	got := map[string]float64{}
	for at, n := range w.counted {
		got[at[:strings.Index(at, ",")]+at[strings.LastIndex(at, " "):]] += n
	}
	// The first visitor came with each of the others, and so was never the least recent.
	if n := got[`{__name__="site_session_events" sum`]; n != 2*sent {
		t.Errorf("%v events, want %d: %v", n, 2*sent, got)
	}
	if n := got[`{__name__="site_session_events" +Inf`]; n != 1 {
		t.Errorf("%v sessions of many events, want 1", n)
	}
}

// A visitor is new again 30 days after the last session, and when there were too many
// others since.
func TestVisitorsAreForgotten(t *testing.T) {
	const day = int64(24 * 3600 * 1000)
	w := newWorld(t, Options{VisitorsMax: 100})
	visit := func(visitor uint64, at int64) string {
		w.now = max(w.now, at)
		w.apply(encode([]seen{{siteRule, visitor, at, "/"}}))
		w.now += 3 * gap
		w.counted = map[string]float64{}
		w.settle()
		for at := range w.counted {
			for _, kind := range []string{"new", "returning"} {
				if strings.Contains(at, `visitor="`+kind+`"`) {
					return kind
				}
			}
		}
		return ""
	}
	for i, step := range []struct {
		visitor uint64
		at      int64
		want    string
	}{
		{1, start, "new"}, {1, start + 30*day, "returning"}, {1, start + 60*day + 1000, "new"}, {2, start + 60*day, "new"},
		{1, start + 59*day, "returning"}, // late
	} {
		if got := visit(step.visitor, step.at); got != step.want {
			t.Errorf("step %d: %s, want %s", i, got, step.want)
		}
		w.reload()
	}
	for i := range uint64(101) {
		visit(100+i, start+61*day+int64(i)*1000)
	}
	if n := w.visitors.len(); n > 100 || n < 80 {
		t.Errorf("%d visitors are remembered, at most 100 may be", n)
	}
	if got := visit(1, start+62*day); got != "new" {
		t.Errorf("a visitor before 100 others is %s", got)
	}
	w.now += 100 * day
	if got := visit(7, w.now); got != "new" || w.visitors.len() != 1 {
		t.Errorf("%s, and %d visitors are remembered after 100 days", got, w.visitors.len())
	}
}

// Sessions of a rule that has changed are counted as it was, beside those of the new one.
func TestRuleThatChanged(t *testing.T) {
	w := newWorld(t, Options{})
	changed := &Rule{Name: "site", Gap: siteRule.Gap, Labels: []string{"landing"}}
	w.apply(encode([]seen{{siteRule, 1, start, "/a"}}))
	w.apply(encode([]seen{{changed, 1, start + 60_000, "/b"}}))
	w.reload()
	w.now += 3 * gap
	w.settle()
	for at, want := range map[string]float64{
		`{__name__="site_sessions_total", page="/a", visitor="new"} 0`:              1,
		`{__name__="site_sessions_total", landing="/b", visitor="returning"} 60000`: 1,
	} {
		if w.counted[at] != want {
			t.Errorf("%s: %v, want %v, of %v", at, w.counted[at], want, w.counted)
		}
	}
	if len(w.rules) != 0 {
		t.Errorf("%d rules are kept", len(w.rules))
	}
}

// What cannot be read changes nothing.
func TestDamagedStateIsRefused(t *testing.T) {
	w := newWorld(t, Options{})
	w.apply(encode([]seen{{siteRule, 1, start, "/"}, {shopRule, 2, start, "/a"}}))
	w.now += 3 * gap
	w.settle()
	w.apply(encode([]seen{{siteRule, 1, start + 3*gap, "/"}, {siteRule, 3, start, "/a"}}))
	saved := w.Save()
	want := describe(t, saved)
	for n := range saved {
		if err := w.Load(saved[:n]); err == nil && n > 0 {
			t.Errorf("%d bytes of %d are loaded", n, len(saved))
		} else if n == 0 {
			w.reloadFrom(saved)
		}
	}
	for _, bad := range [][]byte{nil, {9}, {formState}, append(bytes.Clone(saved), 0), saved} {
		if err := w.Apply(bad); err == nil {
			t.Errorf("%x is applied", bad)
		}
	}
	if got := describe(t, w.Save()); got != want {
		t.Errorf("have\n%s\nwant\n%s", got, want)
	}
}

func (w *world) reloadFrom(saved []byte) {
	w.t.Helper()
	if err := w.Load(saved); err != nil {
		w.t.Fatal(err)
	}
}

// An open session takes little memory, so that a million of them may be open.
func TestMemoryOfOpenSessions(t *testing.T) {
	const n = 200_000
	w := newWorld(t, Options{})
	before := heap()
	for i := range uint64(n / 1000) {
		var batch []seen
		for j := range uint64(1000) {
			batch = append(batch, seen{siteRule, i*1000 + j, start, fmt.Sprint("/", j%100)})
		}
		w.apply(encode(batch))
	}
	each := float64(heap()-before) / n
	t.Logf("%.0f bytes an open session, %.0f saved", each, float64(len(w.Save()))/n)
	if each > 150 || w.Open() != n {
		t.Errorf("%d open sessions take %.0f bytes each", w.Open(), each)
	}
}

func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func TestMetricNames(t *testing.T) {
	for _, m := range siteRule.Metrics() {
		if !model.LegacyValidation.IsValidMetricName(m.Name) || m.Help == "" || !m.Kind.Valid() {
			t.Errorf("%+v", m)
		}
	}
}
