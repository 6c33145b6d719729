package tsdb

// hashSet is a set of hashes that are uniform already, so that a table of them needs
// no hash of its own: adding one costs a third of what a map takes, and 12 bytes.
// The zero hashSet is empty. Not safe for concurrent use.
type hashSet struct {
	table []uint64 // a power of two long, at most 3/4 full; 0 is free
	n     int      // hashes, 0 among them
	zero  bool     // 0 is in the set
}

func (s *hashSet) len() int { return s.n }

func (s *hashSet) has(h uint64) bool {
	if h == 0 {
		return s.zero
	}
	for i := h; len(s.table) > 0; i++ {
		switch s.table[i&uint64(len(s.table)-1)] {
		case h:
			return true
		case 0:
			return false
		}
	}
	return false
}

// add puts h into the set.
func (s *hashSet) add(h uint64) {
	if s.has(h) {
		return
	}
	s.n++
	if h == 0 {
		s.zero = true
		return
	}
	if 4*s.n > 3*len(s.table) {
		old := s.table
		s.table = make([]uint64, max(8, 2*len(old)))
		for _, o := range old {
			if o != 0 {
				s.place(o)
			}
		}
	}
	s.place(h)
}

// place puts h, which is not there, into the table, which has room.
func (s *hashSet) place(h uint64) {
	for i := h; ; i++ {
		if p := &s.table[i&uint64(len(s.table)-1)]; *p == 0 {
			*p = h
			return
		}
	}
}
