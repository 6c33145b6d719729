package tsdb

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/tenant"
)

var (
	modelSeeds = flag.Int("seeds", 50, "how many seeds TestModel runs")
	modelOps   = flag.Int("ops", modelOpsDefault, "how many operations TestModel runs for each seed")
)

const (
	modelSeriesMax    = 20
	modelExemplarsMax = 7
	modelDedupWindow  = 6 * time.Hour
)

// Random operations against a model of maps: whatever is appended, flushed, merged,
// dropped, logged again, closed or killed, all that is stored is what the model says,
// to every reader what there was when it came.
func TestModel(t *testing.T) {
	for seed := range *modelSeeds {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			t.Parallel()
			m := newModelRun(t, uint64(seed))
			for m.op = range *modelOps {
				m.step()
			}
			m.finish()
		})
	}
}

// modelRun is one history. Seeds differ in what they do, and how much of it.
type modelRun struct {
	testing.TB
	seed    uint64
	op      int
	r       *rand.Rand
	db      *testDB
	now     atomic.Int64 // nanoseconds since 1970
	tenants []*modelTenant
	readers []modelReader
	options Options
	power   *crashFS // nil: a crash leaves all that was written
	retain  time.Duration
	keys    uint64
}

// modelReader is a reader and what it must see.
type modelReader struct {
	q    *querier
	ctx  context.Context
	want modelData
}

// Fatalf says how to repeat what failed.
func (m *modelRun) Fatalf(format string, args ...any) {
	m.TB.Helper()
	m.TB.Fatalf("operation %d: %s\nrepeat with -run 'TestModel/seed=%d$' -seeds %d", m.op, fmt.Sprintf(format, args...), m.seed, m.seed+1)
}

func (m *modelRun) Fatal(args ...any) {
	m.TB.Helper()
	m.Fatalf("%s", fmt.Sprint(args...))
}

func (m *modelRun) must(err error) {
	m.TB.Helper()
	if err != nil {
		m.Fatal(err)
	}
}

func newModelRun(t testing.TB, seed uint64) *modelRun {
	m := &modelRun{TB: t, seed: seed, r: rand.New(rand.NewPCG(seed, 11))}
	for _, name := range []string{"default", "a", "b.c"} {
		m.tenants = append(m.tenants, newModelTenant(tenantID(t, name)))
	}
	m.now.Store(testStart.UnixNano())
	m.retain = []time.Duration{0, 4 * 24 * time.Hour, 35 * 24 * time.Hour}[m.r.IntN(3)]
	settings := tenant.DefaultSettings()
	settings.Retention = model.Duration(m.retain)
	settings.Limits.SeriesPerMetric, settings.Limits.Exemplars = modelSeriesMax, modelExemplarsMax
	m.options = Options{
		FS: noSyncFS{}, Now: func() time.Time { return time.Unix(0, m.now.Load()) }, MaintainInterval: time.Hour,
		Logger: slog.New(slog.DiscardHandler), Defaults: settings, DedupWindow: modelDedupWindow, OpenBlocksMax: 1 + m.r.IntN(20),
		WALSegmentBytesMax: int64(1) << (12 + m.r.IntN(6)), WALBytesMax: int64(1) << (15 + m.r.IntN(5)), MemtableBytesMax: int64(1) << (16 + m.r.IntN(5)),
	}
	dir := t.TempDir()
	if m.r.IntN(3) == 0 {
		m.mayLosePower(dir)
	}
	m.open(dir)
	return m
}

func (m *modelRun) open(dir string) {
	o := m.options
	o.Dir, o.Registerer = dir, prometheus.NewRegistry()
	db, err := Open(o)
	m.must(err)
	db.stop() // background work, so that a seed does the same again
	<-db.maintained
	m.db = &testDB{DB: db, t: m, dir: dir}
}

// step does one operation.
func (m *modelRun) step() {
	ops := []struct {
		weight int // of 10,000
		do     func()
	}{
		{12, m.compare}, {20, m.compareDistinct}, {20, m.read}, {20, m.pin}, {6, m.listLabels},
		{150, m.tick}, {4, m.jump},
		{40, m.duplicates}, {30, m.refuseWhole}, {4, m.storm},
		{6, m.relog}, {4, m.flush}, {4, m.maintainMemory}, {2, m.maintainBlocks},
		{2, m.reopen}, {2, m.crash},
		{8, m.delete}, {2, m.clean}, {2, m.snapshot}, {1, m.drop},
	}
	n := m.r.IntN(10_000)
	for _, op := range ops {
		if n -= op.weight; n < 0 {
			op.do()
			return
		}
	}
	m.append()
}

func (m *modelRun) tenant() *modelTenant { return m.tenants[m.r.IntN(len(m.tenants))] }

// oldest is the time before which increments are refused.
func (m *modelRun) oldest() int64 {
	if m.retain == 0 {
		return math.MinInt64
	}
	return m.now.Load()/1e6 - m.retain.Milliseconds() - tenant.BlockRange.Milliseconds()
}

