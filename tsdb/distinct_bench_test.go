//go:build unix

package tsdb

import (
	"context"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/sketch"
	"github.com/quipudb/quipu/internal/tenant"
)

var benchSeries = flag.Int("bench-series", 1000, "how many series BenchmarkDistinct30Days counts the ids of")

var benchStart = time.Date(2026, 2, 1, 0, 0, 0, 0, time.UTC)

// writeDistinct writes a block of n distinct series with ids of few users each, some
// perHour ids an hour, in days [from, to) since benchStart.
func (d *testDB) writeDistinct(n, users, perHour, from, to int) {
	d.t.Helper()
	s, err := d.store(tenant.Default, true)
	if err != nil {
		d.t.Fatal(err)
	}
	spec := blockSpec{tenantDir: s.dir, tenant: s.id.String(), generation: s.generation, id: d.newULID(), step: g, seq: s.man.nextSeq(), level: 1, chunkBytes: 1 << 30}
	mint, maxt := benchStart.UnixMilli()+int64(from)*dayMillis, benchStart.UnixMilli()+int64(to)*dayMillis
	for i := range n {
		r := rand.New(rand.NewPCG(uint64(i), uint64(from)))
		spec.series = append(spec.series, blockSeries{
			labels: labels.FromStrings(model.MetricNameLabel, "users", "page", fmt.Sprint("/", i)), kind: increment.Distinct, mint: mint, maxt: maxt,
			parts: func(mint, maxt int64) ([]points, error) {
				p := points{kind: increment.Distinct}
				var ids []uint64
				for w := mint; w < maxt; w += g {
					ids = ids[:0]
					for t := r.ExpFloat64(); t < float64(perHour)*float64(g)/hourMillis; t += r.ExpFloat64() { // Poisson
						ids = append(ids, uint64(i*users+1+r.IntN(users))*0x9e3779b97f4a7c15)
					}
					if len(ids) == 0 {
						continue
					}
					sk := new(sketch.Sketch)
					if err := sk.Add(ids...); err != nil {
						return nil, err
					}
					p.win, p.ids = append(p.win, w), append(p.ids, sk)
				}
				return []points{p}, nil
			},
		})
	}
	bi, ok, err := writeBlock(context.Background(), d.opts.FS, &spec)
	if err != nil || !ok {
		d.t.Fatal(ok, err)
	}
	if err := s.replaceBlocks(nil, []*block{newBlock(d.blocks, s.home, bi)}, math.MinInt64); err != nil {
		d.t.Fatal(err)
	}
}

// cpuSeconds is what this process has used.
func cpuSeconds() float64 {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()).Seconds()
}

// BenchmarkDistinct30Days is what the ids of 30 days of 1,000 series of some hundred
// ids an hour cost to count, in blocks as merges leave them: at a time that no hour
// ends at, each series for itself.
func BenchmarkDistinct30Days(b *testing.B) {
	for _, c := range []struct {
		name           string
		users, perHour int
	}{
		{"1500 users", 1500, 300},
		{"2000 users", 2040, 300},
		{"20000 users", 20_000, 300},
	} {
		b.Run(c.name, func(b *testing.B) { benchDistinct(b, c.users, c.perHour) })
	}
}

func benchDistinct(b *testing.B, users, perHour int) {
	db := openTestDB(b, "", func(o *Options) { o.FS = noSyncFS{} })
	for _, days := range [][2]int{{0, 27}, {27, 30}, {30, 31}} {
		db.writeDistinct(*benchSeries, users, perHour, days[0], days[1])
	}
	end := benchStart.Add(30*24*time.Hour + 15*time.Hour + 37*time.Minute + 12*time.Second)
	*db.now = end
	s, err := db.store(tenant.Default, false)
	if err != nil {
		b.Fatal(err)
	}
	for _, unions := range []bool{true, false} {
		if !unions {
			for _, bl := range s.versions.current.blocks {
				bl.Unions = 0
				if err := bl.cache.drop(bl); err != nil {
					b.Fatal(err)
				}
			}
		}
		b.Run(fmt.Sprint("unions=", unions), func(b *testing.B) {
			before, n := cpuSeconds(), 0
			for b.Loop() {
				n++
				db.sumDistinct(b, end, 30*24*time.Hour)
			}
			b.ReportMetric((cpuSeconds()-before)/float64(n), "cpu-s/op")
			b.ReportMetric(db.sumDistinct(b, end, 30*24*time.Hour)/float64(*benchSeries), "ids/series")
		})
	}
	var of, all int64
	for _, bi := range s.man.Blocks {
		of, all = of+bi.Unions, all+bi.Bytes
	}
	b.Logf("%d MB, of which %d MB unions", all>>20, of>>20)
}

// sumDistinct is the sum over all series of the ids of the range before end.
func (d *testDB) sumDistinct(t testing.TB, end time.Time, width time.Duration) (sum float64) {
	q := d.querier(t, tenant.Default, end, end)
	defer q.Close()
	in := []sketch.Interval{{Lo: end.Add(-width).UnixMilli(), Hi: end.UnixMilli()}}
	u := make([]sketch.Union, 1)
	_, err := d.DistinctSeries(q.ctx, in, func(series []sketch.Series) error {
		for _, one := range series {
			u[0].Reset()
			if err := one.Unite(q.ctx, u); err != nil {
				return err
			}
			n, err := u[0].Estimate()
			if err != nil {
				return err
			}
			sum += n
		}
		return nil
	}, labels.MustNewMatcher(labels.MatchEqual, model.MetricNameLabel, "users"))
	if err != nil {
		t.Fatal(err)
	}
	return sum
}
