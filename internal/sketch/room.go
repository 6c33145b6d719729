package sketch

// Room bounds the memory of sets together. A nil one has no bound. Not safe for
// concurrent use.
type Room struct {
	// BytesMax is the most that the tables and registers of the sets may take.
	BytesMax int

	bytes int
}

// Over reports whether the sets take more. Tables do not grow any more then, so that what
// the sets say is wrong.
func (r *Room) Over() bool { return r != nil && r.bytes > r.BytesMax }

func (r *Room) take(bytes int) {
	if r != nil {
		r.bytes += bytes
	}
}
