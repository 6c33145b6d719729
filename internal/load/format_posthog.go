package load

// postHog is a batch as PostHog's capture API takes it
// (https://posthog.com/docs/api/capture#batch-events).
type postHog struct{}

func (postHog) path() string        { return "/batch/" }
func (postHog) contentType() string { return "application/json" }

func (postHog) append(b *batch, n int) {
	b.literal(`{"api_key":"bench","batch":[`)
	separated(b, n, ",", func(b *batch) {
		b.literal(`{"event":"`)
		b.event()
		b.literal(`","uuid":"`)
		b.id()
		b.literal(`","distinct_id":"`)
		b.user()
		b.literal(`","timestamp":"`)
		b.rfc3339()
		b.literal(`","properties":{`)
		b.properties()
		b.literal(`}}`)
	})
	b.literal(`]}`)
}
