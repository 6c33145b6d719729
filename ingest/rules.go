package ingest

import "github.com/quipudb/quipu/internal/increment"

// Rule says what one metric counts of every event.
type Rule struct {
	Metric string
	Kind   increment.Kind
	Help   string
	// Labels of the metric. A label whose path an event does not have, or has
	// neither as text nor as a number, is absent from that event's series.
	Labels []Label
	// Value is what is counted: nothing but the event for a Counter, PathUser
	// for a Distinct, PathNumbers for a Histogram.
	Value string
	// Keep are the labels that stay when the metric is past its limit of series.
	Keep []string
}

// Label takes the value of label Name from Path: a field of data or, where data
// has none, of further_data; or one of the paths below.
type Label struct{ Name, Path string }

// Paths that mean more than the field of that name.
const (
	// PathEvent is the event's name, which every event has.
	PathEvent = "event"
	// PathUser is who caused the event. It is no label: ids are kept only as
	// keyed hashes.
	PathUser = "user_id"
	// PathNumbers is every numeric field of further_data, one after the other.
	PathNumbers = "further_data.*"
	// PathNumberName is the name of the field whose number is being counted.
	PathNumberName = "*"
)

// DefaultRules are those of a tenant that has none.
func DefaultRules() []Rule {
	return []Rule{
		{
			Metric: "events_total",
			Kind:   increment.Counter,
			Help:   "Events by name and by the well-known fields they carry.",
			Labels: []Label{
				{"event", PathEvent},
				{"browser", "browser"},
				{"country", "country"},
				{"device", "device"},
				{"method", "method"},
				{"os", "os"},
				{"page", "page"},
				{"plan", "plan"},
				{"referrer", "referrer"},
				{"status", "status"},
				{"utm_campaign", "utm_campaign"},
				{"utm_medium", "utm_medium"},
				{"utm_source", "utm_source"},
			},
			Keep: []string{"event"},
		},
		{
			Metric: "event_users",
			Kind:   increment.Distinct,
			Help:   "Distinct users by event name.",
			Labels: []Label{{"event", PathEvent}},
			Value:  PathUser,
			Keep:   []string{"event"},
		},
		{
			Metric: "event_value",
			Kind:   increment.Histogram,
			Help:   "Values of the numeric fields of further_data by event name and field.",
			Labels: []Label{{"event", PathEvent}, {"field", PathNumberName}},
			Value:  PathNumbers,
			Keep:   []string{"event"},
		},
	}
}
