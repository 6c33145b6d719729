package main

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"path/filepath"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/scope"
	"github.com/quipudb/quipu/internal/tenant"
	"github.com/quipudb/quipu/promql"
	"github.com/quipudb/quipu/tsdb"
)

const (
	distinctSeries = 1000
	distinctDays   = 30
	// Some hundred ids an hour, each series of so many users of its own.
	distinctPerHour = 300
	distinctUsers   = 20_000
	// queryRounds are of up to a second each.
	queryRounds = 3
)

// distinctEnd is a time at which no hour ends.
var distinctEnd = start.Add(distinctDays*24*time.Hour + 15*time.Hour + 37*time.Minute + 12*time.Second)

// fillDistinct appends the ids of n series for all days and the part of one more, and
// flushes and merges them day by day.
func fillDistinct(db *tsdb.DB, n int) error {
	r := newRand()
	series := make([]*increment.Series, n)
	for i := range series {
		series[i] = increment.NewSeries(labels.FromStrings(model.MetricNameLabel, "users", "page", fmt.Sprintf("/articles/%05d", i), "country", fmt.Sprintf("C%d", i%25)), increment.Distinct, nil)
	}
	var b increment.Batch
	for w := 0; windowTime(w)+step <= distinctEnd.UnixMilli(); w++ {
		for i := range series {
			ids := poisson(r, distinctPerHour*step/3_600_000.0)
			if ids == 0 {
				continue
			}
			inc := increment.Increment{Series: series[i], Time: windowTime(w)}
			for range ids {
				inc.IDs = append(inc.IDs, userID(r, i))
			}
			b.Increments = append(b.Increments, inc)
		}
		if _, err := db.Append(context.Background(), tenant.Default, &b); err != nil {
			return err
		}
		b.Increments = b.Increments[:0]
		if (w+1)%windowsPerDay == 0 {
			if err := db.Flush(context.Background(), tenant.Default); err != nil {
				return err
			}
		}
	}
	return db.Flush(context.Background(), tenant.Default)
}

// userID is the hash of a random user of the i-th series.
func userID(r *rand.Rand, i int) uint64 {
	return uint64(i*distinctUsers+1+r.IntN(distinctUsers)) * 0x9e3779b97f4a7c15
}

// distinct is what the distinct ids of 30 days cost to count, by series and by country,
// and the size of unions beside that of windows.
func distinct(e env) (results, error) {
	n := int(distinctSeries * e.scale)
	o := e.fillOptions()
	o.Now = func() time.Time { return distinctEnd }
	out := results{}
	err := withOurs(o, func(db *tsdb.DB) error {
		if err := fillDistinct(db, n); err != nil {
			return err
		}
		windows, err := fileBytes(e.dir, isChunkFile)
		if err != nil {
			return err
		}
		unions, err := fileBytes(e.dir, func(p string) bool { return filepath.Base(p) == "unions" })
		if err != nil {
			return err
		}
		out["unions_of_windows"] = unions / windows
		out["bytes_per_id"] = (unions + windows) / float64(n*distinctPerHour*(distinctDays*24+15))
		engine := promql.NewEngine(promql.EngineOptions{Distinct: db})
		for _, q := range []struct {
			key, query string
			results    int
			ids        float64 // of each
		}{
			{"series_cpu_s", "distinct_over_time(users[30d])", n, distinctUsers},
			{"country_cpu_s", `count_distinct(users[30d], "country")`, min(n, 25), float64(n) / float64(min(n, 25)) * distinctUsers},
		} {
			took, err := e.measure(func() error {
				for range queryRounds {
					if err := countIDs(engine, db, q.query, q.results, q.ids); err != nil {
						return err
					}
				}
				return nil
			})
			if err != nil {
				return err
			}
			e.profile = "" // one profile a probe
			out[q.key] = took.cpu.Seconds() / queryRounds
		}
		return nil
	})
	return out, err
}

// countIDs runs a query and verifies its results: so many, each of about so many ids.
func countIDs(engine *promql.Engine, db *tsdb.DB, query string, results int, ids float64) error {
	ctx := scope.With(context.Background(), scope.Scope{Tenant: tenant.Default, Now: distinctEnd.UnixMilli()})
	q, err := engine.NewInstantQuery(ctx, db, nil, query, distinctEnd)
	if err != nil {
		return err
	}
	defer q.Close()
	res := q.Exec(ctx)
	if res.Err != nil {
		return res.Err
	}
	v, err := res.Vector()
	if err != nil || len(v) != results {
		return fmt.Errorf("%s has %d results, want %d: %w", query, len(v), results, err)
	}
	for _, s := range v {
		if math.Abs(s.F/ids-1) > 5*0.0081 {
			return fmt.Errorf("%s: %s has %v ids, want about %v", query, s.Metric, s.F, ids)
		}
	}
	return nil
}
