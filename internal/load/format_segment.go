package load

// segment is a batch of track calls, as Segment's HTTP tracking API takes them
// (https://segment.com/docs/connections/sources/catalog/libraries/server/http-api/#batch).
type segment struct{}

func (segment) path() string        { return "/v1/batch" }
func (segment) contentType() string { return "application/json" }

func (segment) append(b *batch, n int) {
	b.literal(`{"batch":[`)
	separated(b, n, ",", func(b *batch) {
		b.literal(`{"type":"track","messageId":"`)
		b.id()
		b.literal(`","userId":"`)
		b.user()
		b.literal(`","event":"`)
		b.event()
		b.literal(`","timestamp":"`)
		b.rfc3339()
		b.literal(`","properties":{`)
		b.properties()
		b.literal(`}}`)
	})
	b.literal(`]}`)
}
