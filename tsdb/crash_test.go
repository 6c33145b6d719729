package tsdb

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/sketch"
	"github.com/quipudb/quipu/internal/tenant"
	"github.com/quipudb/quipu/internal/vfs"
)

// history is a scripted life of a data directory; batches are numbered, and the
// model is which of them were acknowledged.
type history struct {
	t     *testing.T
	db    *DB
	now   time.Time
	acked map[int]bool
	sent  int
	// dropped: retention has been at work, so that what is acknowledged may be
	// gone, but still not in part.
	dropped bool
	// syncEvery is that of the log. Where it is set no sync comes by itself: then only
	// what is in safe, flushed, logged again or synced, must stay; of the rest a crash
	// may take what came last.
	syncEvery time.Duration
	safe      map[int]bool
	flushing  bool // a tenant's batches may be in a block before it is said so
}

// historyBatches is how many batches a history sends.
const historyBatches = 18

func newHistory(t *testing.T, syncEvery time.Duration) *history {
	return &history{t: t, now: testStart, acked: map[int]bool{}, syncEvery: syncEvery, safe: map[int]bool{}}
}

// at is h as it is now, for a copy of its directory.
func (h *history) at() *history {
	then := *h
	then.db, then.acked, then.safe = nil, maps.Clone(h.acked), maps.Clone(h.safe)
	return &then
}

// secure notes that what a tenant was acknowledged stays.
func (h *history) secure(ids ...tenant.ID) {
	for n := range h.acked {
		if slices.Contains(ids, h.tenant(n)) {
			h.safe[n] = true
		}
	}
}

func (h *history) open(fs vfs.FS, dir string) error {
	settings := tenant.DefaultSettings()
	settings.Retention = model.Duration(20 * 24 * time.Hour)
	segmentMax := int64(1200)
	if h.syncEvery > 0 {
		segmentMax = 5000 // a segment that ends is synced
	}
	var err error
	h.db, err = Open(Options{
		Dir: dir, FS: fs, Now: func() time.Time { return h.now }, Logger: slog.New(slog.DiscardHandler),
		Registerer: prometheus.NewRegistry(), MaintainInterval: time.Hour, WALSegmentBytesMax: segmentMax, WALBytesMax: 1 << 30, WALSyncEvery: h.syncEvery,
		Defaults: settings, DedupWindow: 30 * 24 * time.Hour, // longer than the history
		NewState: newTestState,
	})
	return err
}

func (h *history) tenant(n int) tenant.ID {
	if n%3 == 2 {
		return tenantID(h.t, "other")
	}
	return tenant.Default
}

// batch is the n-th one: it has a page of its own, every kind, two block ranges, an
// exemplar and metadata.
func (h *history) batch(n int) (tenant.ID, *increment.Batch) {
	page := fmt.Sprint("/", n)
	ts := testStart.Add(-time.Duration(n%2*30) * time.Hour)
	hist := &increment.Hist{}
	hist.Observe(float64(n))
	win := floorTo(ts.UnixMilli(), g)
	of := func(k increment.Kind, name string) *increment.Series { return series(k, name, "page", page) }
	b := &increment.Batch{HasKey: true, Key: [16]byte{byte(n), 1}, Increments: []increment.Increment{
		counterInc("events_total", ts, float64(n+1), "page", page),
		{Series: of(increment.Histogram, "event_value"), Time: win, Hist: hist},
		{Series: of(increment.Distinct, "event_users"), Time: win, IDs: []uint64{uint64(n) + 1}},
		{Series: of(increment.Gauge, "event_level"), Time: win, At: win + 7, Value: float64(n)},
		{Series: of(increment.Sample, "event_scraped"), Time: win + 11, Value: float64(n)},
		counterInc("events_total", ts.Add(-3*time.Hour), 1, "page", page),
	}}
	for i := range int64(4) { // more windows than their union is worth
		again := b.Increments[2]
		again.Time -= hourMillis - i*g
		b.Increments = append(b.Increments, again)
	}
	b.Exemplars = []increment.Exemplar{{Series: b.Increments[0].Labels, Labels: labels.FromStrings("trace_id", page), Time: win, Value: 1}}
	b.Metadata = []increment.Metadata{{Metric: "of " + page, Help: page}}
	b.State = testChange(n)
	return h.tenant(n), b
}

