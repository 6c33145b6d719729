package enrich

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	// cacheEntries is how many values of one kind a Cache remembers; past it, it begins
	// anew. A site has a few thousand user agents a day.
	cacheEntries = 8192
	// textBytesMax is the longest user agent that is read; the rest of it says nothing.
	textBytesMax = 1024
	// lookEvery is how often the file of places is looked at for a change.
	lookEvery = time.Minute
)

// Options of New. Registerer is required.
type Options struct {
	// Places is the path of a database of MaxMind's form, of cities or countries; "":
	// no address is looked up.
	Places     string
	Registerer prometheus.Registerer
	Logger     *slog.Logger     // nil: none
	Now        func() time.Time // nil: the system's clock
}

// Enricher is what all Caches share. Safe for concurrent use.
type Enricher struct {
	path     string
	logger   *slog.Logger
	now      func() time.Time
	database atomic.Pointer[database] // nil: none
	looked   atomic.Int64             // when the file was, in milliseconds since 1970
	loading  sync.Mutex

	lookups *prometheus.CounterVec // by step and result
	seconds *prometheus.CounterVec // by step
}

// New returns an Enricher. It fails where the database of places cannot be read.
func New(o Options) (*Enricher, error) {
	if o.Registerer == nil {
		return nil, errors.New("enriching needs a registerer")
	}
	e := &Enricher{path: o.Places, logger: o.Logger, now: o.Now}
	if e.logger == nil {
		e.logger = slog.New(slog.DiscardHandler)
	}
	if e.now == nil {
		e.now = time.Now
	}
	e.lookups = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "quipu_ingest_enrich_lookups_total", Help: "What was looked up for events by the step that did, and whether it was known already: cached or computed.",
	}, []string{"step", "result"})
	e.seconds = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "quipu_ingest_enrich_seconds_total", Help: "Time that steps of enriching took, estimated from one event in 64.",
	}, []string{"step"})
	for _, c := range []prometheus.Collector{e.lookups, e.seconds} {
		if err := o.Registerer.Register(c); err != nil {
			return nil, fmt.Errorf("register metrics of enriching: %w", err)
		}
	}
	if e.path == "" {
		return e, nil
	}
	d, err := openDatabase(e.path)
	if err != nil {
		return nil, err
	}
	e.database.Store(d)
	e.looked.Store(e.now().UnixMilli())
	return e, nil
}

// places is the database. The file is opened again where it has changed, beside what is
// under way: a batch of events does not wait for the disk. One that is wrong leaves that
// before in use.
func (e *Enricher) places() *database {
	had := e.database.Load()
	if had == nil {
		return nil
	}
	now := e.now().UnixMilli()
	if looked := e.looked.Load(); now-looked < lookEvery.Milliseconds() && now >= looked || !e.loading.TryLock() {
		return had
	}
	e.looked.Store(now)
	go func() {
		defer e.loading.Unlock()
		e.reopen(had)
	}()
	return had
}

// REQUIRES: e.loading
func (e *Enricher) reopen(had *database) {
	stamp, err := stampOf(e.path)
	if err == nil && stamp == had.stamp {
		return
	}
	var d *database
	if err == nil {
		d, err = openDatabase(e.path)
	}
	if err != nil {
		e.logger.Error("the database of places cannot be read: the one before stays in use", "path", e.path, "err", err)
		return
	}
	e.logger.Info("the database of places was read again", "path", e.path)
	e.database.Store(d)
}

// Cache remembers what was found. Not safe for concurrent use.
type Cache struct {
	of       *Enricher
	agents   map[string]Agent
	places   map[string]Place
	sources  map[string]Source
	database *database // that places are of
	counts   [stepsCounted]counts
}

// counts are lookups of one step since the last Flush.
type counts struct{ cached, computed int }

const (
	stepAgent = iota
	stepPlace
	stepSource
	stepsCounted
)

var stepNames = [stepsCounted]string{"agent", "place", "source"}

// NewCache returns an empty one.
func (e *Enricher) NewCache() *Cache {
	return &Cache{of: e, agents: map[string]Agent{}, places: map[string]Place{}, sources: map[string]Source{}}
}

// Agent is what a user agent tells.
func (c *Cache) Agent(text []byte) Agent {
	return cached(&c.counts[stepAgent], c.agents, text, newAgent)
}

// Place is where an address is; the zero Place where there is no database.
func (c *Cache) Place(text []byte) Place {
	if c.database == nil {
		return Place{}
	}
	return cached(&c.counts[stepPlace], c.places, text, c.database.place)
}

// Source is where a visit came from that has a referrer, a host; an empty one is none.
func (c *Cache) Source(referrer []byte) Source {
	return cached(&c.counts[stepSource], c.sources, referrer, newSource)
}

// cached is what compute makes of a text, kept in values.
func cached[T any](n *counts, values map[string]T, text []byte, compute func(string) T) T {
	if len(text) > textBytesMax {
		text = text[:textBytesMax]
	}
	if v, ok := values[string(text)]; ok {
		n.cached++
		return v
	}
	n.computed++
	if len(values) >= cacheEntries {
		clear(values)
	}
	key := string(text)
	v := compute(key)
	values[key] = v
	return v
}

// Begin is called before the events of a batch: all of them are looked up in one
// database.
func (c *Cache) Begin() {
	if d := c.of.places(); d != c.database {
		clear(c.places)
		c.database = d
	}
}

// Flush adds what was counted to the process's metrics.
func (c *Cache) Flush() {
	for i := range c.counts {
		n := &c.counts[i]
		if n.cached > 0 {
			c.of.lookups.WithLabelValues(stepNames[i], "cached").Add(float64(n.cached))
		}
		if n.computed > 0 {
			c.of.lookups.WithLabelValues(stepNames[i], "computed").Add(float64(n.computed))
		}
		*n = counts{}
	}
}

// Took adds to the time that a step took.
func (c *Cache) Took(step string, d time.Duration) {
	c.of.seconds.WithLabelValues(step).Add(d.Seconds())
}
