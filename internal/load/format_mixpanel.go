package load

// mixpanel is a batch as Mixpanel's API takes it
// (https://developer.mixpanel.com/reference/track-event), at the path whose answer has
// the verdicts.
type mixpanel struct{}

func (mixpanel) path() string        { return "/track?verbose=1" }
func (mixpanel) contentType() string { return "application/json" }

func (mixpanel) append(b *batch, n int) {
	b.literal(`[`)
	separated(b, n, ",", func(b *batch) {
		b.literal(`{"event":"`)
		b.event()
		b.literal(`","properties":{"token":"bench","$insert_id":"`)
		b.id()
		b.literal(`","distinct_id":"`)
		b.user()
		b.literal(`","time":`)
		b.millis()
		b.literal(`,`)
		b.properties()
		b.literal(`}}`)
	})
	b.literal(`]`)
}
