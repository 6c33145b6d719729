package session

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/prometheus/common/model"

	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/tenant"
)

// The bounds of a rule's gap.
const (
	GapDefault = 30 * time.Minute
	GapMin     = time.Second
	GapMax     = 24 * time.Hour
)

// VisitorLabel tells sessions of new visitors from those of returning ones.
const VisitorLabel = "visitor"

// Rule is what an event rule says of sessions. Sessions of rules that differ in
// anything are apart.
type Rule struct {
	Name   string        // what its metrics begin with
	Gap    time.Duration // events that are farther apart are of two sessions
	Labels []string      // sorted
	Keep   []string      // those that stay past the limit of series; sorted
	Bounds []float64     // of the buckets of a session's length in seconds; nil: the default
}

// Metric is one of those that a rule makes.
type Metric struct {
	Name, Help, Unit string
	Kind             increment.Kind
}

// The metrics of a rule, in the order of Metrics.
const (
	metricSessions = iota
	metricSeconds
	metricEvents
	metricBounces
	metrics
)

// Metrics are those that the rule makes; the first has the label VisitorLabel besides
// the rule's.
func (r *Rule) Metrics() []Metric {
	return []Metric{
		metricSessions: {r.Name + "_sessions_total", "Sessions, in the window of their first event.", "", increment.Counter},
		metricSeconds:  {r.Name + "_session_seconds", "Time from the first event of a session to its last.", "seconds", increment.Buckets},
		metricEvents:   {r.Name + "_session_events", "Events of a session.", "", increment.Buckets},
		metricBounces:  {r.Name + "_bounces_total", "Sessions of one event.", "", increment.Counter},
	}
}

// secondsBounds and eventsBounds are those of the histograms where a rule does not say.
var (
	secondsBounds = []float64{0, 10, 30, 60, 180, 300, 600, 1200, 1800, 3600, 7200, 14400}
	eventsBounds  = []float64{1, 2, 3, 4, 5, 7, 10, 15, 20, 50, 100, 200, 500, 1000}
)

// shapes are those of the series of the rule's first metric and of the others.
func (r *Rule) shapes() (sessions, others *increment.Shape) {
	more := func(names []string) []string {
		names = append(slices.Clone(names), VisitorLabel)
		slices.Sort(names)
		return names
	}
	return &increment.Shape{Names: more(r.Labels), Keep: more(r.Keep)}, &increment.Shape{Names: r.Labels, Keep: r.Keep}
}

func (r *Rule) append(dst []byte) []byte {
	dst = appendString(dst, r.Name)
	dst = binary.AppendUvarint(dst, uint64(r.Gap.Milliseconds()))
	for _, names := range [...][]string{r.Labels, r.Keep} {
		dst = binary.AppendUvarint(dst, uint64(len(names)))
		for _, n := range names {
			dst = appendString(dst, n)
		}
	}
	dst = binary.AppendUvarint(dst, uint64(len(r.Bounds)))
	for _, b := range r.Bounds {
		dst = binary.LittleEndian.AppendUint64(dst, math.Float64bits(b))
	}
	return dst
}

func appendString(dst []byte, s string) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(s))), s...)
}

// rule reads what append made.
func (d *decoder) rule() (*Rule, error) {
	r := &Rule{Name: string(d.bytes(d.uvarint()))}
	gap := d.uvarint()
	for _, names := range [...]*[]string{&r.Labels, &r.Keep} {
		for n := d.uvarint(); n > 0 && d.err == nil; n-- {
			*names = append(*names, string(d.bytes(d.uvarint())))
		}
	}
	for n := d.uvarint(); n > 0 && d.err == nil; n-- {
		if b := d.bytes(8); b != nil {
			r.Bounds = append(r.Bounds, math.Float64frombits(binary.LittleEndian.Uint64(b)))
		}
	}
	if d.err != nil {
		return nil, d.err
	}
	if gap < uint64(GapMin.Milliseconds()) || gap > uint64(GapMax.Milliseconds()) {
		return nil, fmt.Errorf("rule %q has a gap of %d ms", r.Name, gap)
	}
	r.Gap = time.Duration(gap) * time.Millisecond
	return r, r.validate()
}

func (r *Rule) validate() error {
	if !model.LegacyValidation.IsValidMetricName(r.Name) {
		return fmt.Errorf("rule has the name %q", r.Name)
	}
	if len(r.Labels) > tenant.LabelsPerSeriesMax || len(r.Keep) > len(r.Labels) {
		return fmt.Errorf("rule %q has %d labels and keeps %d", r.Name, len(r.Labels), len(r.Keep))
	}
	for i, l := range r.Labels {
		if !model.LegacyValidation.IsValidLabelName(l) || l == VisitorLabel || i > 0 && l <= r.Labels[i-1] {
			return fmt.Errorf("rule %q has the label %q out of place", r.Name, l)
		}
	}
	for i, l := range r.Keep {
		if !slices.Contains(r.Labels, l) || i > 0 && l <= r.Keep[i-1] {
			return fmt.Errorf("rule %q keeps the label %q", r.Name, l)
		}
	}
	if err := increment.ValidateBounds(r.Bounds); err != nil {
		return fmt.Errorf("rule %q: %w", r.Name, err)
	}
	return nil
}

// errCutShort says that bytes end before what they say they hold.
var errCutShort = errors.New("is cut short")
