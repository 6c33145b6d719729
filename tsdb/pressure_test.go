package tsdb

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/overload"
	"github.com/quipudb/quipu/internal/tenant"
)

// appendUntilRefused appends batches of new series until one is refused, and returns
// how many were taken and why that one was not.
func appendUntilRefused(t *testing.T, db *testDB, id tenant.ID, from int) (taken int, refused *overload.Error) {
	t.Helper()
	for i := from; ; i++ {
		var incs []increment.Increment
		for j := range 100 {
			incs = append(incs, counterInc("c_total", testStart, 1, "page", fmt.Sprint("/", i, "/", j)))
		}
		_, err := db.Append(context.Background(), id, &increment.Batch{HasKey: true, Key: [16]byte{byte(i), byte(i >> 8)}, Increments: incs})
		if errors.As(err, &refused) {
			return taken, refused
		}
		if err != nil {
			t.Fatal(err)
		}
		taken++
		if taken > 10_000 {
			t.Fatal("nothing bounds what is appended")
		}
	}
}

// While a flush takes its time, log and memory stay bounded: batches are refused, with
// no effect, and taken again when it is done.
func TestAppendsWaitForFlushes(t *testing.T) {
	for reason, change := range map[string]func(*DB){
		overload.ReasonLog:       func(db *DB) { db.pressure.logMax = 128 << 10 },
		overload.ReasonMemtables: func(db *DB) { db.pressure.memoryMax = 1 << 20 },
	} {
		t.Run(reason, func(t *testing.T) {
			settings := tenant.DefaultSettings()
			settings.Limits.SeriesPerMetric = 1_000_000
			db := openTestDB(t, "", func(o *Options) {
				o.Defaults, o.WALBytesMax, o.WALSegmentBytesMax, o.MemtableBytesMax = settings, 64<<10, 8<<10, 512<<10
			})
			change(db.DB)
			db.mustAppend(tenant.Default, counterInc("c_total", testStart, 1))
			s, err := db.store(tenant.Default, false)
			if err != nil {
				t.Fatal(err)
			}
			s.flushMu.Lock() // a flush that takes its time
			taken, refused := appendUntilRefused(t, db, tenant.Default, 0)
			if refused.Reason != reason || !strings.Contains(refused.Error(), "the server is overloaded: ") {
				t.Errorf("refused for %s: %v", refused.Reason, refused)
			}
			if log, memory := db.wal.size(), db.pressure.memory.Load(); reason == overload.ReasonLog && log > 256<<10 || reason == overload.ReasonMemtables && memory > 1200<<10 {
				t.Errorf("the log has %d bytes, memtables %d", log, memory)
			}
			if got := total(db.stored(tenant.Default)); got != float64(100*taken+1) {
				t.Errorf("stored %v, want the %d that were taken", got, 100*taken+1)
			}
			s.flushMu.Unlock()

			b := &increment.Batch{HasKey: true, Key: [16]byte{byte(taken), byte(taken >> 8)}, Increments: []increment.Increment{counterInc("c_total", testStart, 1)}}
			duplicate, err := db.Append(context.Background(), tenant.Default, b)
			for deadline := time.Now().Add(time.Minute); err != nil && time.Now().Before(deadline); runtime.Gosched() {
				duplicate, err = db.Append(context.Background(), tenant.Default, b)
			}
			if err != nil || duplicate {
				t.Errorf("after the flush: duplicate %v, %v", duplicate, err)
			}
			if got := total(db.stored(tenant.Default)); got != float64(100*taken+2) {
				t.Errorf("stored %v, want %d", got, 100*taken+2)
			}
		})
	}
}

// What memtables take is known exactly, whatever becomes of them.
func TestMemoryOfMemtablesIsCounted(t *testing.T) {
	db := openTestDB(t, "", nil)
	a, b := tenantID(t, "a"), tenantID(t, "b")
	same := func(when string) {
		t.Helper()
		want := int64(0)
		for _, s := range db.openStores() {
			want += s.memBytes()
		}
		if got := db.pressure.memory.Load(); got != want {
			t.Errorf("%s: %d bytes are counted, memtables have %d", when, got, want)
		}
	}
	for i := range 100 {
		db.mustAppend(a, counterInc("c_total", testStart.Add(-time.Duration(i)*time.Hour), 1, "page", fmt.Sprint(i)))
		db.mustAppend(b, counterInc("c_total", testStart, 1, "page", fmt.Sprint(i)))
	}
	same("appended")
	if err := db.Flush(context.Background(), a); err != nil {
		t.Fatal(err)
	}
	same("one is flushed")
	s, err := db.store(b, false)
	if err != nil {
		t.Fatal(err)
	}
	if did, err := s.relog(context.Background(), nil); err != nil || !did {
		t.Fatalf("%v, %v", did, err)
	}
	db.mustAppend(b, counterInc("c_total", testStart, 1))
	db = db.reopen(nil)
	same("replayed")
	if got := db.pressure.memory.Load(); got == 0 {
		t.Error("nothing is counted")
	}
}

// A tenant that cannot be flushed is refused before it takes the room of the others,
// and what only it needs of the log does not count.
func TestTenantThatCannotBeFlushedLeavesRoom(t *testing.T) {
	settings := tenant.DefaultSettings()
	settings.Limits.SeriesPerMetric = 1_000_000
	db := openTestDB(t, "", func(o *Options) {
		o.Defaults, o.WALBytesMax, o.WALSegmentBytesMax, o.MemtableBytesMax = settings, 64<<10, 8<<10, 1<<20
	})
	db.pressure.logMax, db.pressure.stuckMax, db.pressure.memoryMax = 128<<10, 1200<<10, 1<<30
	a, b := tenantID(t, "a"), tenantID(t, "b")
	db.mustAppend(a, counterInc("c_total", testStart, 1))
	s, err := db.store(a, false)
	if err != nil {
		t.Fatal(err)
	}
	s.flushMu.Lock()
	s.uncertain = errors.New("as after a failed sync of its directory")
	s.flushMu.Unlock()

	taken := 0
	for refused := (*overload.Error)(nil); ; {
		var n int
		n, refused = appendUntilRefused(t, db, a, taken)
		if taken += n; refused.Reason == overload.ReasonMemtables {
			if !strings.Contains(refused.Error(), "those of tenant a cannot be flushed") {
				t.Error(refused)
			}
			break
		}
		// Too fast for the background, which has to find out that it is stuck.
		if err := db.maintainMemory(context.Background()); err == nil {
			t.Fatal("the tenant was flushed")
		}
	}
	for i := range 100 {
		db.mustAppend(b, counterInc("c_total", testStart, 1, "page", fmt.Sprint(i)))
	}
	if x, y := total(db.stored(a)), total(db.stored(b)); x != float64(100*taken+1) || y != 100 {
		t.Errorf("stored %v and %v, want %d and 100", x, y, 100*taken+1)
	}
	s.flushMu.Lock()
	s.uncertain = nil
	s.flushMu.Unlock()
	if err := db.maintainMemory(context.Background()); err != nil {
		t.Fatal(err)
	}
	db.mustAppend(a, counterInc("c_total", testStart, 1))
}
