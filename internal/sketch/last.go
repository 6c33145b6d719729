package sketch

// lastSeen says of every id in which of a row of unions it was last. Ids are placed as in
// a Union; those last seen before what still counts go when the table would grow.
type lastSeen struct {
	ids  []uint64 // 0: free
	at   []int32
	used int
	zero int32 // where id 0 was, plus 1
	room *Room
}

func (l *lastSeen) reset() {
	if l.used > 0 {
		clear(l.ids)
	}
	l.used, l.zero = 0, 0
}

// see notes that id is in union i, and returns where it was before, -1 for nowhere.
// What was seen before first may be forgotten.
func (l *lastSeen) see(id uint64, i, first int) (before int) {
	if id == 0 {
		before, l.zero = int(l.zero)-1, int32(i)+1
		return before
	}
	if 2*l.used >= len(l.ids) {
		l.grow(first)
	}
	k := l.find(id)
	if l.ids[k] == id {
		before, l.at[k] = int(l.at[k]), int32(i)
		return before
	}
	l.ids[k], l.at[k] = id, int32(i)
	l.used++
	return -1
}

// find returns the place of id, or the one where it goes.
func (l *lastSeen) find(id uint64) int {
	k := place(l.ids, id)
	for l.ids[k] != 0 && l.ids[k] != id {
		if k++; k == len(l.ids) {
			k = 0
		}
	}
	return k
}

// grow makes the table four times as large as what counts needs.
func (l *lastSeen) grow(first int) {
	ids, at := l.ids, l.at
	counts := 0
	for k, id := range ids {
		if id != 0 && int(at[k]) >= first {
			counts++
		}
	}
	n := 16
	for n < 4*counts {
		n *= 2
	}
	l.ids, l.at, l.used = make([]uint64, n), make([]int32, n), counts
	l.room.take(12 * (n - len(ids)))
	for k, id := range ids {
		if id != 0 && int(at[k]) >= first {
			to := l.find(id)
			l.ids[to], l.at[to] = id, at[k]
		}
	}
}
