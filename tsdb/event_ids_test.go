package tsdb

import (
	"context"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/tenant"
	"github.com/quipudb/quipu/internal/vfs"
)

func eventID(n int) (id [16]byte) {
	binary.BigEndian.PutUint64(id[:], uint64(n)*0x9e3779b97f4a7c15)
	binary.LittleEndian.PutUint64(id[8:], uint64(n)*0xd6e8feb86659fd93)
	return id
}

// sendEvents posts one event for each number, as ingestion does: what is known is left
// out. It returns how many counted.
func (d *testDB) sendEvents(ns ...int) (counted int, err error) {
	d.t.Helper()
	var ids [][16]byte
	for _, n := range ns {
		ids = append(ids, eventID(n))
	}
	r, err := d.Reserve(ids)
	if err != nil {
		return 0, err
	}
	for i := range ns {
		if !r.Duplicate(i) {
			counted++
		}
	}
	if counted == 0 {
		r.Settle(false)
		return 0, nil
	}
	b := &increment.Batch{Reservation: r, Increments: []increment.Increment{counterInc("c_total", testStart, float64(counted))}}
	_, err = d.Append(context.Background(), tenant.Default, b)
	return counted, err
}

// An event with an id counts once: sent again at once, in another batch, after a
// restart, after its id went to a file and its segment from the log.
func TestEventsCountOnce(t *testing.T) {
	db := openTestDB(t, "", func(o *Options) { o.WALSegmentBytesMax = 500 })
	send := func(want int, ns ...int) {
		t.Helper()
		if got, err := db.sendEvents(ns...); err != nil || got != want {
			t.Fatalf("of events %v %d count, %v; want %d", ns, got, err, want)
		}
	}
	send(3, 1, 2, 3, 2)
	send(1, 3, 4)
	db = db.reopen(nil)
	send(0, 1, 2, 3, 4)
	send(1, 5)
	for _, stage := range []string{"written", "segments gone", "opened again"} {
		switch stage {
		case "written":
			if err := db.flushIDs(); err != nil {
				t.Fatal(err)
			}
		case "segments gone":
			if err := db.Flush(context.Background(), tenant.Default); err != nil {
				t.Fatal(err)
			}
			if n := db.ids.Live(); n != 0 {
				t.Errorf("%d ids in memory", n)
			}
		default:
			db = db.reopen(nil)
		}
		send(0, 1, 2, 3, 4, 5)
		if got := total(db.stored(tenant.Default)); got != 5 {
			t.Errorf("%s: %v events, want 5", stage, got)
		}
	}
	if segments, err := listSegments(vfs.OS{}, filepath.Join(db.dir, walDirName)); err != nil || len(segments) > 2 {
		t.Errorf("segments %v are left, %v", segments, err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	db.DB = nil
	sum, problems, err := Check(context.Background(), db.dir)
	if err != nil || len(problems) > 0 || sum.EventIDs != 5 {
		t.Errorf("check: %+v %v %v", sum, problems, err)
	}
}

// A segment with ids that no file has stays, though all its increments are in blocks.
func TestLogIsKeptForIDs(t *testing.T) {
	db := openTestDB(t, "", func(o *Options) { o.WALSegmentBytesMax = 1 })
	if _, err := db.sendEvents(1, 2); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := db.Flush(context.Background(), tenant.Default); err != nil {
			t.Fatal(err)
		}
		db.fill(1)
	}
	db = db.reopen(nil)
	if got, err := db.sendEvents(1, 2); err != nil || got != 0 {
		t.Errorf("%d events count again, %v", got, err)
	}
}

// A batch that is refused, of which nothing is left, is a duplicate by its key, or cannot
// be logged uses up no id, and no key.
func TestRefusedBatchUsesNoID(t *testing.T) {
	fault := &faultFS{}
	db := openTestDB(t, "", func(o *Options) { o.FS = fault })
	db.mustAppend(tenant.Default, counterInc("c_total", testStart, 1))
	post := func(b *increment.Batch, n int) error {
		t.Helper()
		r, err := db.Reserve([][16]byte{eventID(n)})
		if err != nil {
			t.Fatal(err)
		}
		if r.Duplicate(0) {
			t.Fatalf("event %d is known", n)
		}
		b.Reservation = r
		_, err = db.Append(context.Background(), tenant.Default, b)
		return err
	}
	wrong := increment.Increment{Series: series(increment.Distinct, "c_total"), Time: counterInc("c_total", testStart, 1).Time}
	var kind *KindError
	if err := post(&increment.Batch{Increments: []increment.Increment{wrong}}, 1); !errors.As(err, &kind) {
		t.Errorf("a refused batch: %v", err)
	}
	left := &increment.Batch{SkipRefused: true, HasKey: true, Key: [16]byte{7}, Increments: []increment.Increment{wrong}}
	if err := post(left, 1); err != nil || len(left.Refused) != 1 {
		t.Errorf("a batch of which nothing is left: %v, %v", err, left.Refused)
	}
	key := func() *increment.Batch {
		return &increment.Batch{HasKey: true, Key: [16]byte{7}, Increments: []increment.Increment{counterInc("c_total", testStart, 1)}}
	}
	if duplicate, err := db.Append(context.Background(), tenant.Default, key()); err != nil || duplicate {
		t.Fatalf("duplicate %v, %v", duplicate, err)
	}
	if err := post(key(), 1); err != nil {
		t.Errorf("a duplicate by its key: %v", err)
	}
	fault.failSync.Store(true)
	if err := post(&increment.Batch{Increments: []increment.Increment{counterInc("c_total", testStart, 1)}}, 1); !errors.Is(err, ErrReadOnly) {
		t.Errorf("a batch that is not logged: %v", err)
	}
	fault.failSync.Store(false)
	db = db.reopen(nil)
	// What a failed sync left in the file may be there, and then its id is too.
	counted, err := db.sendEvents(1)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := total(db.stored(tenant.Default)), 3.0; got != want {
		t.Errorf("%v events, want %v (%d counted now)", got, want, counted)
	}
}

// A file of ids that cannot be read keeps storage from opening: events could count
// twice.
func TestDamagedIDsAreNotIgnored(t *testing.T) {
	db := openTestDB(t, "", nil)
	if _, err := db.sendEvents(1); err != nil {
		t.Fatal(err)
	}
	if err := db.flushIDs(); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	dir := db.dir
	db.DB = nil
	files, err := filepath.Glob(filepath.Join(dir, idDirName, "*"))
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	src, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	src[len(src)-1] ^= 1
	if err := os.WriteFile(files[0], src, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(Options{Dir: dir}); err == nil {
		t.Error("storage opens")
	}
	if _, problems, err := Check(context.Background(), dir); err != nil || len(problems) != 1 || problems[0].Path != filepath.Join(idDirName, filepath.Base(files[0])) {
		t.Errorf("check: %v, %v", problems, err)
	}
}
