package tsdb

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/tenant"
)

// modelSeries is what the model has of one series.
type modelSeries struct {
	labels labels.Labels
	kind   increment.Kind
	values map[int64]any // by window start or timestamp; see modelKind
}

// modelData is all increments of a tenant, by the string of the series' labels.
type modelData map[string]*modelSeries

func (d modelData) clone() modelData {
	out := make(modelData, len(d))
	for key, s := range d {
		out[key] = &modelSeries{s.labels, s.kind, maps.Clone(s.values)}
	}
	return out
}

func (d modelData) add(ls labels.Labels, inc *increment.Increment) {
	key := ls.String()
	s := d[key]
	if s == nil {
		s = &modelSeries{ls, inc.Kind, map[int64]any{}}
		d[key] = s
	}
	s.values[inc.Time] = kindModel(inc.Kind).merge(s.values[inc.Time], inc)
}

// differs says how what is stored differs.
func (d modelData) differs(sels []*selection, at cut) error {
	found := 0
	for _, sel := range sels {
		p, err := sel.read(0, never, at)
		if err != nil {
			return err
		}
		if p.len() == 0 {
			continue // made after the cut
		}
		found++
		want := d[sel.labels.String()]
		if want == nil {
			return fmt.Errorf("%s has %d windows, want no such series", sel.labels, p.len())
		}
		if p.kind != want.kind || p.len() != len(want.values) {
			return fmt.Errorf("%s is a %s with %d windows, want a %s with %d", sel.labels, p.kind, p.len(), want.kind, len(want.values))
		}
		same := kindModel(p.kind).same
		for i, w := range p.win {
			if v, ok := want.values[w]; !ok || !same(v, &p, i) {
				return fmt.Errorf("%s at %d differs, want %v", sel.labels, w, v)
			}
		}
	}
	if found != len(d) {
		return fmt.Errorf("%d series, want %d", found, len(d))
	}
	return nil
}

// modelTenant is what the model knows of one tenant.
type modelTenant struct {
	id        tenant.ID
	data      modelData
	kinds     map[string]increment.Kind
	keys      map[[16]byte]int64   // when they were applied
	exemplars []increment.Exemplar // the newest
	metadata  map[string]increment.Metadata
	refused   map[string]bool // label values that only a refused batch had
	// Of what was deleted and may not be rewritten yet: label values, kinds of metrics,
	// and that there is any.
	ghosts     map[string]bool
	ghostKinds map[string]increment.Kind
	unclean    bool
	// series are those that clients name again and again.
	series map[string]*increment.Series
}

func newModelTenant(id tenant.ID) *modelTenant {
	return &modelTenant{
		id: id, data: modelData{}, kinds: map[string]increment.Kind{}, keys: map[[16]byte]int64{}, metadata: map[string]increment.Metadata{},
		refused: map[string]bool{}, ghosts: map[string]bool{}, ghostKinds: map[string]increment.Kind{}, series: map[string]*increment.Series{},
	}
}

// restarted forgets what only memory has.
func (m *modelTenant) restarted() {
	clear(m.kinds)
	clear(m.refused)
	for _, s := range m.data {
		m.kinds[s.labels.Get(model.MetricNameLabel)] = s.kind
	}
}

// modelVerdict is what becomes of an increment.
type modelVerdict struct {
	labels labels.Labels // where it goes
	reason string        // why it is refused: "" where it is not
}

// judge says what becomes of every increment of a batch, and notes kinds.
func (m *modelTenant) judge(incs []increment.Increment, oldest int64) []modelVerdict {
	out := make([]modelVerdict, len(incs))
	counts := map[string]int{}
	for _, s := range m.data {
		counts[s.labels.Get(model.MetricNameLabel)]++
	}
	taken := map[string]bool{}
	for i := range incs {
		inc := &incs[i]
		name := inc.Labels.Get(model.MetricNameLabel)
		v := &out[i]
		v.labels = inc.Labels
		have, known := m.kinds[name]
		switch {
		case inc.Validate(g) != nil:
			v.reason = "invalid"
			continue
		case inc.Time < oldest:
			v.reason = "age"
			continue
		case known && have != inc.Kind:
			v.reason = "kind"
			continue
		}
		m.kinds[name] = inc.Kind
		stored := func(ls labels.Labels) bool { return m.data[ls.String()] != nil || taken[ls.String()] }
		if !stored(inc.Labels) && counts[name] >= modelSeriesMax-1 {
			if inc.Kind == increment.Gauge || inc.Kind == increment.Sample {
				v.reason = "limit"
				continue
			}
			v.labels = fold(inc.Labels, []string{"page"}, nil)
		}
		if !stored(v.labels) {
			taken[v.labels.String()] = true
			counts[name]++
		}
	}
	return out
}

