package tsdb

import (
	"context"
	"maps"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/scope"
	"github.com/quipudb/quipu/internal/tenant"
)

// What follows are the operations of TestModel that do not append.

func (m *modelRun) store(of *modelTenant) *store {
	s, err := m.db.store(of.id, false)
	m.must(err)
	return s
}

// tick moves the clock by seconds, jump by hours or days.
func (m *modelRun) tick() { m.now.Add(m.r.Int64N(int64(20 * time.Second))) }

func (m *modelRun) jump() {
	by := 5 * time.Hour
	if m.r.IntN(4) == 0 {
		by = 50 * time.Hour
	}
	m.now.Add(m.r.Int64N(int64(by)))
}

func (m *modelRun) relog() {
	if s := m.store(m.tenant()); s != nil {
		_, err := s.relog(context.Background(), nil)
		m.must(err)
	}
	m.must(m.db.releaseSegments())
}

func (m *modelRun) flush() {
	m.must(m.db.Flush(context.Background(), m.tenant().id))
}

func (m *modelRun) maintainMemory() {
	m.must(m.db.maintainMemory(context.Background()))
}

// maintainBlocks merges blocks and drops those that are too old.
func (m *modelRun) maintainBlocks() {
	if m.retain > 0 {
		for _, of := range m.tenants {
			s := m.store(of)
			if s == nil {
				continue
			}
			v := s.versions.pin()
			oldest, inMemory := m.now.Load()/1e6-m.retain.Milliseconds(), int64(math.MinInt64)
			if s.canRelog() {
				inMemory = floorTo(oldest, tenant.BlockRange.Milliseconds())
				if m.retain >= 10*24*time.Hour {
					inMemory = floorTo(oldest, dayMillis)
				}
			}
			of.data = of.keptBy(m, v, oldest, inMemory)
			s.versions.unpin(v)
		}
	}
	m.must(m.db.maintainBlocks(context.Background()))
	for _, of := range m.tenants {
		of.cleaned()
	}
	m.compare()
	m.compareDistinct()
}

// reopen closes and opens the directory.
func (m *modelRun) reopen() {
	m.closeReaders()
	m.must(m.db.Close())
	m.restart(m.db.dir)
}

// crash goes on with a copy of the directory, as it would be found had the process been
// killed or the power failed, sometimes while a record was written.
func (m *modelRun) crash() {
	m.closeReaders()
	dir := m.TempDir()
	if m.power == nil {
		m.must(copyDir(dir, m.db.dir))
	} else {
		m.must(m.power.root.write(dir, survival(m.r.IntN(int(allWritten)+1))))
	}
	if m.r.IntN(2) == 0 {
		m.must(m.tearLog(dir))
	}
	m.must(m.db.Close())
	m.must(os.RemoveAll(m.db.dir))
	if m.r.IntN(3) == 0 {
		m.sound(dir)
	}
	if m.power != nil {
		m.mayLosePower(dir)
	}
	m.restart(dir)
}

// mayLosePower puts a directory on a file system that knows what is durable.
func (m *modelRun) mayLosePower(dir string) {
	root, err := readCrashDir(dir)
	m.must(err)
	m.power = &crashFS{root: root, dir: dir, stop: func(*crashFS) {}}
	m.options.FS = m.power
}

func (m *modelRun) restart(dir string) {
	m.open(dir)
	for _, of := range m.tenants {
		of.restarted()
		kinds, err := m.db.Kinds(of.id)
		m.must(err)
		for name, k := range of.ghostKinds {
			if kinds[name] == k {
				of.kinds[name] = k
			}
		}
	}
	m.compare()
}