// time is a random one to count something at: mostly now.
func (m *modelRun) time() int64 {
	age := time.Duration(m.r.Int64N(int64(time.Minute)))
	switch n := m.r.IntN(400); {
	case n == 0:
		span := 12 * 24 * time.Hour
		if m.retain > 0 {
			span = m.retain + m.retain/20
		}
		age = time.Duration(m.r.Int64N(int64(span)))
	case n < 8:
		age = time.Duration(m.r.Int64N(int64(30 * time.Hour)))
	case n < 60:
		age = time.Duration(m.r.Int64N(int64(20 * time.Minute)))
	case n == 60:
		age = -time.Duration(m.r.Int64N(int64(time.Hour)))
	}
	return floorTo((m.now.Load()-int64(age))/1e6, g)
}

// increment is a random one: limited says that it may be of a metric that has more
// series than are allowed.
func (m *modelRun) increment(of *modelTenant, limited bool) increment.Increment {
	k := &modelKinds[m.r.IntN(len(modelKinds))]
	lbls := []string{model.MetricNameLabel, k.name, "page", fmt.Sprint("/", m.r.IntN(6))}
	if m.r.IntN(3) == 0 {
		lbls = append(lbls, "country", []string{"DE", "FR"}[m.r.IntN(2)])
	}
	if limited && m.r.IntN(8) == 0 {
		lbls = []string{model.MetricNameLabel, "limited_" + k.name, "page", fmt.Sprint("/", m.r.IntN(25))}
	}
	inc := increment.Increment{Series: of.named(labels.FromStrings(lbls...), k.kind), Time: m.time()}
	k.fill(m.r, &inc)
	return inc
}

// named is the series as its client keeps it.
func (m *modelTenant) named(ls labels.Labels, k increment.Kind) *increment.Series {
	key := fmt.Sprint(ls, k)
	if m.series[key] == nil {
		m.series[key] = increment.NewSeries(ls, k, nil)
	}
	return m.series[key]
}

// refusable is an increment that is most likely refused.
func (m *modelRun) refusable(of *modelTenant) increment.Increment {
	inc := m.increment(of, true)
	what := m.r.IntN(3)
	if m.retain == 0 {
		what = m.r.IntN(2) // nothing is too old
	}
	switch what {
	case 0: // a kind that its metric does not have
		other := m.increment(of, true)
		if _, known := of.kinds[other.Labels.Get(model.MetricNameLabel)]; known {
			inc.Series = of.named(other.Labels, inc.Kind)
		}
	case 1:
		inc.Time++
		if inc.Kind == increment.Sample {
			inc.Native = &increment.Native{}
		}
	case 2:
		if inc.Time = floorTo(m.oldest(), g) - g; inc.Kind == increment.Gauge {
			inc.At = inc.Time
		}
	}
	return inc
}

// batch is a random one, with a key.
func (m *modelRun) batch(of *modelTenant) *increment.Batch {
	b := &increment.Batch{SkipRefused: true, HasKey: true}
	m.keys++
	b.Key[0], b.Key[1], b.Key[2], b.Key[3] = byte(m.keys), byte(m.keys>>8), byte(m.keys>>16), 1
	for range 1 + m.r.IntN(4) {
		b.Increments = append(b.Increments, m.increment(of, true))
	}
	if m.r.IntN(10) == 0 {
		at := m.r.IntN(len(b.Increments) + 1)
		b.Increments = slices.Insert(b.Increments, at, m.refusable(of))
	}
	if m.r.IntN(20) == 0 {
		inc := &b.Increments[0]
		trace := labels.FromStrings("trace_id", strings.Repeat("x", m.r.IntN(150)))
		b.Exemplars = append(b.Exemplars, increment.Exemplar{Series: inc.Labels, Labels: trace, Time: inc.Time, Value: float64(m.op)})
	}
	if m.r.IntN(40) == 0 {
		name, help := b.Increments[0].Labels.Get(model.MetricNameLabel), fmt.Sprint("since ", m.op)
		if m.r.IntN(10) == 0 {
			help = strings.Repeat("x", metadataBytesMax+1)
		}
		b.Metadata = append(b.Metadata, increment.Metadata{Metric: name, Type: model.MetricTypeUnknown, Help: help})
	}
	return b
}

// append sends a batch, of which some increments may be refused, or one again.
func (m *modelRun) append() {
	of := m.tenant()
	b := m.batch(of)
	switch m.r.IntN(10) {
	case 0:
		b.HasKey = false
	case 1: // a key that was used before, perhaps so long ago that it is forgotten
		n := m.keys - min(m.keys-1, m.r.Uint64N(200))
		b.Key[0], b.Key[1], b.Key[2] = byte(n), byte(n>>8), byte(n>>16)
	}
	m.send(of, b)
}

