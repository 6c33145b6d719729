package load

import (
	"fmt"
	"slices"
	"strings"
)

// format writes batches as one tracker posts them.
type format interface {
	// path is where the server takes them, contentType what they are sent as.
	path() string
	contentType() string
	// append appends a body of n events to b.
	append(b *batch, n int)
}

var formats = map[string]format{
	"plain":       plain{},
	"ndjson":      ndjson{},
	"cloudevents": cloudEvents{},
	"segment":     segment{},
	"posthog":     postHog{},
	"amplitude":   amplitude{},
	"mixpanel":    mixpanel{},
}

// Formats are the names of the formats of bodies, the plain one first.
func Formats() []string {
	return []string{"plain", "ndjson", "cloudevents", "segment", "posthog", "amplitude", "mixpanel"}
}

func formatOf(name string) (format, error) {
	if f, ok := formats[name]; ok {
		return f, nil
	}
	return nil, fmt.Errorf("no format %q: there are %s", name, strings.Join(slices.Clone(Formats()), ", "))
}

// separated appends n events with separator between them.
func separated(b *batch, n int, separator string, event func(b *batch)) {
	for i := range n {
		if i > 0 {
			b.literal(separator)
		}
		event(b)
	}
}
