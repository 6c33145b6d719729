package sketch

import (
	"math/rand/v2"
	"testing"
)

// A room knows what the tables and registers of its sets take, however they are used.
func TestRoomIsWhatSetsTake(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	room := &Room{BytesMax: 1 << 30}
	unions := make([]Union, 5)
	for i := range unions {
		unions[i].Bound(room)
	}
	slide := Slide{Room: room}
	for round := range 300 {
		u := &unions[r.IntN(len(unions))]
		switch r.IntN(5) {
		case 0:
			u.Reset()
		case 1:
			u.ToRegisters()
		case 2:
			slide.Reset(unions)
			if _, _, err := slide.Count(0, len(unions)); err != nil {
				t.Fatal(err)
			}
		default:
			for range r.IntN(3000) {
				u.addID(r.Uint64())
			}
		}
		want := 12 * len(slide.last.ids)
		for i := range unions {
			want += 8*len(unions[i].table) + len(unions[i].regs)
		}
		if room.bytes != want {
			t.Fatalf("round %d: %d bytes, want %d", round, room.bytes, want)
		}
	}
}

// Past its bound a room says so, and tables grow no more.
func TestRoomStopsTables(t *testing.T) {
	room := &Room{BytesMax: 1000}
	var u Union
	u.Bound(room)
	for id := range uint64(100_000) {
		u.addID(id << 32)
	}
	if !room.Over() || room.bytes > 3000 {
		t.Errorf("%d bytes, over %t", room.bytes, room.Over())
	}
	if (*Room)(nil).Over() {
		t.Error("no room at all has a bound")
	}
}