func (m *modelRun) send(of *modelTenant, b *increment.Batch) {
	now := m.now.Load() / 1e6
	incs, all := slices.Clone(b.Increments), *b
	at, seen := of.keys[b.Key]
	wantDup := b.HasKey && seen && at >= now-modelDedupWindow.Milliseconds()
	all.Exemplars, all.Metadata = slices.Clone(b.Exemplars), slices.Clone(b.Metadata)
	dup, err := m.db.Append(context.Background(), of.id, b)
	m.must(err)
	if dup != wantDup {
		m.Fatalf("tenant %s: duplicate %v, want %v", of.id, dup, wantDup)
	}
	if dup {
		return
	}
	verdicts := of.judge(incs, m.oldest())
	want := map[int]string{}
	for i, v := range verdicts {
		if v.reason != "" {
			want[i] = v.reason
		}
	}
	if len(want) < len(incs) || len(b.Metadata) > 0 {
		of.accept(&all, incs, verdicts, now)
	}
	got := map[int]string{}
	for _, refused := range b.Refused {
		got[refused.Index] = reasonOf(refused.Err)
	}
	if !reflect.DeepEqual(got, want) {
		m.Fatalf("tenant %s: refused %v, want %v", of.id, got, want)
	}
}

func reasonOf(err error) string {
	var kind *KindError
	var limit *LimitError
	var age *AgeError
	switch {
	case errors.As(err, &kind):
		return "kind"
	case errors.As(err, &limit):
		return "limit"
	case errors.As(err, &age):
		return "age"
	}
	return "invalid"
}

// refuseWhole sends a batch that is refused for its last increment.
func (m *modelRun) refuseWhole() {
	of := m.tenant()
	b := &increment.Batch{HasKey: true, Key: [16]byte{0, 2}}
	good, bad := m.increment(of, false), m.increment(of, false)
	page := fmt.Sprint("/refused/", m.op)
	good.Series = of.named(labels.FromStrings(model.MetricNameLabel, fmt.Sprint("refused_", m.r.IntN(3)), "page", page), good.Kind)
	bad.Time++
	if bad.Kind == increment.Sample {
		bad.Native = &increment.Native{}
	}
	b.Increments = []increment.Increment{good, bad}
	of.judge(b.Increments, m.oldest())
	of.refused[page] = true
	if dup, err := m.db.Append(context.Background(), of.id, b); err == nil || dup {
		m.Fatalf("a batch with an invalid increment: duplicate %v, %v", dup, err)
	}
}

// duplicates sends one batch several times at once.
func (m *modelRun) duplicates() {
	of, now := m.tenant(), m.now.Load()/1e6
	b := m.batch(of)
	b.Exemplars, b.Metadata = nil, nil
	incs := slices.Clone(b.Increments)
	var wg sync.WaitGroup
	var applied atomic.Int64
	for range 3 {
		again := *b
		again.Increments = slices.Clone(incs)
		wg.Go(func() {
			dup, err := m.db.Append(context.Background(), of.id, &again)
			if err != nil {
				m.Error(err)
			}
			if !dup {
				applied.Add(1)
			}
		})
	}
	wg.Wait()
	verdicts, want := of.judge(incs, m.oldest()), int64(1)
	if !slices.ContainsFunc(verdicts, func(v modelVerdict) bool { return v.reason == "" }) {
		want = 3 // nothing of it, and its key is free
	} else {
		of.accept(b, incs, verdicts, now)
	}
	if n := applied.Load(); n != want {
		m.Fatalf("a batch that was sent three times at once was applied %d times, want %d", n, want)
	}
}

// storm sends many batches beside whatever writes files.
func (m *modelRun) storm() {
	of, now := m.tenant(), m.now.Load()/1e6
	var batches [20]*increment.Batch
	var refused [20]int
	for i := range batches {
		b := m.batch(of)
		b.Increments, b.Exemplars, b.Metadata = b.Increments[:0], nil, nil
		for len(b.Increments) < 5 {
			if inc := m.increment(of, false); inc.Kind != increment.Sample { // where order matters
				b.Increments = append(b.Increments, inc)
			}
		}
		incs := slices.Clone(b.Increments)
		verdicts := of.judge(incs, m.oldest())
		of.accept(b, incs, verdicts, now)
		for _, v := range verdicts {
			if v.reason != "" {
				refused[i]++
			}
		}
		batches[i] = b
	}
	var wg sync.WaitGroup
	for client := range 2 {
		wg.Go(func() {
			for i := client; i < len(batches); i += 2 {
				if dup, err := m.db.Append(context.Background(), of.id, batches[i]); err != nil || dup || len(batches[i].Refused) != refused[i] {
					m.Errorf("operation %d: duplicate %v, %v, refused %v, want %d", m.op, dup, err, batches[i].Refused, refused[i])
				}
			}
		})
	}
	[]func(){m.relog, m.flush, m.maintainMemory, m.clean}[m.r.IntN(4)]()
	wg.Wait()
}
