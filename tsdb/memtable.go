package tsdb

import (
	"context"
	"math"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/tsdb/index"

	"github.com/quipudb/quipu/internal/increment"
)

// memtable holds the increments of one tenant and one block range that no block
// holds yet. It has an index of its own, so that dropping it returns all memory
// of its series. Safe for concurrent use.
type memtable struct {
	id         uint32 // of no other memtable of this process
	start, end int64  // window starts are in [start, end), milliseconds since 1970
	bytes      atomic.Int64
	lastAppend atomic.Int64 // milliseconds since 1970
	// first and last are the times of the first and the last window.
	first, last atomic.Int64

	dropped bool // while the log is replayed: a tenant's record came after it

	// shards find series by labels. There is one while there are few series. An
	// array that was superseded stays right for what it has.
	shards atomic.Pointer[[]memShard]

	mu       sync.RWMutex       // one series is made at a time
	series   []*memSeries       // a posting is the position here plus one
	postings *index.MemPostings // nil while there are few series
}

// memShard is the series whose hash is the shard's number modulo their number.
type memShard struct {
	mu     sync.RWMutex
	byHash map[uint64]*memSeries
}

// seriesBytes is about what a series without data takes beside its labels.
const seriesBytes = 400

// scanMax is how many series a memtable has at most without postings and shards:
// looking at each is as fast, and upstream's empty postings take 80 KiB, too much
// for 10,000 small tenants.
const scanMax = 128

// shardCount is the number of shards of a memtable with more series.
const shardCount = 32

func newMemtable(id uint32, start, end int64) *memtable {
	m := &memtable{id: id, start: start, end: end}
	m.shards.Store(&[]memShard{{byHash: map[uint64]*memSeries{}}})
	m.first.Store(math.MaxInt64)
	m.last.Store(math.MinInt64)
	return m
}

func (m *memtable) shard(hash uint64) *memShard {
	shards := *m.shards.Load()
	return &shards[hash%uint64(len(shards))]
}

// get returns the series with these labels, nil where there is none.
func (m *memtable) get(hash uint64, ls labels.Labels) *memSeries {
	sh := m.shard(hash)
	sh.mu.RLock()
	defer sh.mu.RUnlock()
	for s := sh.byHash[hash]; s != nil; s = s.next {
		if labels.Equal(s.labels, ls) {
			return s
		}
	}
	return nil
}

// getOrCreate returns the series with these labels, which get has not found before;
// a new one gets ref for the log. It keeps ls.
func (m *memtable) getOrCreate(hash uint64, ls labels.Labels, kind increment.Kind, ref func() uint64) *memSeries {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s := m.get(hash, ls); s != nil {
		return s
	}
	s := newMemSeries(ref(), kind, ls, hash)
	s.place = uint64(m.id)<<32 | uint64(len(m.series))
	m.series = append(m.series, s)
	switch n := len(m.series); {
	case m.postings != nil:
		m.postings.Add(storage.SeriesRef(n), ls)
		m.shard(hash).insert(s)
	case n > scanMax:
		m.split()
	default:
		m.shard(hash).insert(s)
	}
	m.bytes.Add(int64(ls.ByteSize()) + seriesBytes)
	return s
}

// split makes postings and shards of all series. Who still looks into the shard
// there was finds what it has.
//
// REQUIRES: m.mu
func (m *memtable) split() {
	old := &(*m.shards.Load())[0]
	old.mu.Lock() // a reader of it follows the same chains
	defer old.mu.Unlock()
	m.postings = index.NewMemPostings()
	shards := make([]memShard, shardCount)
	for i := range shards {
		shards[i].byHash = map[uint64]*memSeries{}
	}
	for i, s := range m.series {
		m.postings.Add(storage.SeriesRef(i+1), s.labels)
		shards[s.hash%shardCount].insert(s)
	}
	m.shards.Store(&shards)
}

func (sh *memShard) insert(s *memSeries) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	s.next = sh.byHash[s.hash]
	sh.byHash[s.hash] = s
}

// all returns the series there are now.
func (m *memtable) all() []*memSeries {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.series[:len(m.series):len(m.series)]
}

