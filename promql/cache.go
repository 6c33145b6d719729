package promql

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/VictoriaMetrics/fastcache"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/model/timestamp"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"

	upstream "github.com/prometheus/prometheus/promql"

	"github.com/quipudb/quipu/internal/past"
)

// History is where the cache learns what of the past is settled, and what of that has
// changed all the same. The context carries the tenant and the present.
type History interface {
	// Settle returns a mark: what is read after it, up to its time Settled, changes
	// only by what Changed tells. Its generation is 0 where there is no such tenant.
	Settle(ctx context.Context) (past.Mark, error)
	// Changed returns the intervals in which samples may have changed since m was made.
	Changed(ctx context.Context, m past.Mark) ([]past.Interval, error)
}

// CacheOptions are what a Cache is made of.
type CacheOptions struct {
	// Bytes is what the cache takes at most, at least 32 MiB.
	Bytes int
	// History is required.
	History History
	Reg     prometheus.Registerer // nil: no metrics
	Now     func() time.Time      // nil: the system's clock
	// MaxSamples and LookbackDelta are those of the engine, with the same defaults.
	MaxSamples    int
	LookbackDelta time.Duration
}

// Cache is a QueryEngine that keeps the steps of range queries that can no longer
// change, and asks the engine behind it for the others. Safe for concurrent use.
type Cache struct {
	engine   upstream.QueryEngine
	parser   parser.Parser
	history  History
	store    *resultStore
	metrics  *cacheMetrics
	options  CacheOptions
	entryMax int
}

var _ upstream.QueryEngine = (*Cache)(nil)

