package load

// amplitude is a batch as Amplitude's HTTP V2 API takes it
// (https://amplitude.com/docs/apis/analytics/http-v2).
type amplitude struct{}

func (amplitude) path() string        { return "/2/httpapi" }
func (amplitude) contentType() string { return "application/json" }

func (amplitude) append(b *batch, n int) {
	b.literal(`{"api_key":"bench","events":[`)
	separated(b, n, ",", func(b *batch) {
		b.literal(`{"event_type":"`)
		b.event()
		b.literal(`","insert_id":"`)
		b.id()
		b.literal(`","user_id":"`)
		b.user()
		b.literal(`","time":`)
		b.millis()
		b.literal(`,"event_properties":{`)
		b.properties()
		b.literal(`}}`)
	})
	b.literal(`]}`)
}
