package auth

import (
	"sync"
	"time"
)

const (
	// gateWindow is how long refusals of one source are counted together, of which
	// gateLines are written.
	gateWindow = time.Minute
	gateLines  = 5
	// gateSourcesMax bounds the sources that are told apart; the rest are one.
	gateSourcesMax = 1_000
	// otherClients is the address of the rest.
	otherClients = "(others)"
)

// source is who is refused for one reason: behind a proxy all have one address, and keys
// that are past their quota must not hide those that somebody guesses.
type source struct{ client, reason string }

// gate bounds what one source makes the logs say. Safe for concurrent use.
type gate struct {
	mu      sync.Mutex
	sources map[source]*lines
}

// lines are those of a source since a time.
type lines struct {
	began      time.Time
	written    int
	suppressed int
}

// suppression is what a gate held back of a source.
type suppression struct {
	source
	count int
}

// pass reports whether a refusal of a source is written, and as which client's.
func (g *gate) pass(from source, now time.Time) (client string, ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	s := g.sources[from]
	if s == nil && len(g.sources) >= gateSourcesMax {
		from.client = otherClients
		s = g.sources[from]
	}
	if s == nil {
		s = &lines{began: now}
		g.sources[from] = s
	}
	if s.written < gateLines {
		s.written++
		return from.client, true
	}
	s.suppressed++
	return from.client, false
}

// ended forgets the sources whose window is over and returns what was held back of them.
func (g *gate) ended(now time.Time) []suppression {
	g.mu.Lock()
	defer g.mu.Unlock()
	var out []suppression
	for from, s := range g.sources {
		if now.Sub(s.began) < gateWindow {
			continue
		}
		if s.suppressed > 0 {
			out = append(out, suppression{from, s.suppressed})
		}
		delete(g.sources, from)
	}
	return out
}
