package load

// cloudEvents is the JSON batch format of CloudEvents 1.0
// (https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md).
type cloudEvents struct{}

func (cloudEvents) path() string        { return "/api/v1/events" }
func (cloudEvents) contentType() string { return "application/cloudevents-batch+json" }

func (cloudEvents) append(b *batch, n int) {
	b.literal("[")
	separated(b, n, ",", func(b *batch) {
		b.literal(`{"specversion":"1.0","source":"/bench","id":"`)
		b.id()
		b.literal(`","type":"`)
		b.event()
		b.literal(`","time":"`)
		b.rfc3339()
		b.literal(`","datacontenttype":"application/json","data":{"user_id":"`)
		b.user()
		b.literal(`",`)
		b.properties()
		b.literal(`}}`)
	})
	b.literal("]")
}
