// Package ingest turns request bodies of events into increments of series and
// hands them to a store, one batch a request.
//
//	body -> split -> decode -> map and coalesce -> Store.Append -> verdicts
//
// Files:
//   - ingester.go: the Ingester, its Store, and what a request gets back
//   - result.go: the answer to a request, as JSON
//   - worker.go: one request's pass over its body, and its events' verdicts
//   - split.go: the JSON text of each event in a body, whatever form it has
//   - event.go: an event, whatever its format was, and what is checked of it
//   - format.go: the formats that clients post: where, and what they expect back
//   - tree.go: parsed JSON into an event, or the reason it is rejected
//   - plain.go: plain events; plain_scan.go: the same for the common form, faster
//   - tracker.go: events of trackers, by a layout that says where their parts are
//   - cloudevents.go, segment.go, posthog.go, plausible.go, amplitude.go, mixpanel.go,
//     ga4.go, gtag.go, snowplow.go, umami.go, matomo.go, page.go: such formats
//   - parameters.go: events and their data in queries, forms and base64
//   - enriching.go: fields that events do not say themselves, step by step, and which
//     events are filtered; campaign.go: of these campaigns, referrers' hosts, channels
//   - timestamp.go: the forms of a timestamp
//   - decimal.go: the usual forms of numbers and timestamps, faster
//   - reason.go: why events are rejected, for people and for the metric
//   - default_rules.yaml: what is counted where a tenant does not say
//   - parse.go, parse_parts.go: the YAML of rules, compiled, with every error
//   - clash.go: rules against each other's names and against what is stored
//   - ruleset.go: compiled rules
//   - condition.go, transform.go: their "when" and their labels' transforms
//   - values.go: which values a label may have
//   - match.go: what the rules count of an event
//   - coalesce.go: events into one increment per series and window
//   - refused.go: events that storage left out
//   - handles.go: the series that a tenant's rules made, kept
//   - rulebook.go: the rules in force of each tenant, and their changes
//   - explain.go: what would become of an event, and why
//   - ruletest.go: tests of rules: events in, increments out
//   - limits.go: a tenant's limits: before a body is read, around it, and of rules
//   - rates.go: what a tenant may send over time
//   - depth.go: how deep an event may be
//   - metrics.go, lag.go: the process's own metrics of all this
//
// A new format is one more file, as segment.go is one, and its place in Formats: it
// opens a request's body, says by a layout where an event has its name, user, time, id
// and properties, and answers what its clients expect.
//
// An Ingester is safe for concurrent use. Requests share a pool of scratch memory,
// and those of a tenant its rules and their handles. The locks on their path are
// those of the tables of tenants, held for a look-up, and of handles that are made. A
// body is decoded in one of a number of slots and stored outside of it: so decoding takes
// no more memory than there are slots for, and batches that wait for the disk share an
// fsync. An id that another batch has reserved is waited for in a slot; that batch has
// its slot or needs none any more, so the wait ends.
//
// Invariants:
//
//	I1: every event of a readable body ends in exactly one verdict; what a body
//	    held is the sum of the verdicts, in the answer and in the metrics. A batch
//	    that is refused whole, for its tenant's rate or because the server is
//	    overloaded, has none: it counts when it is sent again.
//	I2: an event is validated whole before any of it is coalesced: a rejected
//	    event leaves no increment.
//	I3: a batch reaches the store whole or not at all: a body that turns out to
//	    be unreadable halfway has no effect.
//	I4: user ids leave this package only as keyed hashes.
//	I5: nothing handed to the store shares memory with the scratch memory that
//	    the next request reuses.
//
// User ids are kept as SipHash-2-4 (Aumasson and Bernstein, 2012,
// https://www.aumasson.jp/siphash/siphash.pdf) of their text, 64 bits, keyed
// with the tenant's secret IDKey: the two halves of the key, little endian. So
// nobody without the key can test who is in a sketch, and an id has unrelated
// hashes in two tenants. The string "42" and the number 42 are the same text and
// so the same user.
package ingest
