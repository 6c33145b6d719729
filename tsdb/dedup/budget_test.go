package dedup

import (
	"flag"
	"io/fs"
	"math/rand/v2"
	"path/filepath"
	"runtime"
	"testing"
)

var budgetIDs = flag.Int("ids", 3_000_000, "how many ids TestBudget remembers; the budget is for 100 million")

// A hundred million ids of a day take at most 256 MiB of memory and 2 GiB of disk, with
// as many of them in no file yet as storage lets there be. Fewer take their part.
func TestBudget(t *testing.T) {
	const (
		full      = 100_000_000
		memory    = 256 << 20
		disk      = 2 << 30
		liveMax   = 2_000_000
		liveBytes = 16 * 2 * liveMax // places of tables that have just doubled
	)
	heap := func() int64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	before := heap()
	dir := t.TempDir()
	s := open(t, dir, func(o *Options) { o.IDsMax = full })
	r := rand.New(rand.NewPCG(1, 2))
	ids := make([]ID, 1000)
	for n := 0; n < *budgetIDs; n += len(ids) {
		for i := range ids {
			for j := 0; j < len(ids[i]); j += 8 {
				v := r.Uint64()
				for k := range 8 {
					ids[i][j+k] = byte(v >> (8 * k))
				}
			}
		}
		at := int64(100*hour) + int64(float64(n)/float64(*budgetIDs)*24*hour)
		s.mustReserve(t, at, ids...).Settle(true)
		if s.Live() >= liveMax {
			s.mustFlush(t)
		}
	}
	if s.Len() != *budgetIDs {
		t.Fatalf("%d ids, want %d", s.Len(), *budgetIDs)
	}
	used, part := heap()-before, float64(*budgetIDs)/full
	if may := int64(part*(memory-liveBytes)) + liveBytes; used > may {
		t.Errorf("%d ids take %d MiB of memory, at most %d are allowed", *budgetIDs, used>>20, may>>20)
	}
	size := int64(0)
	err := filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			var info fs.FileInfo
			if info, err = e.Info(); err == nil {
				size += info.Size()
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if may := int64(part * disk); size > may {
		t.Errorf("%d ids take %d MiB of disk, at most %d are allowed", *budgetIDs, size>>20, may>>20)
	}
	t.Logf("%d ids: %d MiB of memory, %d MiB of disk, %d of them in no file", *budgetIDs, used>>20, size>>20, s.Live())
	runtime.KeepAlive(s)
}
