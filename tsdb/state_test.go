package tsdb

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/tenant"
)

// testState is how often each of some numbers came; Settle counts those that came. A
// change is '+' and a number, or '-' and numbers with how often they were counted.
type testState struct {
	crowdedAt int // numbers; 0: never

	mu   sync.Mutex
	came map[uint64]uint64
}

func newTestState(tenant.ID) State { return &testState{came: map[uint64]uint64{}} }

func testChange(n int) []byte { return binary.AppendUvarint([]byte{'+'}, uint64(n)) }

func (s *testState) Apply(change []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := decoder{src: change[1:]}
	switch change[0] {
	case '+':
		s.came[d.uvarint()]++
	case '-':
		for len(d.src) > 0 {
			n, times := d.uvarint(), d.uvarint()
			if s.came[n] != times {
				return fmt.Errorf("%d came %d times, %d are counted", n, s.came[n], times)
			}
			delete(s.came, n)
		}
	default:
		return fmt.Errorf("change %x", change)
	}
	return d.err
}

func (s *testState) Save() (out []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range slices.Sorted(maps.Keys(s.came)) {
		out = binary.AppendUvarint(binary.AppendUvarint(out, n), s.came[n])
	}
	return out
}

func (s *testState) Load(saved []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.came = map[uint64]uint64{}
	d := decoder{src: saved}
	for len(d.src) > 0 {
		n := d.uvarint()
		s.came[n] = d.uvarint()
	}
	return d.err
}

func (s *testState) Settle(now, grid int64) *increment.Batch {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.came) == 0 {
		return nil
	}
	b := &increment.Batch{State: []byte{'-'}, SkipRefused: true}
	for _, n := range slices.Sorted(maps.Keys(s.came)) {
		b.State = binary.AppendUvarint(binary.AppendUvarint(b.State, n), s.came[n])
		b.Increments = append(b.Increments, increment.Increment{Series: series(increment.Counter, "came_total", "number", fmt.Sprint(n)), Time: testStart.UnixMilli() / grid * grid, Value: float64(s.came[n])})
	}
	return b
}

func (s *testState) Due(int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.came) > 0
}

func (s *testState) Crowded() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.crowdedAt > 0 && len(s.came) >= s.crowdedAt
}

// times is how often a number came: not counted yet, and counted.
func (d *testDB) times(id tenant.ID, n int) (waits, counted float64) {
	d.t.Helper()
	s := d.mustStore(id)
	state := s.state.State.(*testState)
	state.mu.Lock()
	waits = float64(state.came[uint64(n)])
	state.mu.Unlock()
	return waits, total(d.stored(id, labels.MustNewMatcher(labels.MatchEqual, "number", fmt.Sprint(n))))
}

// inState compares how often batch n came by its state with what the log's batch says.
func (h *history) inState(n int, came bool) error {
	id, _ := h.batch(n)
	if s, err := h.db.store(id, false); s == nil || err != nil {
		return err
	}
	waits, counted := (&testDB{DB: h.db, t: h.t}).times(id, n)
	switch got := waits + counted; {
	case h.dropped && got <= 1: // what was counted may be past retention
	case came && got != 1, !came && got != 0:
		return fmt.Errorf("batch %d is %v times in the state and counted %v times of it; it came: %v", n, waits, counted, came)
	}
	return nil
}

func withState(o *Options) { o.NewState = newTestState }

func (d *testDB) mustCome(id tenant.ID, numbers ...int) {
	d.t.Helper()
	for _, n := range numbers {
		if dup, err := d.Append(context.Background(), id, &increment.Batch{State: testChange(n)}); err != nil || dup {
			d.t.Fatalf("append: duplicate %v, %v", dup, err)
		}
	}
}

func (d *testDB) mustHave(id tenant.ID, n int, waits, counted float64) {
	d.t.Helper()
	if w, c := d.times(id, n); w != waits || c != counted {
		d.t.Errorf("%d waits %v times and is counted %v times, want %v and %v", n, w, c, waits, counted)
	}
}