func (h *history) send(from, to int) {
	for n := from; n < to; n++ {
		h.sent = max(h.sent, n+1)
		id, b := h.batch(n)
		r, err := h.db.Reserve([][16]byte{eventID(n)})
		if err != nil {
			h.t.Error(err)
			continue
		}
		b.Reservation = r
		if _, err := h.db.Append(context.Background(), id, b); err == nil {
			h.acked[n] = true
		}
	}
}

// live runs the script.
func (h *history) live(fs vfs.FS, dir string) {
	ctx := context.Background()
	must := func(err error) {
		h.t.Helper()
		if err != nil {
			h.t.Fatal(err)
		}
	}
	other := tenantID(h.t, "other")
	flush := func() {
		for _, id := range []tenant.ID{tenant.Default, other} {
			h.flushing = true
			must(h.db.Flush(ctx, id))
			h.flushing = false
			h.secure(id)
		}
	}
	restart := func() {
		must(h.db.Close())
		h.secure(tenant.Default, other)
		must(h.open(fs, dir))
	}
	must(h.open(fs, dir))
	settle := func(id tenant.ID) { must(h.db.SettleState(ctx, id)) }
	h.send(0, 4)
	flush()
	settle(tenant.Default)
	h.send(4, 7)
	settle(other)
	flush()
	h.send(7, 9)
	restart()
	h.send(9, 12)
	settle(tenant.Default)
	flush()
	must(h.db.flushIDs())
	h.now = h.now.Add(5 * 24 * time.Hour)
	must(h.db.maintainBlocks(ctx)) // merges
	h.send(12, 15)                 // the 14th is the other tenant's
	s, err := h.db.store(other, false)
	must(err)
	_, err = s.relog(ctx, nil)
	must(err)
	settle(other)
	h.secure(tenant.Default, other) // one sync is of the whole log
	must(h.db.releaseSegments())
	h.send(15, 16)
	_, err = h.db.wal.append(walWrite{sync: true})
	must(err)
	h.secure(tenant.Default, other)
	h.send(16, historyBatches)
	settle(tenant.Default)
	restart()
	flush()
	must(h.db.flushIDs())
	must(h.db.releaseSegments())
	must(h.db.maintainBlocks(ctx))
	h.now = h.now.Add(17 * 24 * time.Hour)
	h.dropped = true
	must(h.db.maintainBlocks(ctx)) // retention drops what is oldest
	must(h.db.Close())
}

// verify compares a directory that the crash left with the model, sends the
// batches that were not acknowledged again, and compares again.
func (h *history) verify(dir string) error {
	if err := h.checkSound(dir); err != nil {
		return err
	}
	if err := h.open(noSyncFS{}, dir); err != nil {
		return fmt.Errorf("open: %w", err)
	}
	defer h.db.Close()
	var counted [historyBatches]bool
	lost := map[tenant.ID]int{} // the first of the log, or of each tenant while one is flushed
	for n := range h.sent {
		var err error
		if counted[n], err = h.counted(n); err != nil {
			return err
		}
		of := tenant.ID{}
		if h.flushing {
			of = h.tenant(n)
		}
		first, some := lost[of]
		switch got := counted[n]; {
		case h.dropped:
		case !got && h.acked[n] && (h.syncEvery == 0 || h.safe[n]):
			return fmt.Errorf("acknowledged batch %d is lost", n)
		case !got && h.acked[n] && !some:
			lost[of] = n
		case got && some && !h.safe[n]:
			return fmt.Errorf("batch %d is lost and %d after it is not", first, n)
		}
	}
	if h.dropped {
		return nil // keys may be known and their increments gone
	}
	for n, got := range counted[:h.sent] {
		id, b := h.batch(n)
		r, err := h.db.Reserve([][16]byte{eventID(n)})
		if err != nil {
			return fmt.Errorf("look up the event of batch %d: %w", n, err)
		}
		if r.Duplicate(0) != got {
			return fmt.Errorf("the event of batch %d is known: %v, but counted %v", n, r.Duplicate(0), got)
		}
		b.Reservation = r
		duplicate, err := h.db.Append(context.Background(), id, b)
		if err != nil {
			return fmt.Errorf("send batch %d again: %w", n, err)
		}
		if duplicate != got {
			return fmt.Errorf("batch %d sent again: duplicate %v, but counted %v", n, duplicate, got)
		}
		if got, err = h.counted(n); err != nil || !got {
			return fmt.Errorf("batch %d sent again is counted: %v, %w", n, got, err)
		}
	}
	return nil
}

