package tenant

import (
	"fmt"
	"time"

	"github.com/prometheus/common/model"
)

// Bounds of Limits beyond which no tenant can go.
const (
	// JSONDepthMax is how deep the parser of JSON goes.
	JSONDepthMax = 300
	// LabelsPerSeriesMax is the most labels that any rule makes.
	LabelsPerSeriesMax = 100
	// LabelValueBytesMax is the longest value of a label.
	LabelValueBytesMax = 16 << 10

	// jsonDepthMin is how deep an event of the common form is: an object, its data, and
	// the further_data of that.
	jsonDepthMin = 3
	rateMax      = 1e15

	// QueryTimeMax is the most time that any query may take.
	QueryTimeMax = time.Hour
)

// Limits bound what one tenant may use.
type Limits struct {
	// EventsPerSecond and BytesPerSecond, of bodies as they are after decompression,
	// are what a tenant may send over time; 0 is no limit. Past them batches are
	// refused.
	EventsPerSecond int64 `yaml:"events_per_second" json:"events_per_second"`
	BytesPerSecond  int64 `yaml:"bytes_per_second" json:"bytes_per_second"`
	// BodyBytes is the largest body, DecodedBytes the largest after decompression; 0
	// is what the server takes.
	BodyBytes    int64 `yaml:"body_bytes" json:"body_bytes"`
	DecodedBytes int64 `yaml:"decoded_bytes" json:"decoded_bytes"`
	// JSONDepth is how many objects and arrays of an event may be inside each other.
	JSONDepth int `yaml:"json_depth" json:"json_depth"`
	// EventAge is the age past which an event is rejected, where that is less than the
	// retention; 0 is the retention. ClockSkew is how far ahead of the present an event
	// may be.
	EventAge  model.Duration `yaml:"event_age" json:"event_age"`
	ClockSkew model.Duration `yaml:"clock_skew" json:"clock_skew"`
	// LabelsPerSeries is the most labels of one rule.
	LabelsPerSeries int `yaml:"labels_per_series" json:"labels_per_series"`
	// LabelValueBytes is the longest value of a label; a longer one counts as "(other)".
	LabelValueBytes int `yaml:"label_value_bytes" json:"label_value_bytes"`
	// Series is the most series of all metrics together, one for each metric excepted;
	// 0 is no limit. Past it increments go to series whose labels are replaced by
	// "(other)".
	Series int `yaml:"series" json:"series"`
	// SeriesPerMetric is the most series one metric may have; past it increments go to
	// series whose labels are replaced by "(other)".
	SeriesPerMetric int `yaml:"series_per_metric" json:"series_per_metric"`
	// Exemplars is how many exemplars are kept, the newest; 0 keeps none.
	Exemplars int `yaml:"exemplars" json:"exemplars"`
	// ConcurrentQueries is how many queries run at once; 0 is a fair part of those that
	// the server runs. QueuedQueries is how many more wait for their turn; past it
	// queries are refused.
	ConcurrentQueries int `yaml:"concurrent_queries" json:"concurrent_queries"`
	QueuedQueries     int `yaml:"queued_queries" json:"queued_queries"`
	// QuerySeries is how many series the selectors of a query select together, 0 is no
	// limit; QuerySamples how many samples it has in memory at once; QuerySteps how many
	// steps a range has; QueryTime how long it takes, its turn waited for.
	QuerySeries  int64          `yaml:"query_series" json:"query_series"`
	QuerySamples int64          `yaml:"query_samples" json:"query_samples"`
	QuerySteps   int64          `yaml:"query_steps" json:"query_steps"`
	QueryTime    model.Duration `yaml:"query_time" json:"query_time"`
}

// DefaultLimits are those of a tenant whose settings do not say.
func DefaultLimits() Limits {
	return Limits{
		JSONDepth:       64,
		ClockSkew:       model.Duration(time.Hour),
		LabelsPerSeries: 30,
		LabelValueBytes: 1024,
		Series:          1_000_000,
		SeriesPerMetric: 10_000,
		Exemplars:       10_000,
		QueuedQueries:   100,
		QuerySeries:     1_000_000,
		QuerySamples:    50_000_000,
		QuerySteps:      11_000,
		QueryTime:       model.Duration(2 * time.Minute),
	}
}