// State is there after a restart, whether a flush, a record of the tenant or the log alone
// has it, and what is counted of it is counted once.
func TestStateSurvivesRestarts(t *testing.T) {
	ctx, id := context.Background(), tenant.Default
	db := openTestDB(t, "", withState)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	reopen := func() { db = db.reopen(withState) }
	files := func() int {
		t.Helper()
		names, err := filepath.Glob(filepath.Join(db.dir, "default", "*"+stateSuffix))
		must(err)
		return len(names)
	}
	db.mustCome(id, 1, 2, 2)
	reopen()
	db.mustHave(id, 2, 2, 0)
	must(db.Flush(ctx, id)) // nothing but state
	must(db.releaseSegments())
	reopen()
	db.mustHave(id, 2, 2, 0)
	if n := files(); n != 1 {
		t.Errorf("%d files of state", n)
	}
	db.mustCome(id, 2, 3)
	must(db.SettleState(ctx, id))
	db.mustHave(id, 2, 0, 3)
	reopen()
	db.mustHave(id, 2, 0, 3)
	db.mustCome(id, 4)
	for range 2 {
		did, err := db.mustStore(id).relog(ctx, nil)
		if must(err); !did {
			t.Fatal("not logged again")
		}
		must(db.releaseSegments())
		reopen()
		db.mustHave(id, 2, 0, 3)
		db.mustHave(id, 4, 1, 0)
	}
	must(db.SettleState(ctx, id))
	must(db.Flush(ctx, id)) // of an empty state there is no file
	if n := files(); n != 0 {
		t.Errorf("%d files of state", n)
	}
	reopen()
	for n, counted := range map[int]float64{1: 1, 2: 3, 3: 1, 4: 1} {
		db.mustHave(id, n, 0, counted)
	}
	must(db.Close())
	mustBeSound(t, db.dir)
	db.DB = nil
}

// A batch that is sent again does not change the state again.
func TestDuplicateBatchChangesNoState(t *testing.T) {
	db := openTestDB(t, "", withState)
	for i := range 3 {
		dup, err := db.Append(context.Background(), tenant.Default, &increment.Batch{HasKey: true, Key: [16]byte{1}, State: testChange(7)})
		if err != nil || dup != (i > 0) {
			t.Fatal(dup, err)
		}
		db.mustHave(tenant.Default, 7, 1, 0)
		db = db.reopen(withState)
	}
}

// Past its limit state is counted before a batch adds to it.
func TestCrowdedStateIsSettledFirst(t *testing.T) {
	db := openTestDB(t, "", func(o *Options) {
		o.NewState = func(tenant.ID) State { return &testState{came: map[uint64]uint64{}, crowdedAt: 2} }
	})
	db.mustCome(tenant.Default, 1, 2)
	db.mustHave(tenant.Default, 1, 1, 0)
	db.mustCome(tenant.Default, 3)
	db.mustHave(tenant.Default, 1, 0, 1)
	db.mustHave(tenant.Default, 2, 0, 1)
	db.mustHave(tenant.Default, 3, 1, 0)
}