// tearLog writes the beginning of a record after what is in the log.
func (m *modelRun) tearLog(dir string) error {
	end := m.db.wal.end()
	f, err := os.OpenFile(filepath.Join(dir, walDirName, segmentName(end.Segment)), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	frame := appendFrame(nil, []byte(strings.Repeat("a record that is not there whole", 1+m.r.IntN(20))))
	// Two bytes less at least: the last one of a compressed frame may be zero, as what
	// follows is.
	_, err = f.WriteAt(frame[:m.r.IntN(len(frame)-1)], end.Offset)
	return err
}

// copyDir links what is never written again, and copies the log.
func copyDir(to, from string) error {
	return filepath.WalkDir(from, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		next := filepath.Join(to, rel)
		switch {
		case d.IsDir():
			return os.MkdirAll(next, 0o755)
		case d.Name() == lockName:
			return nil
		case strings.HasSuffix(path, segmentSuffix):
			src, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			return os.WriteFile(next, src, 0o600)
		}
		return os.Link(path, next)
	})
}

// pin lets a reader come, or the one that came first go.
func (m *modelRun) pin() {
	if len(m.readers) > 2 {
		m.must(m.readers[0].q.Close())
		m.readers = m.readers[1:]
		return
	}
	of := m.tenant()
	rd := modelReader{
		q: &querier{db: m.db.DB, maxt: never}, want: of.data.clone(),
		ctx: scope.With(context.Background(), scope.Scope{Tenant: of.id, Now: never}),
	}
	_, _, err := rd.q.pin(rd.ctx)
	m.must(err)
	m.readers = append(m.readers, rd)
}

func (m *modelRun) closeReaders() {
	m.read()
	for _, rd := range m.readers {
		m.must(rd.q.Close())
	}
	m.readers = nil
}

// read compares what a reader sees with what there was when it came.
func (m *modelRun) read() {
	if len(m.readers) == 0 {
		return
	}
	rd := m.readers[m.r.IntN(len(m.readers))]
	v, _, err := rd.q.pin(rd.ctx)
	m.must(err)
	if v == nil {
		return
	}
	var blocks openBlocks
	defer blocks.close()
	sels, err := selectSeries(rd.ctx, v, &blocks, everything, allSeries())
	m.must(err)
	if err := rd.want.differs(sels, rd.q.cut); err != nil {
		m.Fatalf("a reader of tenant %s: %v", rd.q.scope.Tenant, err)
	}
}

// everything is all of time.
var everything = window{showMax: never, sampleMax: never}

func allSeries() []*labels.Matcher {
	return []*labels.Matcher{labels.MustNewMatcher(labels.MatchRegexp, model.MetricNameLabel, ".+")}
}

// readVersion calls f with all series of a version.
func readVersion(t testing.TB, v *version, f func([]*selection)) {
	t.Helper()
	var blocks openBlocks
	defer blocks.close()
	sels, err := selectSeries(context.Background(), v, &blocks, everything, allSeries())
	if err != nil {
		t.Fatal(err)
	}
	f(sels)
}

// compare compares all that is stored with the model.
func (m *modelRun) compare() {
	for _, of := range m.tenants {
		s := m.store(of)
		if s == nil {
			if len(of.data) > 0 {
				m.Fatalf("tenant %s is lost", of.id)
			}
			continue
		}
		v := s.versions.pin()
		readVersion(m, v, func(sels []*selection) {
			if err := of.data.differs(sels, newest); err != nil {
				m.Fatalf("tenant %s: %v", of.id, err)
			}
			if len(sels) != len(of.data) {
				m.Fatalf("tenant %s: %d series are selected, %d have increments", of.id, len(sels), len(of.data))
			}
		})
		s.versions.unpin(v)
		if kinds, err := m.db.Kinds(of.id); err != nil || !reflect.DeepEqual(kinds, of.kinds) {
			m.Fatalf("tenant %s: kinds %v (%v), want %v", of.id, kinds, err, of.kinds)
		}
		m.compareKeys(of, s)
		m.compareNotes(of, s)
		m.compareSpan(of)
	}
}