// validate says which field is out of range, and what it may be.
func (l *Limits) validate() error {
	for _, f := range []struct {
		name          string
		have, min, to int64
	}{
		{"events_per_second", l.EventsPerSecond, 0, rateMax},
		{"bytes_per_second", l.BytesPerSecond, 0, rateMax},
		{"body_bytes", l.BodyBytes, 0, rateMax},
		{"decoded_bytes", l.DecodedBytes, 0, rateMax},
		{"json_depth", int64(l.JSONDepth), jsonDepthMin, JSONDepthMax},
		{"labels_per_series", int64(l.LabelsPerSeries), 1, LabelsPerSeriesMax},
		{"label_value_bytes", int64(l.LabelValueBytes), 1, LabelValueBytesMax},
		{"exemplars", int64(l.Exemplars), 0, 1_000_000},
		{"concurrent_queries", int64(l.ConcurrentQueries), 0, 10_000},
		{"queued_queries", int64(l.QueuedQueries), 0, 1_000_000},
		{"query_series", l.QuerySeries, 0, rateMax},
		{"query_samples", l.QuerySamples, 1, rateMax},
		{"query_steps", l.QuerySteps, 1, rateMax},
	} {
		if f.have < f.min || f.have > f.to {
			return fmt.Errorf("limits.%s is %d, it must be from %d to %d", f.name, f.have, f.min, f.to)
		}
	}
	const year = model.Duration(365 * 24 * time.Hour)
	switch {
	case l.EventAge < 0 || l.EventAge > 100*year:
		return fmt.Errorf("limits.event_age is %s, it must be from 0s to %s", l.EventAge, 100*year)
	case l.ClockSkew < 0 || l.ClockSkew > year:
		return fmt.Errorf("limits.clock_skew is %s, it must be from 0s to %s", l.ClockSkew, year)
	case l.QueryTime < model.Duration(time.Millisecond) || l.QueryTime > model.Duration(QueryTimeMax):
		return fmt.Errorf("limits.query_time is %s, it must be from 1ms to %s", l.QueryTime, model.Duration(QueryTimeMax))
	case l.SeriesPerMetric < 10:
		return fmt.Errorf("limits.series_per_metric is %d, it must be at least 10", l.SeriesPerMetric)
	case l.Series != 0 && l.Series < 10:
		return fmt.Errorf("limits.series is %d, it must be 0, for no limit, or at least 10", l.Series)
	}
	return nil
}

// newFile is what a new settings file says of limits, as a comment.
func (l *Limits) newFile() string {
	out := "#   limits:\n"
	for _, f := range []struct {
		name  string
		value any
		what  string
	}{
		{"events_per_second", l.EventsPerSecond, "past it, batches are refused with 429; 0: no limit"},
		{"bytes_per_second", l.BytesPerSecond, "the same, of bodies after decompression"},
		{"body_bytes", l.BodyBytes, "of one request; 0: what the server takes"},
		{"decoded_bytes", l.DecodedBytes, "the same, after decompression"},
		{"json_depth", l.JSONDepth, "objects and arrays of an event inside each other"},
		{"event_age", l.EventAge, "older events are rejected; 0s: the retention"},
		{"clock_skew", l.ClockSkew, "events further in the future are rejected"},
		{"labels_per_series", l.LabelsPerSeries, "of one rule"},
		{"label_value_bytes", l.LabelValueBytes, "longer values count as \"(other)\""},
		{"series", l.Series, "of all metrics; past it, labels become \"(other)\"; 0: no limit"},
		{"series_per_metric", l.SeriesPerMetric, "past it, labels become \"(other)\""},
		{"exemplars", l.Exemplars, "how many are kept, the newest"},
		{"concurrent_queries", l.ConcurrentQueries, "that run at once; 0: a fair part of what the server runs"},
		{"queued_queries", l.QueuedQueries, "that wait for their turn; past it, queries are refused"},
		{"query_series", l.QuerySeries, "that one query selects; 0: no limit"},
		{"query_samples", l.QuerySamples, "that one query has in memory at once"},
		{"query_steps", l.QuerySteps, "of one range"},
		{"query_time", l.QueryTime, "that one query may take"},
	} {
		out += fmt.Sprintf("#     %-28s# %s\n", fmt.Sprintf("%s: %v", f.name, f.value), f.what)
	}
	return out
}
