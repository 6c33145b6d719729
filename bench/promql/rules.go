package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	upstream "github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/rules"
	"github.com/prometheus/prometheus/storage"
	promtsdb "github.com/prometheus/prometheus/tsdb"

	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/tenant"
	"github.com/quipudb/quipu/promql"
	"github.com/quipudb/quipu/promql/ruler"
	"github.com/quipudb/quipu/tsdb"
)

// groupText is a group of rules that together read every series of the dense data once:
// one for each page, a hundred series.
func groupText(d data, scale float64) string {
	var b strings.Builder
	b.WriteString("groups:\n- name: pages\n  interval: 15s\n  query_offset: 15s\n  rules:\n")
	for page := range max(1, int(float64(d.series)*scale)/100) {
		fmt.Fprintf(&b, "  - {record: \"country:m:rate5m\", labels: {page: \"%04d\"}, expr: 'sum by (country) (rate(m_total{page=\"/articles/%04d\"}[5m]))'}\n", page, page)
	}
	return b.String()
}

// evaluations returns a function that evaluates the group once, a minute later each
// time, and says how many samples were recorded and their sum. The last is before the
// end of the data.
func evaluations(e env, d data, ours *tsdb.DB, theirs *promtsdb.DB, engine upstream.QueryEngine) (func() (results, error), error) {
	first := d.end().Add(-10 * time.Minute)
	if ours != nil {
		return ourEvaluations(e, d, first, ours, engine)
	}
	name := filepath.Join(e.dir, "rules.yaml")
	if err := os.WriteFile(name, []byte(groupText(d, e.scale)), 0o600); err != nil {
		return nil, err
	}
	summed := &summedAppendable{AppendableV2: theirs}
	m := rules.NewManager(&rules.ManagerOptions{
		QueryFunc: rules.EngineQueryFunc(engine, theirs), AppendableV2: summed, Queryable: theirs,
		Context: context.Background(), NotifyFunc: func(context.Context, string, ...*rules.Alert) {}, Parser: parser.NewParser(parser.Options{}),
	})
	groups, errs := m.LoadGroups(time.Minute, labels.EmptyLabels(), "", nil, false, name)
	if len(errs) > 0 {
		return nil, errs[0]
	}
	var group *rules.Group
	for _, g := range groups {
		group = g
	}
	return func() (results, error) {
		first = first.Add(time.Minute)
		summed.results = results{}
		group.Eval(context.Background(), first)
		return summed.results, firstError(group.Rules())
	}, nil
}

func ourEvaluations(e env, d data, first time.Time, db *tsdb.DB, engine upstream.QueryEngine) (func() (results, error), error) {
	dir := filepath.Join(e.dir, tenant.Default.String(), tenant.RulesDir)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, "pages.yaml"), []byte(groupText(d, e.scale)), 0o600); err != nil {
		return nil, err
	}
	var clock atomic.Int64
	clock.Store(first.UnixMilli())
	store := &summedStore{DB: db}
	r, err := ruler.New(ruler.Options{
		Store: store, Engine: engine, Queryable: db, Parser: promql.NewParser(), History: db, Files: ruler.NewFiles(e.dir),
		Now: func() time.Time { return time.UnixMilli(clock.Load()) },
	})
	if err != nil {
		return nil, err
	}
	r.Scan(true)
	return func() (results, error) {
		store.results = results{}
		clock.Add(time.Minute.Milliseconds())
		r.EvaluateDue(context.Background())
		return store.results, firstError(r.RuleGroups(tenant.Default)[0].Rules())
	}, nil
}

func firstError(all []rules.Rule) error {
	for _, rule := range all {
		if err := rule.LastError(); err != nil {
			return fmt.Errorf("%s: %w", rule.Name(), err)
		}
	}
	return nil
}

// summedStore sums what is appended.
type summedStore struct {
	*tsdb.DB
	results
}

func (s *summedStore) Append(ctx context.Context, id tenant.ID, b *increment.Batch) (bool, error) {
	for i := range b.Increments {
		s.Values++
		s.Sum += b.Increments[i].Value
	}
	return s.DB.Append(ctx, id, b)
}

// summedAppendable sums what is appended.
type summedAppendable struct {
	storage.AppendableV2
	results
}

func (s *summedAppendable) AppenderV2(ctx context.Context) storage.AppenderV2 {
	return &summedAppender{s.AppendableV2.AppenderV2(ctx), s}
}

type summedAppender struct {
	storage.AppenderV2
	to *summedAppendable
}

func (s *summedAppender) Append(ref storage.SeriesRef, ls labels.Labels, st, t int64, v float64, h *histogram.Histogram, fh *histogram.FloatHistogram, o storage.AOptions) (storage.SeriesRef, error) {
	s.to.Values++
	s.to.Sum += v
	return s.AppenderV2.Append(ref, ls, st, t, v, h, fh, o)
}
