package auth

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"sync"
	"time"

	"github.com/quipudb/quipu/internal/vfs"
)

// usageFile has what keys have used; a crash loses what was not written since.
const usageFile = "usage.json"

const day = 24 * time.Hour

// usage is what a key has used of its plan. Safe for concurrent use.
type usage struct {
	mu       sync.Mutex
	day      int64 // since 1970
	events   int64 // of that day
	requests int64
	last     int64 // milliseconds since 1970; 0: never used
	tokens   float64
	filled   int64 // when tokens were counted, in nanoseconds since 1970
}

// admit counts a request at now, or refuses it.
func (u *usage) admit(p *Plan, now time.Time, events bool) *Refusal {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.roll(now)
	switch {
	case p.RequestsPerDay > 0 && u.requests >= p.RequestsPerDay:
		return refuseQuota(now, "requests", u.requests, p.RequestsPerDay)
	case events && p.EventsPerDay > 0 && u.events >= p.EventsPerDay:
		return refuseQuota(now, "events", u.events, p.EventsPerDay)
	case p.RequestsPerSecond > 0 && !u.take(p.RequestsPerSecond, now):
		return &Refusal{Status: 429, reason: reasonRate, RetryAfter: time.Second, Message: fmt.Sprintf("the key may make %g requests a second", p.RequestsPerSecond)}
	}
	u.requests++
	u.last = now.UnixMilli()
	return nil
}

// charge counts events that were taken.
func (u *usage) charge(events int, now time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.roll(now)
	u.events += int64(events)
}

// roll begins a new day, of UTC.
//
// REQUIRES: u.mu
func (u *usage) roll(now time.Time) {
	if d := now.Unix() / int64(day/time.Second); d != u.day {
		u.day, u.events, u.requests = d, 0, 0
	}
}

// take takes a token of a bucket that holds those of a second, and one at least.
//
// REQUIRES: u.mu
func (u *usage) take(perSecond float64, now time.Time) bool {
	n := now.UnixNano()
	size := max(1, perSecond)
	if u.filled == 0 {
		u.tokens = size
	} else {
		u.tokens = min(size, u.tokens+float64(max(0, n-u.filled))/1e9*perSecond)
	}
	u.filled = n
	if u.tokens < 1 {
		return false
	}
	u.tokens--
	return true
}

func refuseQuota(now time.Time, what string, used, quota int64) *Refusal {
	midnight := now.UTC().Truncate(day).Add(day)
	return &Refusal{
		Status: 429, reason: reasonQuota, RetryAfter: midnight.Sub(now),
		Message: fmt.Sprintf("the key has used %d of its %d %s of the day, which ends at %s", used, quota, what, midnight.Format(time.RFC3339)),
	}
}

// Used is what a key has used.
type Used struct {
	Day      string    `json:"day"` // of UTC, which the numbers are of
	Events   int64     `json:"events"`
	Requests int64     `json:"requests"`
	Last     time.Time `json:"last,omitzero"`
}

func (u *usage) used() Used {
	u.mu.Lock()
	defer u.mu.Unlock()
	out := Used{Day: time.Unix(u.day*int64(day/time.Second), 0).UTC().Format(time.DateOnly), Events: u.events, Requests: u.requests}
	if u.last != 0 {
		out.Last = time.UnixMilli(u.last).UTC().Truncate(time.Minute)
	}
	return out
}

// ledger holds what keys have used, by their ids. Safe for concurrent use.
type ledger struct {
	fs  vfs.FS
	dir string

	mu      sync.Mutex
	byKey   map[string]*usage
	written string // what the file holds
}

func openLedger(fsys vfs.FS, dir string) (*ledger, error) {
	l := &ledger{fs: fsys, dir: dir, byKey: map[string]*usage{}}
	text, err := fsys.ReadFile(filepath.Join(dir, usageFile))
	if errors.Is(err, fs.ErrNotExist) {
		return l, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read what keys have used: %w", err)
	}
	var read map[string]Used
	if err := json.Unmarshal(text, &read); err != nil {
		return nil, fmt.Errorf("read what keys have used in %s: %w", filepath.Join(dir, usageFile), err)
	}
	for id, u := range read {
		at, err := time.Parse(time.DateOnly, u.Day)
		if err != nil {
			continue // of no day, so it counts for none
		}
		kept := &usage{day: at.Unix() / int64(day/time.Second), events: u.Events, requests: u.Requests}
		if !u.Last.IsZero() {
			kept.last = u.Last.UnixMilli()
		}
		l.byKey[id] = kept
	}
	return l, nil
}

// of returns what a key has used, and goes on with it.
func (l *ledger) of(id string) *usage {
	l.mu.Lock()
	defer l.mu.Unlock()
	u := l.byKey[id]
	if u == nil {
		u = &usage{}
		l.byKey[id] = u
	}
	return u
}

// keep forgets all keys but those in ids.
func (l *ledger) keep(ids map[string]bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for id := range l.byKey {
		if !ids[id] {
			delete(l.byKey, id)
		}
	}
}

// write writes what has changed since it was written last.
func (l *ledger) write() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := map[string]Used{}
	for id, u := range l.byKey {
		if used := u.used(); !used.Last.IsZero() {
			out[id] = used
		}
	}
	text, err := json.Marshal(out)
	if err != nil {
		return fmt.Errorf("write what keys have used: %w", err)
	}
	if string(text) == l.written || len(out) == 0 {
		return nil
	}
	if err := vfs.WriteFile(l.fs, filepath.Join(l.dir, usageFile), text); err != nil {
		return err
	}
	l.written = string(text)
	return nil
}