// Batches go on while state is settled and flushed, and each counts once.
func TestStateUnderWay(t *testing.T) {
	ctx, id := context.Background(), tenant.Default
	db := openTestDB(t, "", func(o *Options) { o.NewState, o.FS = newTestState, laxFS{} })
	const clients, each = 4, 100
	var wg sync.WaitGroup
	for c := range clients {
		wg.Go(func() {
			for i := range each {
				b := &increment.Batch{State: testChange(i % 5), Increments: []increment.Increment{counterInc("events_total", testStart, 1, "client", fmt.Sprint(c))}}
				if _, err := db.Append(ctx, id, b); err != nil {
					t.Error(err)
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	for i := 0; ; i++ {
		select {
		case <-done:
		default:
			if err := errors.Join(db.SettleState(ctx, id), db.maintainMemory(ctx)); err != nil {
				t.Fatal(err)
			}
			if i%3 == 0 {
				if err := db.Flush(ctx, id); err != nil {
					t.Fatal(err)
				}
			}
			continue
		}
		break
	}
	for range 2 {
		sum := 0.0
		for n := range 5 {
			waits, counted := db.times(id, n)
			sum += waits + counted
		}
		if sum != clients*each {
			t.Errorf("%v came, want %d", sum, clients*each)
		}
		db = db.reopen(withState)
	}
}

// A snapshot has the state of its moment, and a tenant that is dropped none any more.
func TestStateInSnapshotsAndDroppedTenants(t *testing.T) {
	ctx, id := context.Background(), tenant.Default
	db := openTestDB(t, "", withState)
	db.mustCome(id, 1)
	name, err := db.Snapshot(ctx, id, false)
	if err != nil {
		t.Fatal(err)
	}
	db.mustCome(id, 2)
	state := db.mustStore(id).state.State.(*testState)
	if err := db.DropTenant(ctx, id); err != nil {
		t.Fatal(err)
	}
	if state.Due(0) {
		t.Error("the state of a dropped tenant is kept")
	}
	db.mustCome(id, 3)
	db.mustHave(id, 1, 0, 0)
	db.mustHave(id, 3, 1, 0)
	dir := filepath.Join(db.dir, snapshotDirName, name)
	mustBeSound(t, dir)
	then := openTestDB(t, dir, withState)
	then.mustHave(id, 1, 1, 0)
	then.mustHave(id, 2, 0, 0)
}

// A tenant that nobody asks for is opened where it has state, which is due some day.
func TestIdleTenantWithStateIsOpened(t *testing.T) {
	db := openTestDB(t, "", withState)
	id := tenantID(t, "idle")
	db.mustCome(id, 1)
	if err := db.Flush(context.Background(), id); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the log's last segment stays until there is another
		db = db.reopen(withState)
		if err := db.releaseSegments(); err != nil {
			t.Fatal(err)
		}
	}
	if db.knows(id) {
		t.Fatal("the tenant is open")
	}
	if err := db.visitIdle(*db.now); err != nil || !db.knows(id) {
		t.Fatalf("the tenant is not opened: %v", err)
	}
	if err := db.maintainMemory(context.Background()); err != nil {
		t.Fatal(err)
	}
	db.mustHave(id, 1, 0, 1)
}

// Nothing that is state is lost because nobody takes it: batches with it are refused, and
// tenants whose log has some.
func TestStateThatNothingTakes(t *testing.T) {
	ctx, id := context.Background(), tenant.Default
	db := openTestDB(t, "", nil)
	if _, err := db.Append(ctx, id, &increment.Batch{State: testChange(1)}); !errors.Is(err, errNoState) {
		t.Errorf("append: %v", err)
	}
	db = db.reopen(withState)
	db.mustCome(id, 1)
	db = db.reopen(nil)
	if _, err := db.Append(ctx, id, &increment.Batch{}); !errors.Is(err, errNoState) {
		t.Errorf("append after a restart: %v", err)
	}
	db = db.reopen(withState)
	db.mustHave(id, 1, 1, 0)
	if err := db.Flush(ctx, id); err != nil {
		t.Fatal(err)
	}
	db = db.reopen(nil) // the file waits
	db.mustAppend(id, counterInc("events_total", testStart, 1))
	if err := db.Flush(ctx, id); err != nil {
		t.Fatal(err)
	}
	db = db.reopen(withState)
	db.mustHave(id, 1, 1, 0)
}

// A file of state that is damaged takes its tenant out of service, and a check names it.
func TestDamagedStateFile(t *testing.T) {
	db := openTestDB(t, "", withState)
	db.mustCome(tenant.Default, 1)
	if err := errors.Join(db.Flush(context.Background(), tenant.Default), db.Close()); err != nil {
		t.Fatal(err)
	}
	dir := db.dir
	db.DB = nil
	file := only(t, filepath.Join(dir, "default"), "*"+stateSuffix)
	src, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for i := range src {
		flip(t, file, i, 2)
		_, problems, err := Check(context.Background(), dir)
		if err != nil || len(problems) != 1 || !strings.HasSuffix(problems[0].Path, stateSuffix) {
			t.Errorf("byte %d: check says %v, %v", i, problems, err)
		}
		flip(t, file, i, 2)
	}
	judged := 0
	judge := func(saved []byte) error {
		judged++
		return fmt.Errorf("%d bytes are wrong", len(saved))
	}
	if _, problems, err := Check(context.Background(), dir, judge); err != nil || judged != 2 || len(problems) != 2 || problems[0].What != "2 bytes are wrong" {
		t.Errorf("check says %v, %v; %d were judged, want the file and a record", problems, err, judged)
	}
	flip(t, file, 10, 2)
	db = openTestDB(t, dir, withState)
	if _, err := db.Append(context.Background(), tenant.Default, &increment.Batch{}); err == nil || !strings.Contains(err.Error(), stateSuffix+": checksum is wrong") {
		t.Errorf("append: %v", err)
	}
}

// What fails while state is counted or its file written changes nothing, and is done later.
func TestStateAndFaults(t *testing.T) {
	ctx, id := context.Background(), tenant.Default
	db := openTestDB(t, "", withState)
	db.mustCome(id, 1, 1)
	s := db.mustStore(id)
	taken := s.state.takeFresh()
	if taken == nil || s.state.takeFresh() != nil {
		t.Fatal("state is taken twice, or not at all")
	}
	s.state.giveBack()
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	if err := db.SettleState(cancelled, id); !errors.Is(err, context.Canceled) {
		t.Errorf("settled though cancelled: %v", err)
	}
	db.mustHave(id, 1, 2, 0)
	*db.now = db.now.Add(time.Minute)
	if err := errors.Join(db.SettleState(ctx, id), db.Flush(ctx, id)); err != nil {
		t.Fatal(err)
	}
	db = db.reopen(withState)
	db.mustHave(id, 1, 0, 2)
}
