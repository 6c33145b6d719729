package auth

import (
	"sync"
	"time"
)

const (
	// gateWindow is how long a source's refusals are counted together, of which
	// gateLines are written.
	gateWindow = time.Minute
	gateLines  = 5
	// gateSourcesMax bounds the sources that are told apart; the rest are one.
	gateSourcesMax = 1_000
	// otherSources is the name of the rest.
	otherSources = "(others)"
)

// gate bounds what one source makes the logs say. Safe for concurrent use.
type gate struct {
	mu      sync.Mutex
	sources map[string]*source
}

type source struct {
	began      time.Time
	lines      int
	suppressed int
}

// suppression is what a gate held back of a source.
type suppression struct {
	source string
	count  int
}

// pass reports whether a refusal of a source is written, and under which name.
func (g *gate) pass(name string, now time.Time) (as string, ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	s := g.sources[name]
	if s == nil && len(g.sources) >= gateSourcesMax {
		name = otherSources
		s = g.sources[name]
	}
	if s == nil {
		s = &source{began: now}
		g.sources[name] = s
	}
	if s.lines < gateLines {
		s.lines++
		return name, true
	}
	s.suppressed++
	return name, false
}

// ended forgets the sources whose window is over and returns what was held back of them.
func (g *gate) ended(now time.Time) []suppression {
	g.mu.Lock()
	defer g.mu.Unlock()
	var out []suppression
	for name, s := range g.sources {
		if now.Sub(s.began) < gateWindow {
			continue
		}
		if s.suppressed > 0 {
			out = append(out, suppression{name, s.suppressed})
		}
		delete(g.sources, name)
	}
	return out
}
