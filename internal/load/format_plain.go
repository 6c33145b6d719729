package load

// plain is the event model of ours, in a JSON array.
type plain struct{}

func (plain) path() string        { return "/api/v1/events" }
func (plain) contentType() string { return "application/json" }

func (plain) append(b *batch, n int) {
	b.literal("[")
	separated(b, n, ",", plainEvent)
	b.literal("]")
}

// ndjson is plain with an event a line.
type ndjson struct{}

func (ndjson) path() string        { return "/api/v1/events" }
func (ndjson) contentType() string { return "application/x-ndjson" }

func (ndjson) append(b *batch, n int) { separated(b, n, "\n", plainEvent) }

func plainEvent(b *batch) {
	b.literal(`{"data":{"correlation_id":`)
	b.correlation()
	b.literal(`,"user_id":"`)
	b.user()
	b.literal(`","event_id":"`)
	b.id()
	b.literal(`","operation_id":2133,"timestamp":`)
	b.millis()
	b.literal(`,"further_data":{"event":"`)
	b.event()
	b.literal(`",`)
	b.properties()
	b.literal(`}}}`)
}