// NewCache returns a cache in front of engine.
func NewCache(engine upstream.QueryEngine, o CacheOptions) (*Cache, error) {
	if o.History == nil {
		return nil, errors.New("a cache of results needs to know what has changed")
	}
	if o.Bytes < cacheBytesMin {
		return nil, fmt.Errorf("a cache of results of %d bytes is too small: it takes at least %d", o.Bytes, cacheBytesMin)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.MaxSamples == 0 {
		o.MaxSamples = defaultMaxSamples
	}
	if o.LookbackDelta == 0 {
		o.LookbackDelta = defaultLookbackDelta
	}
	c := &Cache{engine: engine, parser: NewParser(), history: o.History, store: newResultStore(o.Bytes, o.Now), options: o, entryMax: o.Bytes / entryPart}
	c.metrics = newCacheMetrics(c.store)
	if o.Reg != nil {
		for _, m := range c.metrics.all() {
			if err := o.Reg.Register(m); err != nil {
				return nil, fmt.Errorf("register metrics of the cache of results: %w", err)
			}
		}
	}
	return c, nil
}

// Close gives the cache's memory back; no query may be under way.
func (c *Cache) Close() { c.store.close() }

// NewInstantQuery is the engine's: only ranges are kept.
func (c *Cache) NewInstantQuery(ctx context.Context, q storage.Queryable, opts upstream.QueryOpts, qs string, ts time.Time) (upstream.Query, error) {
	return c.engine.NewInstantQuery(ctx, q, opts, qs, ts)
}

// NewRangeQuery returns the query qs at start, then every interval up to end. What
// the engine refuses, it refuses with the engine's error.
func (c *Cache) NewRangeQuery(ctx context.Context, q storage.Queryable, opts upstream.QueryOpts, qs string, start, end time.Time, interval time.Duration) (upstream.Query, error) {
	lookback := c.options.LookbackDelta
	if opts != nil && opts.LookbackDelta() > 0 {
		lookback = opts.LookbackDelta()
	}
	s := steps{timestamp.FromTime(start), timestamp.FromTime(end), millis(interval)}
	r, ok := c.reachOf(qs, s, interval, lookback)
	if !ok {
		c.metrics.queries.WithLabelValues(resultNotCacheable).Inc()
		return c.engine.NewRangeQuery(ctx, q, opts, qs, start, end, interval)
	}
	s.end = s.at(s.count() - 1)
	out := &cachedQuery{cache: c, reach: r, steps: s, text: qs, queryable: q, opts: perStep{opts}, key: entryKey(qs, s, lookback, opts)}
	var err error
	if out.whole, err = c.engine.NewRangeQuery(ctx, q, out.opts, qs, start, end, interval); err != nil {
		return nil, err
	}
	return out, nil
}

// reachOf returns the reach of a query whose steps can be kept; ok is false for others.
func (c *Cache) reachOf(qs string, s steps, interval, lookback time.Duration) (reach, bool) {
	if s.interval <= 0 || interval%time.Millisecond != 0 || lookback%time.Millisecond != 0 || s.count() == 0 {
		return reach{}, false
	}
	expr, err := c.parser.ParseExpr(qs)
	if err != nil {
		return reach{}, false // the engine says why
	}
	r, ok := reachOf(expr, millis(lookback))
	// Before 1970 the grid of subqueries is rounded to the other side.
	return r, ok && s.start-r.before >= 0 && s.start-r.before <= s.start+farMillis && (!r.pinned || r.fixed.From >= 0)
}

// entryKey names an entry among those of one tenant: all that a value at a step depends
// on beside what is stored. The text is as it was written: what prints the same need
// not mean the same.
func entryKey(qs string, s steps, lookback time.Duration, opts upstream.QueryOpts) []byte {
	key := binary.AppendUvarint(nil, uint64(s.interval))
	key = binary.AppendUvarint(key, uint64(s.start%s.interval))
	key = binary.AppendUvarint(key, uint64(millis(lookback)))
	starts := byte(0)
	if opts != nil && opts.UseStartTimestamps() != nil {
		if starts = 1; *opts.UseStartTimestamps() {
			starts = 2
		}
	}
	key = append(key, starts)
	return append(key, strings.TrimSpace(qs)...)
}

// perStep asks for statistics of each step, which the cache keeps.
type perStep struct{ upstream.QueryOpts }

func (perStep) EnablePerStepStats() bool { return true }

func (o perStep) LookbackDelta() time.Duration {
	if o.QueryOpts == nil {
		return 0
	}
	return o.QueryOpts.LookbackDelta()
}

func (o perStep) UseStartTimestamps() *bool {
	if o.QueryOpts == nil {
		return nil
	}
	return o.QueryOpts.UseStartTimestamps()
}

// asked reports whether the client asked for them too.
func (o perStep) asked() bool { return o.QueryOpts != nil && o.QueryOpts.EnablePerStepStats() }

// How a query was answered, and why an answer was not kept.
const (
	resultHit          = "hit"     // nothing was computed
	resultPartial      = "partial" // steps that the cache did not know were
	resultMiss         = "miss"
	resultNotCacheable = "not_cacheable"

	skipShare     = "share"
	skipSize      = "size"
	skipChanged   = "changed"
	skipAnnotated = "annotated"
)

type cacheMetrics struct {
	queries *prometheus.CounterVec
	steps   *prometheus.CounterVec
	stored  prometheus.Counter
	skipped *prometheus.CounterVec
	bytes   prometheus.GaugeFunc
	entries prometheus.GaugeFunc
}

func newCacheMetrics(s *resultStore) *cacheMetrics {
	stats := func(f func(*fastcache.Stats) uint64) func() float64 {
		return func() float64 {
			var st fastcache.Stats
			s.cache.UpdateStats(&st)
			return float64(f(&st))
		}
	}
	m := &cacheMetrics{
		queries: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "cache_queries_total", Help: "Range queries by how the cache of results answered them.",
		}, []string{"result"}),
		steps: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "cache_steps_total", Help: "Steps of range queries that the cache of results can keep, by where their values came from.",
		}, []string{"from"}),
		stored: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "cache_stored_bytes_total", Help: "Bytes of answers that were put into the cache of results.",
		}),
		skipped: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "cache_not_stored_total", Help: "Answers that were not put into the cache of results, by why.",
		}, []string{"reason"}),
		bytes: prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "cache_bytes", Help: "Memory that the cache of results takes.",
		}, stats(func(s *fastcache.Stats) uint64 { return s.BytesSize })),
		entries: prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "cache_entries", Help: "Values in the cache of results: one for each 16 KiB of an answer.",
		}, stats(func(s *fastcache.Stats) uint64 { return s.EntriesCount })),
	}
	for _, r := range []string{resultHit, resultPartial, resultMiss, resultNotCacheable} {
		m.queries.WithLabelValues(r)
	}
	for _, from := range []string{"cache", "storage"} {
		m.steps.WithLabelValues(from)
	}
	for _, r := range []string{skipShare, skipSize, skipChanged, skipAnnotated} {
		m.skipped.WithLabelValues(r)
	}
	return m
}

func (m *cacheMetrics) all() []prometheus.Collector {
	return []prometheus.Collector{m.queries, m.steps, m.stored, m.skipped, m.bytes, m.entries}
}
