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
	id         uint32 // of no other memtable of its DB
	start, end int64  // window starts are in [start, end), milliseconds since 1970
	bytes      atomic.Int64
	total      *atomic.Int64 // bytes of all memtables of the DB
	lastAppend atomic.Int64  // milliseconds since 1970
	// mint is when the first window begins, maxt when the last one ends.
	mint, maxt atomic.Int64

	// clean is the number of the last deletion before it was made. It is changed only
	// while the log is replayed.
	clean  uint64
	closed bool // while the log is replayed: what follows goes to another

	// shards find series by labels. There is one while there are few series. An
	// array that was superseded stays right for what it has.
	shards atomic.Pointer[[]memShard]

	mu     sync.RWMutex // one series is made at a time
	series []*memSeries // a posting is the position here plus one

	// Series are put into postings when a query comes: what nobody asks for, as most
	// of what is filled in late, costs none.
	indexing sync.Mutex
	postings *index.MemPostings // nil while there are few series
	indexed  int                // how many series it has
}

// memShard is the series whose hash is the shard's number modulo their number: a
// table of chains, because the hashes are uniform already and a map would hash them
// again.
type memShard struct {
	mu     sync.RWMutex
	chains []*memSeries // a power of two, by the hash's upper half
	n      int
}

// chain is where a series with this hash is. There is at least one chain.
//
// REQUIRES: sh.mu
func (sh *memShard) chain(hash uint64) **memSeries {
	return &sh.chains[(hash>>32)&uint64(len(sh.chains)-1)]
}

// seriesBytes is about what a series without data takes beside its labels.
const seriesBytes = 400

// scanMax is how many series a memtable has at most without postings and shards:
// looking at each is as fast, and upstream's empty postings take 80 KiB, too much
// for 10,000 small tenants.
const scanMax = 128

const (
	// shardCount is the number of shards of a memtable with more series.
	shardCount = 32
	// chainsMin is how many chains a shard begins with.
	chainsMin = 4
)

func newMemtable(id uint32, start, end int64, total *atomic.Int64) *memtable {
	m := &memtable{id: id, start: start, end: end, total: total}
	m.shards.Store(newShards(1))
	m.mint.Store(math.MaxInt64)
	m.maxt.Store(math.MinInt64)
	return m
}

func newShards(n int) *[]memShard {
	out := make([]memShard, n)
	for i := range out {
		out[i].chains = make([]*memSeries, chainsMin)
	}
	return &out
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
	for s := *sh.chain(hash); s != nil; s = s.next {
		if s.hash == hash && labels.Equal(s.labels, ls) {
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
	if len(m.series) == scanMax+1 {
		m.split()
	} else {
		m.shard(hash).insert(s)
	}
	m.grow(int64(ls.ByteSize()) + seriesBytes)
	return s
}

// split makes shards of all series. Who still looks into the shard there was finds
// only a part of them and looks again (see getOrCreate).
//
// REQUIRES: m.mu
func (m *memtable) split() {
	old := &(*m.shards.Load())[0]
	old.mu.Lock()
	defer old.mu.Unlock()
	clear(old.chains)
	shards := newShards(shardCount)
	for _, s := range m.series {
		(*shards)[s.hash%shardCount].insert(s)
	}
	m.shards.Store(shards)
}

func (sh *memShard) insert(s *memSeries) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if sh.n++; sh.n > len(sh.chains) {
		sh.grow()
	}
	c := sh.chain(s.hash)
	s.next, *c = *c, s
}

// grow doubles the number of chains.
//
// REQUIRES: sh.mu
func (sh *memShard) grow() {
	old := sh.chains
	sh.chains = make([]*memSeries, 2*len(old))
	for _, s := range old {
		for s != nil {
			next, c := s.next, sh.chain(s.hash)
			s.next, *c = *c, s
			s = next
		}
	}
}

// all returns the series there are now.
func (m *memtable) all() []*memSeries {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.series[:len(m.series):len(m.series)]
}

// wrote notes windows from mint to maxt and growth by a number of bytes.
func (m *memtable) wrote(mint, maxt int64, grown int) {
	for old := m.mint.Load(); mint < old && !m.mint.CompareAndSwap(old, mint); old = m.mint.Load() {
	}
	for old := m.maxt.Load(); maxt > old && !m.maxt.CompareAndSwap(old, maxt); old = m.maxt.Load() {
	}
	m.grow(int64(grown))
}

func (m *memtable) grow(bytes int64) {
	m.bytes.Add(bytes)
	m.total.Add(bytes)
}

// span returns when the first window of all series begins and the last one ends; ok is
// false where there is none.
func (m *memtable) span() (mint, maxt int64, ok bool) {
	mint, maxt = m.mint.Load(), m.maxt.Load()
	return mint, maxt, mint < maxt
}

// index returns the series there are now and postings that have all of them, nil
// where they are few. What a query that is stopped has not put into postings, the next
// one does.
func (m *memtable) index(ctx context.Context) ([]*memSeries, *index.MemPostings, error) {
	m.indexing.Lock()
	defer m.indexing.Unlock()
	series := m.all()
	if len(series) <= scanMax {
		return series, nil, nil
	}
	if m.postings == nil {
		m.postings = index.NewMemPostings()
	}
	for ; m.indexed < len(series); m.indexed++ {
		if m.indexed%lookEvery == 0 && ctx.Err() != nil {
			return nil, nil, ctx.Err()
		}
		m.postings.Add(storage.SeriesRef(m.indexed+1), series[m.indexed].labels)
	}
	return series, m.postings, nil
}

// lookEvery is how many series pass between two looks at whether a query goes on: less
// than a millisecond.
const lookEvery = 1024

// matching calls f with every series that the matchers select.
func (m *memtable) matching(ctx context.Context, matchers []*labels.Matcher, f func(*memSeries) error) error {
	series, postings, err := m.index(ctx)
	if err != nil {
		return err
	}
	if postings == nil {
		for _, s := range series { // a few
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
	for n := 0; p.Next(); n++ {
		if n%lookEvery == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
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
func (m *memtable) addStrings(ctx context.Context, name string, set map[string]struct{}) error {
	series, postings, err := m.index(ctx)
	if err != nil {
		return err
	}
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
		return nil
	}
	found := postings.LabelNames()
	if name != "" {
		found = postings.LabelValues(ctx, name, nil)
	}
	for _, s := range found {
		set[s] = struct{}{}
	}
	return nil
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
