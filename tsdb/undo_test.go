package tsdb

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/scope"
	"github.com/quipudb/quipu/internal/tenant"
)

// Whatever is appended, created, flushed or merged after a reader came: it reads
// what was there when it came, as often as it looks.
func TestReaderSeesItsCut(t *testing.T) {
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 8))
		db := openTestDB(t, "", nil)
		randomInc := func() increment.Increment {
			ts := testStart.Add(-time.Duration(r.IntN(300)) * time.Minute / 4)
			inc := counterInc("c_total", ts, float64(1+r.IntN(3)), "page", fmt.Sprint(r.IntN(6)))
			switch r.IntN(3) {
			case 1:
				inc.Series, inc.Hist = series(increment.Histogram, "h", "page", fmt.Sprint(r.IntN(4))), &increment.Hist{}
				inc.Hist.Observe(float64(r.IntN(100)))
			case 2:
				inc.Series = series(increment.Distinct, "d")
				inc.IDs = []uint64{uint64(r.IntN(50)) << 40}
			}
			return inc
		}
		for range 30 {
			db.mustAppend(tenant.Default, randomInc(), randomInc())
		}
		type reader struct {
			q    *querier
			ctx  context.Context
			want map[string]float64
		}
		var readers []reader
		open := func() {
			q := &querier{db: db.DB, mint: 0, maxt: never}
			ctx := scope.With(context.Background(), scope.Scope{Tenant: tenant.Default, Now: never})
			if _, _, err := q.pin(ctx); err != nil {
				t.Fatal(err)
			}
			readers = append(readers, reader{q, ctx, db.stored(tenant.Default)})
		}
		open()
		for range 60 {
			switch r.IntN(12) {
			case 0:
				open()
			case 1:
				if err := db.Flush(context.Background(), tenant.Default); err != nil {
					t.Fatal(err)
				}
			case 2:
				if i := r.IntN(len(readers)); len(readers) > 1 {
					if err := readers[i].q.Close(); err != nil {
						t.Fatal(err)
					}
					readers = append(readers[:i], readers[i+1:]...)
				}
			default:
				db.mustAppend(tenant.Default, randomInc(), randomInc())
			}
			rd := readers[r.IntN(len(readers))]
			if err := diff(storedAt(t, rd.q, rd.ctx), rd.want); err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
		}
		for _, rd := range readers {
			if err := rd.q.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// storedAt is what a reader sees, in the form of testDB.stored.
func storedAt(t *testing.T, q *querier, ctx context.Context) map[string]float64 {
	t.Helper()
	v, _, err := q.pin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	all := window{showMax: never, sampleMax: never}
	var blocks openBlocks
	defer blocks.close()
	sels, err := selectSeries(ctx, v, &blocks, all, []*labels.Matcher{labels.MustNewMatcher(labels.MatchRegexp, model.MetricNameLabel, ".+")})
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]float64{}
	for _, sel := range sels {
		p, err := sel.read(0, never, q.cut)
		if err != nil {
			t.Fatal(err)
		}
		sumPoints(t, out, sel.labels, &p)
	}
	return out
}

// A batch that adds to two series is never seen half, and one expression has one
// value for one selector, while clients post.
func TestQueriesBesideAppendsAreConsistent(t *testing.T) {
	db := openTestDB(t, "", nil)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for c := range 3 {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				ts := testStart.Add(-time.Duration(i%90) * time.Minute)
				page := fmt.Sprint(c, "/", i%40)
				db.mustAppend(tenant.Default, counterInc("x_total", ts, 2, "page", page), counterInc("y_total", ts, 2, "page", page))
			}
		})
	}
	tw := &twin{t: t, ours: db, now: testStart.Add(time.Minute).UnixMilli(), engine: newTestEngine()}
	for i := range 150 {
		expr := []string{"sum(x_total) - sum(y_total)", "sum(x_total - x_total)", "sum(increase(x_total[1h]) - increase(y_total[1h]))"}[i%3]
		got, err := tw.run(db, expr, testStart.Add(time.Minute), testStart.Add(time.Minute), 0)
		if err != nil {
			t.Fatal(err)
		}
		if want := fmt.Sprintf("{} %d 0", tw.now); got != want && got != "" {
			t.Errorf("%s is %q", expr, got)
		}
		if i%25 == 24 {
			if err := db.Flush(context.Background(), tenant.Default); err != nil {
				t.Fatal(err)
			}
		}
	}
	close(stop)
	wg.Wait()
}
