package session

import (
	"cmp"
	"encoding/binary"
	"maps"
	"slices"
)

const (
	// VisitorsMax is how many visitors of a tenant are remembered; past it those that were
	// there least recently are forgotten, an eighth at a time.
	VisitorsMax = 1_000_000
	// returnMax is for how long after a session the next one is a returning visitor's.
	returnMax = 30 * 24 * 3600 // seconds
	// expireEvery is how often visitors are looked through for those to forget.
	expireEvery = 3600 // seconds
)

// visit is the last session of a visitor that was counted.
type visit struct {
	last    uint32 // its last event, seconds since 1970
	settled uint32 // when it was counted
}

// visitors are those who had a session. It is a function of what was counted alone, in
// order.
type visitors struct {
	max   int
	seen  map[uint64]visit
	swept uint32
}

func (v *visitors) len() int { return len(v.seen) }

// known reports whether a visitor had a session before one that begins at first,
// milliseconds since 1970, not more than 30 days earlier.
func (v *visitors) known(hash uint64, first int64) bool {
	was, ok := v.seen[hash]
	return ok && was.before(first)
}

func (w visit) before(first int64) bool { return first/1000-int64(w.last) <= returnMax }

// saw notes a session that was counted.
func (v *visitors) saw(hash uint64, last, at int64) {
	if v.seen == nil {
		v.seen = map[uint64]visit{}
	}
	v.seen[hash] = visit{max(v.seen[hash].last, toSeconds(last)), toSeconds(at)}
}

func toSeconds(ms int64) uint32 { return uint32(min(max(ms/1000, 0), 1<<32-1)) }

// expire forgets visitors whom nothing has been counted of for so long that they are new
// again, and, past the limit, those who were there least recently.
func (v *visitors) expire(at int64) {
	now := toSeconds(at)
	if now >= v.swept+expireEvery {
		v.swept = now
		maps.DeleteFunc(v.seen, func(_ uint64, w visit) bool { return max(w.settled, w.last)+returnMax < now })
	}
	if len(v.seen) <= v.max {
		return
	}
	all := make([]visitor, 0, len(v.seen))
	for hash, w := range v.seen {
		all = append(all, visitor{hash, w})
	}
	slices.SortFunc(all, func(a, b visitor) int { return cmp.Or(cmp.Compare(a.last, b.last), cmp.Compare(a.hash, b.hash)) })
	for _, w := range all[:len(all)-v.max+v.max/8] {
		delete(v.seen, w.hash)
	}
}

func (v *visitors) load(all []visitor) {
	if len(all) > 0 {
		v.seen = make(map[uint64]visit, len(all))
	}
	for _, w := range all {
		v.seen[w.hash] = w.visit
	}
}

// append appends them as a state has them.
func (v *visitors) append(dst []byte) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(v.seen)))
	for hash, w := range v.seen {
		dst = binary.BigEndian.AppendUint64(dst, hash)
		dst = binary.AppendUvarint(dst, uint64(w.last))
		dst = binary.AppendUvarint(dst, uint64(w.settled))
	}
	return dst
}