// compareKeys compares the keys that a batch would be a duplicate for.
func (m *modelRun) compareKeys(of *modelTenant, s *store) {
	oldest := m.now.Load()/1e6 - modelDedupWindow.Milliseconds()
	s.keys.mu.Lock()
	defer s.keys.mu.Unlock()
	recent := func(keys map[[16]byte]int64) map[[16]byte]int64 {
		out := maps.Clone(keys)
		maps.DeleteFunc(out, func(_ [16]byte, t int64) bool { return t < oldest })
		return out
	}
	got, want := recent(s.keys.applied), recent(of.keys)
	if !maps.Equal(got, want) {
		m.Fatalf("tenant %s: %d batch keys are known, want %d or others", of.id, len(got), len(want))
	}
}

func (m *modelRun) compareNotes(of *modelTenant, s *store) {
	exemplars, metadata := s.notes.all()
	var got []string
	for i := range exemplars {
		got = append(got, describeExemplar(&exemplars[i]))
	}
	var want []string
	for i := range of.exemplars {
		want = append(want, describeExemplar(&of.exemplars[i]))
	}
	if !slices.Equal(got, want) {
		m.Fatalf("tenant %s: exemplars %q, want %q", of.id, got, want)
	}
	said := map[string]increment.Metadata{}
	for _, d := range metadata {
		said[d.Metric] = d
	}
	if !reflect.DeepEqual(said, of.metadata) {
		m.Fatalf("tenant %s: metadata %v, want %v", of.id, said, of.metadata)
	}
}

func (m *modelRun) compareSpan(of *modelTenant) {
	mint, maxt, ok, err := m.db.DataRange(context.Background(), of.id)
	wantMin, wantMax := of.span()
	if of.unclean && ok && (len(of.data) == 0 || mint <= wantMin && maxt >= wantMax) {
		return
	}
	if err != nil || ok != (len(of.data) > 0) || ok && (mint != wantMin || maxt != wantMax) {
		m.Fatalf("tenant %s: data from %d to %d (%v, %v), want from %d to %d", of.id, mint, maxt, ok, err, wantMin, wantMax)
	}
}

// listLabels compares names and values of labels with the model's. Those that only a
// batch had that was refused may be there too.
func (m *modelRun) listLabels() {
	of := m.tenant()
	q := &querier{db: m.db.DB, maxt: never}
	defer q.Close()
	ctx := scope.With(context.Background(), scope.Scope{Tenant: of.id, Now: never})
	matcher := labels.MustNewMatcher(labels.MatchEqual, model.MetricNameLabel, modelKinds[m.r.IntN(len(modelKinds))].name)
	some := modelData{}
	for key, s := range of.data {
		if matcher.Matches(s.labels.Get(model.MetricNameLabel)) {
			some[key] = s
		}
	}
	for _, name := range []string{"", "page", "country"} {
		list := func(matchers ...*labels.Matcher) []string {
			out, _, err := q.LabelNames(ctx, nil, matchers...)
			if name != "" {
				out, _, err = q.LabelValues(ctx, name, nil, matchers...)
			}
			m.must(err)
			return out
		}
		if got, want := without(list(), of.refused, of.ghosts), without(of.data.strings(name), of.refused, of.ghosts); got != want && name != "" {
			m.Fatalf("tenant %s: labels %q are %s, want %s", of.id, name, got, want)
		}
		if got, want := strings.Join(list(matcher), " "), strings.Join(some.strings(name), " "); got != want {
			m.Fatalf("tenant %s: labels %q of %s are %s, want %s", of.id, name, matcher, got, want)
		}
	}
}

func (m *modelRun) sound(dir string) {
	_, problems, err := Check(context.Background(), dir)
	m.must(err)
	if len(problems) > 0 {
		m.Fatalf("check: %v", problems)
	}
}

// finish ends the history: everything is there after one more restart, and the
// directory is sound.
func (m *modelRun) finish() {
	m.compare()
	for range 20 {
		m.compareDistinct()
	}
	m.reopen()
	m.maintainBlocks()
	m.closeReaders()
	m.must(m.db.Close())
	m.sound(m.db.dir)
}