func (h *history) checkSound(dir string) error {
	if _, err := os.Stat(filepath.Join(dir, walDirName)); err != nil {
		return nil // crashed before there was anything
	}
	_, problems, err := Check(context.Background(), dir)
	if err != nil || len(problems) > 0 {
		return fmt.Errorf("check: %v, %w", problems, err)
	}
	return nil
}

// counted reports whether batch n is stored: whole and once, or not at all.
func (h *history) counted(n int) (bool, error) {
	id, b := h.batch(n)
	d := &testDB{DB: h.db, t: h.t}
	m := labels.MustNewMatcher(labels.MatchEqual, "page", fmt.Sprint("/", n))
	got := d.stored(id, m)
	noted, err := h.noted(n)
	if err != nil || len(got) == 0 && !noted {
		return false, errors.Join(err, h.inState(n, false))
	}
	if len(got) == 0 && h.dropped {
		return false, nil // retention keeps the notes
	}
	if err := h.inState(n, !h.dropped); err != nil {
		return false, err
	}
	want := map[string]float64{}
	for i, v := range []float64{float64(n + 1), 1, 1, float64(n), float64(n) + 1, 1, 1, 1, 1, 1} {
		want[fmt.Sprintf("%s %d", b.Increments[i].Labels, b.Increments[i].Time)] = v
	}
	if err := diff(got, want); err != nil || !noted {
		return false, fmt.Errorf("batch %d is counted in part or twice: noted %v, %w", n, noted, err)
	}
	day := dayStart(b.Increments[2].Time)
	if ids := d.countIDs(id, day+dayMillis, sketch.Interval{Lo: day, Hi: day + dayMillis}, m)[0]; ids != 1 {
		return false, fmt.Errorf("batch %d has %v ids, want 1", n, ids)
	}
	return true, nil
}

// noted reports whether there are the exemplar and the metadata of batch n: both, or
// neither.
func (h *history) noted(n int) (bool, error) {
	id, b := h.batch(n)
	s, err := h.db.store(id, false)
	if err != nil || s == nil {
		return false, err
	}
	exemplars, metadata := s.notes.all()
	e := 0
	for i := range exemplars {
		if labels.Equal(exemplars[i].Labels, b.Exemplars[0].Labels) {
			e++
		}
	}
	m := slices.Contains(metadata, b.Metadata[0])
	if e > 1 || (e == 1) != m {
		return false, fmt.Errorf("batch %d has %d exemplars, metadata %v", n, e, m)
	}
	return m, nil
}

// noSyncFS saves the time of syncing what is thrown away.
type noSyncFS struct{ vfs.OS }

type noSyncFile struct{ vfs.File }

func (noSyncFS) Create(name string) (vfs.File, error) {
	f, err := vfs.OS{}.Create(name)
	return noSyncFile{f}, err
}
func (noSyncFS) SyncDir(string) error { return nil }
func (noSyncFile) Sync() error        { return nil }

// Whatever operation the machine stops at, and whether or not what was not synced
// survives: every acknowledged batch is there once, every other whole or not at
// all, and once when it is sent again.
func TestCrashSweep(t *testing.T) {
	t.Parallel()
	sweep(t, newHistory(t, 0))
}

// Where the log is synced at an interval the last acknowledged batches may be lost, but
// none before one that stays, and none that a flush, a sync or logging again has made
// durable.
func TestCrashSweepOfALogSyncedAtAnInterval(t *testing.T) {
	t.Parallel()
	sweep(t, newHistory(t, time.Hour))
}

// sweep lives a history and verifies what every crash would leave of it.
func sweep(t *testing.T, h *history) {
	known := func() string { return fmt.Sprint(len(h.acked), len(h.safe), h.flushing, h.dropped) }
	sweepCrashes(t, 300, known, h.live, func(dir string) error { return h.at().verify(dir) })
	if len(h.acked) != historyBatches {
		t.Errorf("%d batches", len(h.acked))
	}
}