// accept counts a batch that was logged.
func (m *modelTenant) accept(b *increment.Batch, incs []increment.Increment, verdicts []modelVerdict, now int64) {
	if b.HasKey {
		m.keys[b.Key] = now
	}
	for i := range incs {
		if verdicts[i].reason == "" {
			m.data.add(verdicts[i].labels, &incs[i])
		}
	}
	for i := range b.Exemplars {
		if acceptsExemplar(&b.Exemplars[i]) {
			m.exemplars = append(m.exemplars, b.Exemplars[i])
		}
	}
	m.exemplars = m.exemplars[max(0, len(m.exemplars)-modelExemplarsMax):]
	for _, d := range b.Metadata {
		if len(d.Help) <= metadataBytesMax {
			m.metadata[d.Metric] = d
		}
	}
}

func describeExemplar(e *increment.Exemplar) string {
	return fmt.Sprint(e.Series, e.Labels, e.Time, e.Value)
}

// span is from the first window to the end of the last.
func (m *modelTenant) span() (mint, maxt int64) {
	first := true
	for _, s := range m.data {
		width := int64(g)
		if s.kind == increment.Sample {
			width = 1
		}
		for w := range s.values {
			if first {
				mint, maxt, first = w, w+width, false
			}
			mint, maxt = min(mint, w), max(maxt, w+width)
		}
	}
	return mint, maxt
}

// canRelog reports whether a tenant has so little in memory that it would be logged again
// rather than flushed.
func (s *store) canRelog() bool { return s.memBytes() < blockBytesMin && len(s.frozen) == 0 }

// keptBy is the stored data that a retention pass must keep: all but the blocks that
// end before oldest and the memtables that end before oldestInMemory.
func (m *modelTenant) keptBy(t testing.TB, v *version, oldest, oldestInMemory int64) modelData {
	kept := &version{
		deleted: v.deleted,
		mems: slices.DeleteFunc(slices.Clone(v.mems), func(mem *memtable) bool {
			_, maxt, ok := mem.span()
			return ok && maxt <= oldestInMemory
		}),
		blocks: slices.DeleteFunc(slices.Clone(v.blocks), func(b *block) bool { return b.MaxTime <= oldest }),
	}
	if len(kept.blocks) == len(v.blocks) && len(kept.mems) == len(v.mems) {
		return m.data
	}
	out := modelData{}
	readVersion(t, kept, func(sels []*selection) {
		for _, sel := range sels {
			p, err := sel.read(0, never, newest)
			if err != nil {
				t.Fatal(err)
			}
			if p.len() > 0 {
				out[sel.labels.String()] = modelOf(sel.labels, &p)
			}
		}
	})
	for key, s := range m.data {
		for w, v := range s.values {
			if w < oldest {
				continue
			}
			if out[key] == nil {
				t.Fatalf("retention would drop %s at %d", key, w)
			}
			out[key].values[w] = v // unchanged, or the next comparison finds it
		}
	}
	return out
}

// modelOf takes what is stored for what is right.
func modelOf(ls labels.Labels, p *points) *modelSeries {
	s := &modelSeries{ls, p.kind, map[int64]any{}}
	k := kindModel(p.kind)
	for i, w := range p.win {
		e := p.entry(i)
		inc := increment.Increment{Series: &increment.Series{Kind: p.kind}, Time: w, Value: e.value, At: e.at, Hist: e.hist, Native: e.native}
		if e.ids != nil {
			s.values[w] = storedIDs(e.ids)
			continue
		}
		s.values[w] = k.merge(nil, &inc)
	}
	return s
}

// names and values of labels that the model has.
func (d modelData) strings(name string) []string {
	set := map[string]struct{}{}
	for _, s := range d {
		s.labels.Range(func(l labels.Label) {
			if name == "" {
				set[l.Name] = struct{}{}
			} else if l.Name == name {
				set[l.Value] = struct{}{}
			}
		})
	}
	return sortedKeys(set)
}

func without(all []string, some ...map[string]bool) string {
	return strings.Join(slices.DeleteFunc(all, func(s string) bool {
		return slices.ContainsFunc(some, func(m map[string]bool) bool { return m[s] })
	}), " ")
}
