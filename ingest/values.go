package ingest

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/tenant"
)

// other stands for values that a label may not have; never written to.
var other = []byte(increment.Other)

// valuesAllowed bounds what values a label has; what it does not allow is (other).
// The zero value allows all.
type valuesAllowed struct {
	bytesMax int                 // 0: what the tenant's labels may have
	listed   map[string]struct{} // nil: any
	limit    *valueLimit         // nil: any number
}

// restriction is what replaced a value; "" where nothing did.
type restriction string

// The reasons why a value is (other).
const (
	notRestricted restriction = ""
	tooLong       restriction = "max_bytes"
	notListed     restriction = "values"
	tooMany       restriction = "max_values"

	tooLongForTenant restriction = "limits.label_value_bytes"
)

// admit returns v or what stands for it, bytesMax being the longest value of the
// tenant's labels. A dry one takes no place within the limit.
func (a *valuesAllowed) admit(v []byte, bytesMax int, dry bool) ([]byte, restriction) {
	v = validUTF8(v)
	switch {
	case a.bytesMax > 0 && len(v) > a.bytesMax:
		return other, tooLong
	case len(v) > bytesMax:
		return other, tooLongForTenant
	}
	if a.listed != nil {
		if _, ok := a.listed[string(v)]; !ok {
			return other, notListed
		}
	}
	if a.limit != nil && !a.limit.admit(v, dry) {
		return other, tooMany
	}
	return v, notRestricted
}

// valueLimit lets the first values of a label pass. It is filled with what is stored,
// so that a restart lets the same pass. Safe for concurrent use.
type valueLimit struct {
	max  int
	over prometheus.Counter // nil: not counted

	mu   sync.RWMutex
	seen map[string]struct{}
}

func (l *valueLimit) admit(v []byte, dry bool) bool {
	l.mu.RLock()
	_, ok := l.seen[string(v)]
	full := len(l.seen) >= l.max
	l.mu.RUnlock()
	switch {
	case ok || dry && !full:
		return true
	case full:
		if l.over != nil && !dry {
			l.over.Inc()
		}
		return false
	}
	l.mu.Lock()
	if len(l.seen) < l.max {
		l.seen[string(v)] = struct{}{}
	}
	_, ok = l.seen[string(v)]
	l.mu.Unlock()
	if !ok && l.over != nil {
		l.over.Inc()
	}
	return ok
}

// fill makes values known, up to the limit.
func (l *valueLimit) fill(values []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, v := range values {
		if v != increment.Other && len(l.seen) < l.max {
			l.seen[v] = struct{}{}
		}
	}
}

// fill makes the values known that the limited labels of rs have in storage.
func (b *ruleBook) fill(id tenant.ID, rs *ruleset) error {
	for i := range rs.rules {
		r := &rs.rules[i]
		for j := range r.labels {
			l := &r.labels[j]
			if l.allowed.limit == nil {
				continue
			}
			l.allowed.limit.over = b.overLimit(id, r.metric, l.name)
			if b.stored == nil {
				continue
			}
			values, err := b.stored.LabelValues(context.Background(), id, r.metric, l.name)
			if err != nil {
				return fmt.Errorf("look up the values of label %q of %s: %w", l.name, r.metric, err)
			}
			slices.Sort(values)
			l.allowed.limit.fill(slices.DeleteFunc(values, func(v string) bool { return v == string(l.otherwise) }))
		}
	}
	return nil
}

// overLabelsMax bounds the series of the metric of values over a limit.
const overLabelsMax = 200

// overLimit returns the counter of values of a label that are over its limit.
func (b *ruleBook) overLimit(id tenant.ID, metric, label string) prometheus.Counter {
	key := [3]string{id.String(), metric, label}
	b.overMu.Lock()
	defer b.overMu.Unlock()
	if _, ok := b.overSeen[key]; !ok && len(b.overSeen) >= overLabelsMax {
		key = [3]string{increment.Other, increment.Other, increment.Other}
	}
	b.overSeen[key] = struct{}{}
	return b.over.WithLabelValues(key[:]...)
}