// wrote notes windows of [first, last] and growth by a number of bytes.
func (m *memtable) wrote(first, last int64, grown int) {
	for old := m.first.Load(); first < old && !m.first.CompareAndSwap(old, first); old = m.first.Load() {
	}
	for old := m.last.Load(); last > old && !m.last.CompareAndSwap(old, last); old = m.last.Load() {
	}
	m.bytes.Add(int64(grown))
}

// span returns the times of the first and last window of all series; ok is false
// where there is none.
func (m *memtable) span() (first, last int64, ok bool) {
	first, last = m.first.Load(), m.last.Load()
	return first, last, first <= last
}

// matching calls f with every series that the matchers select.
func (m *memtable) matching(ctx context.Context, matchers []*labels.Matcher, f func(*memSeries) error) error {
	m.mu.RLock()
	series, postings := m.series[:len(m.series):len(m.series)], m.postings
	m.mu.RUnlock()
	if postings == nil {
		for _, s := range series {
			if !matchesAll(s.labels, matchers) {
				continue
			}
			if err := f(s); err != nil {
				return err
			}
		}
		return nil
	}
	p, err := tsdb.PostingsForMatchers(ctx, memIndex{m, postings}, matchers...)
	if err != nil {
		return err
	}
	for p.Next() {
		ref := int(p.At())
		if ref > len(series) {
			continue // made after series was taken
		}
		if err := f(series[ref-1]); err != nil {
			return err
		}
	}
	return p.Err()
}

func matchesAll(ls labels.Labels, matchers []*labels.Matcher) bool {
	for _, m := range matchers {
		if !m.Matches(ls.Get(m.Name)) {
			return false
		}
	}
	return true
}

// addStrings adds the names of all labels to set, or the values of one where name is
// set.
func (m *memtable) addStrings(ctx context.Context, name string, set map[string]struct{}) {
	m.mu.RLock()
	series, postings := m.series[:len(m.series):len(m.series)], m.postings
	m.mu.RUnlock()
	if postings == nil {
		for _, s := range series {
			s.labels.Range(func(l labels.Label) {
				if name == "" {
					set[l.Name] = struct{}{}
				} else if l.Name == name {
					set[l.Value] = struct{}{}
				}
			})
		}
		return
	}
	found := postings.LabelNames()
	if name != "" {
		found = postings.LabelValues(ctx, name, nil)
	}
	for _, s := range found {
		set[s] = struct{}{}
	}
}

// memIndex is a memtable with postings as upstream's matcher evaluation wants it.
type memIndex struct {
	*memtable
	postings *index.MemPostings
}

func (m memIndex) Symbols() index.StringIter { return m.postings.Symbols() }

func (m memIndex) LabelValues(ctx context.Context, name string, h *storage.LabelHints, _ ...*labels.Matcher) ([]string, error) {
	return m.postings.LabelValues(ctx, name, h), nil
}

func (m memIndex) SortedLabelValues(ctx context.Context, name string, h *storage.LabelHints, _ ...*labels.Matcher) ([]string, error) {
	out := m.postings.LabelValues(ctx, name, h)
	slices.Sort(out)
	return out, nil
}

func (m memIndex) Postings(ctx context.Context, name string, values ...string) (index.Postings, error) {
	return m.postings.Postings(ctx, name, values...), nil
}

func (m memIndex) PostingsForLabelMatching(ctx context.Context, name string, match func(string) bool) index.Postings {
	return m.postings.PostingsForLabelMatching(ctx, name, match)
}

func (m memIndex) PostingsForAllLabelValues(ctx context.Context, name string) index.Postings {
	return m.postings.PostingsForAllLabelValues(ctx, name)
}

func (m memIndex) SortedPostings(p index.Postings) index.Postings { return p }

func (m memIndex) ShardedPostings(p index.Postings, _, _ uint64) index.Postings { return p }

func (m memIndex) Series(storage.SeriesRef, *labels.ScratchBuilder, *[]chunks.Meta) error {
	return storage.ErrNotFound // series of a memtable are taken from it, not from an index
}

func (m memIndex) LabelNames(context.Context, ...*labels.Matcher) ([]string, error) {
	return m.postings.LabelNames(), nil
}

func (m memIndex) LabelNamesFor(context.Context, index.Postings) ([]string, error) {
	return nil, storage.ErrNotFound
}

func (m memIndex) Close() error { return nil }
