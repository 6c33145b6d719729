package load

import (
	"math/bits"
	"time"
)

// Latencies counts times by their length, to within one part in 64. The zero value
// is empty.
type Latencies struct {
	counts [64 * latencyParts]int64
	total  int64
	max    time.Duration
}

const latencyParts = 1 << 6

func (l *Latencies) add(d time.Duration) {
	l.counts[latencyPlace(uint64(max(d, 0)))]++
	l.total++
	l.max = max(l.max, d)
}

// latencyPlace numbers lengths in nanoseconds: one for each below latencyParts, then
// latencyParts for each power of two.
func latencyPlace(ns uint64) int {
	shift := max(bits.Len64(ns)-7, 0)
	return shift*latencyParts + int(ns>>shift)
}

// latencyEnd is the longest time of a place.
func latencyEnd(place int) time.Duration {
	shift := max(place/latencyParts-1, 0)
	return time.Duration((uint64(place-shift*latencyParts)+1)<<shift - 1)
}

func (l *Latencies) merge(o *Latencies) {
	for i, n := range o.counts {
		l.counts[i] += n
	}
	l.total += o.total
	l.max = max(l.max, o.max)
}

// Quantile is the time within which the part q of all was answered; 0 where nothing
// was.
func (l *Latencies) Quantile(q float64) time.Duration {
	rank := int64(q*float64(l.total) + 0.5)
	for i, n := range l.counts {
		if rank -= n; n > 0 && rank <= 0 {
			return min(latencyEnd(i), l.max)
		}
	}
	return l.max
}

// Max is the longest time.
func (l *Latencies) Max() time.Duration { return l.max }

// Count is how many there are.
func (l *Latencies) Count() int { return int(l.total) }
