package importer

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
)

const (
	barEvery  = 100 * time.Millisecond // how often a terminal is drawn
	lineEvery = 5 * time.Second        // how often a log file gets a line
	barWidth  = 24
)

// Progress shows how far an import is: a bar on a terminal, elsewhere a line
// now and then. It is safe for concurrent use.
type Progress struct {
	mu       sync.Mutex
	w        io.Writer
	terminal bool
	now      func() time.Time

	total, done   int64 // bytes of the files; total is 0 when it is not known
	lines, events int
	started, last time.Time
	drawn         bool // a bar stands on the current line
}

// NewProgress writes to w, which is a terminal or is not.
func NewProgress(w io.Writer, terminal bool, now func() time.Time) *Progress {
	return &Progress{w: w, terminal: terminal, now: now, started: now(), last: now()}
}

// Printf writes a line of its own, past the bar.
func (p *Progress) Printf(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clear()
	fmt.Fprintf(p.w, format+"\n", args...)
}

func (p *Progress) expect(total int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.total = total
	p.started = p.now()
}

// add counts a batch that is done.
func (p *Progress) add(b *batch) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lines += b.lines()
	p.events += len(b.events)
	p.done += b.storedBytes
	every := lineEvery
	if p.terminal {
		every = barEvery
	}
	if now := p.now(); now.Sub(p.last) >= every {
		p.last = now
		p.draw(now)
	}
}

// finish removes the bar; the summary takes its place.
func (p *Progress) finish() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clear()
}

// REQUIRES: p.mu held.
func (p *Progress) draw(now time.Time) {
	rate := 0
	if took := now.Sub(p.started).Seconds(); took > 0 {
		rate = int(float64(p.events) / took)
	}
	text := fmt.Sprintf("%s  %s events/s", Count(p.lines, "line"), thousands(rate))
	if p.total > 0 {
		part := min(1, float64(p.done)/float64(p.total))
		text = fmt.Sprintf("%3.0f%%  %s", 100*part, text)
		if p.terminal {
			full := int(part * barWidth)
			text = "[" + strings.Repeat("#", full) + strings.Repeat(".", barWidth-full) + "] " + text
		}
	}
	if !p.terminal {
		fmt.Fprintln(p.w, text)
		return
	}
	p.clear()
	io.WriteString(p.w, text)
	p.drawn = true
}

// clear removes the bar from its line. REQUIRES: p.mu held.
func (p *Progress) clear() {
	if p.drawn {
		io.WriteString(p.w, "\r\x1b[K")
		p.drawn = false
	}
}
