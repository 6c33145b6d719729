package tsdb

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/quipudb/quipu/internal/increment"
)

// delete deletes a part of some metrics, none of those that are at their limit of series:
// what was deleted counts until it is rewritten.
func (m *modelRun) delete() {
	of := m.tenant()
	var names []string
	for _, k := range modelKinds {
		if m.r.IntN(3) == 0 {
			names = append(names, k.name)
		}
	}
	matchers := []*labels.Matcher{labels.MustNewMatcher(labels.MatchRegexp, model.MetricNameLabel, strings.Join(names, "|"))}
	switch m.r.IntN(4) {
	case 0:
		matchers = append(matchers, labels.MustNewMatcher(labels.MatchRegexp, "page", "/[0-3]"))
	case 1:
		matchers = append(matchers, equal("country", "DE"))
	case 2:
		matchers = append(matchers, equal("country", ""))
	}
	mint := m.time() + m.r.Int64N(3) - 1
	maxt := mint + m.r.Int64N([]int64{g, hourMillis, 30 * hourMillis, 20 * dayMillis}[m.r.IntN(4)])
	_, err := m.db.Delete(context.Background(), of.id, mint, maxt, matchers...)
	m.must(err)
	if m.store(of) != nil {
		of.delete(mint, maxt, matchers)
	}
	if m.r.IntN(4) == 0 {
		m.compare()
	}
}

// delete is what Delete must do.
func (m *modelTenant) delete(mint, maxt int64, matchers []*labels.Matcher) {
	m.unclean = true
	for key, s := range m.data {
		if !matchesAll(s.labels, matchers) {
			continue
		}
		width := int64(g)
		if s.kind == increment.Sample {
			width = 1
		}
		for w := range s.values {
			if w >= mint && w+width-1 <= maxt {
				delete(s.values, w)
			}
		}
		if len(s.values) > 0 {
			continue
		}
		delete(m.data, key)
		m.ghostKinds[s.labels.Get(model.MetricNameLabel)] = s.kind
		s.labels.Range(func(l labels.Label) { m.ghosts[l.Value] = true })
	}
	m.exemplars = slices.DeleteFunc(m.exemplars, func(e increment.Exemplar) bool {
		return e.Time >= mint && e.Time <= maxt && matchesAll(e.Series, matchers)
	})
}

// cleaned says that what was deleted has been rewritten.
func (m *modelTenant) cleaned() {
	m.unclean = false
	clear(m.ghosts)
	clear(m.ghostKinds)
}

func (m *modelRun) clean() {
	of := m.tenant()
	m.must(m.db.CleanTombstones(context.Background(), of.id))
	of.cleaned()
}

// snapshot compares a snapshot with the model.
func (m *modelRun) snapshot() {
	of := m.tenant()
	if m.store(of) == nil {
		return
	}
	skipHead := m.r.IntN(3) == 0
	name, err := m.db.Snapshot(context.Background(), of.id, skipHead)
	m.must(err)
	all := filepath.Join(m.db.dir, snapshotDirName)
	dir := filepath.Join(all, name)
	m.sound(dir)
	if !skipHead {
		o := m.options
		o.Dir, o.Registerer, o.FS = dir, prometheus.NewRegistry(), noSyncFS{}
		db, err := Open(o)
		m.must(err)
		s, err := db.store(of.id, false)
		m.must(err)
		v := s.versions.pin()
		readVersion(m, v, func(sels []*selection) {
			if err := of.data.differs(sels, newest); err != nil {
				m.Fatalf("snapshot of tenant %s: %v", of.id, err)
			}
		})
		s.versions.unpin(v)
		m.must(db.Close())
	}
	m.must(m.options.FS.RemoveAll(all))
	if _, err := os.Stat(all); err == nil {
		m.Fatalf("%s is still there", all)
	}
}

// drop deletes a tenant. Clients that know its series go on to name them.
func (m *modelRun) drop() {
	of := m.tenant()
	m.must(m.db.DropTenant(context.Background(), of.id))
	known := of.series
	*of = *newModelTenant(of.id)
	of.series = known
}
