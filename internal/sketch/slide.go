package sketch

// slideDepth bounds the memory of a Slide: 16 MiB of registers.
const slideDepth = 1024

// Slide counts the ids of runs of consecutive unions of which both ends only move
// forward, each union's ids looked at a few times however many runs they are in. The
// zero Slide needs a Reset. Not safe for concurrent use.
//
// Ids that are known one by one are counted by the last union that has them: one is
// in a run that ends there where that is in the run. Registers cannot be taken back,
// so a run is put together of two parts: registers of the unions from each of up to
// slideDepth places to a middle were made beforehand, those from the middle on grow
// with the run's end.
type Slide struct {
	// Room, where set, is what the table of ids takes its memory from.
	Room *Room

	unions []Union

	last    lastSeen
	newest  []int // by union: the ids whose last it is
	exact   int   // ids whose last is in the run
	inexact int   // unions of the run that are
	first   int   // of the run that was counted
	next    int   // its end

	before    []registers // before[i]: of unions start+i to middle
	start     int
	middle    int // 0: none were made yet
	after     registers
	afterNext int
	joined    registers
}

// Reset makes s count the ids of unions, which must not change meanwhile.
func (s *Slide) Reset(unions []Union) {
	s.unions, s.last.room = unions, s.Room
	s.last.reset()
	s.newest = append(s.newest[:0], make([]int, len(unions))...)
	s.exact, s.inexact, s.first, s.next = 0, 0, 0, 0
	s.start, s.middle, s.afterNext = 0, 0, 0
}

// Count returns the number of distinct ids of unions[first:last], a whole number;
// neither first nor last is before that of the call before. ok is false where the
// unions are empty.
func (s *Slide) Count(first, last int) (n float64, ok bool, err error) {
	if last == first+1 { // the whole of it: runs that do not overlap need no more
		u := &s.unions[first]
		n, err = u.Estimate()
		return n, !u.Empty(), err
	}
	s.move(first, last)
	if s.inexact == 0 && s.exact <= unionExactMax {
		return float64(s.exact), s.exact > 0, nil
	}
	n, err = s.estimate(first, last)
	return n, true, err
}

// move counts the exact ids of unions[first:last].
func (s *Slide) move(first, last int) {
	for i := s.first; i < min(first, s.next); i++ {
		s.exact -= s.newest[i]
		if s.unions[i].inexact {
			s.inexact--
		}
	}
	s.first, s.next = first, max(s.next, first)
	for ; s.next < last; s.next++ {
		u := &s.unions[s.next]
		if u.inexact {
			s.inexact++
			continue
		}
		u.each(func(id uint64) {
			if before := s.last.see(id, s.next, first); before >= first {
				s.newest[before]--
			} else {
				s.exact++
			}
			s.newest[s.next]++
		})
	}
}

// estimate is Count by registers.
func (s *Slide) estimate(first, last int) (float64, error) {
	if first >= s.middle {
		s.begin(first, last)
	}
	for ; s.afterNext < last; s.afterNext++ {
		s.after.addUnion(&s.unions[s.afterNext])
	}
	copy(s.joined, s.before[first-s.start])
	s.joined.merge(s.after[imageHead:])
	return s.joined.estimate()
}

// begin makes the registers of the unions from first and later on to a new middle.
func (s *Slide) begin(first, last int) {
	if s.after == nil {
		s.after, s.joined = newRegisters(), newRegisters()
	}
	s.after.reset()
	s.start, s.middle = first, min(last, first+slideDepth)
	s.afterNext = s.middle
	for len(s.before) < s.middle-first {
		s.before = append(s.before, newRegisters())
	}
	for i := s.middle - 1; i >= first; i-- {
		r := s.before[i-first]
		r.reset()
		if i+1 < s.middle {
			copy(r, s.before[i+1-first])
		}
		r.addUnion(&s.unions[i])
	}
}

// addUnion puts the ids of u into r.
func (r registers) addUnion(u *Union) {
	if u.inexact {
		r.merge(u.regs[imageHead:])
		return
	}
	u.each(r.addID)
}
