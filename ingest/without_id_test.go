package ingest

import "testing"

// An event is counted where its client gave it no id.
func TestEventsOfTrackersWithoutIDs(t *testing.T) {
	for name, body := range map[string]string{
		"segment":   `{"type": "track", "event": "order", "userId": "u"}`,
		"posthog":   `{"event": "order", "distinct_id": "u"}`,
		"plausible": `{"n": "order"}`,
		"page":      `{"e": [{"n": "order"}]}`,
		"amplitude": `{"event_type": "order", "user_id": "u"}`,
		"mixpanel":  `{"event": "order", "properties": {"distinct_id": "u"}}`,
		"ga4":       `{"client_id": "u", "events": [{"name": "order"}]}`,
		"gtag":      `en=order&cid=u`,
		"snowplow":  `{"e": "se", "se_ac": "order"}`,
		"umami":     `{"type": "event", "payload": {"name": "order"}}`,
		"matomo":    `idsite=1&rec=1&e_a=order`,
	} {
		format, err := FormatNamed(name)
		if err != nil {
			t.Fatal(err)
		}
		post, err := format.Open(&Request{Body: []byte(body)})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		ex, err := ExplainWith("rules", DefaultRules, post, 1_800_000_000_000)
		if err != nil || ex.Verdict != "accepted" {
			t.Errorf("%s: verdict %q (%s), %v; want accepted", name, ex.Verdict, ex.Reason, err)
		}
	}
}
