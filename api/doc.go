// Package api is Quipu's HTTP surface: events in, Prometheus's HTTP API out, and
// what an operator looks at.
//
// Every route of the API is served at / and again at /prometheus, so that a
// client made for Prometheus works with either as its base address:
//
//	POST /api/v1/events        events, by an EventSink; trackers' formats have
//	                           paths of their own, which ingest.Formats names, and some
//	                           have one event in the query of a GET
//	POST /api/v1/events/explain  which series an event would touch, and why
//	GET, PUT, DELETE /api/v1/event-rules what is counted; POST .../check says what is wrong
//	GET, POST, DELETE /config/v1/rules  recording and alerting rules
//	     /api/v1/explain       how a query is computed, and what that took
//	GET  /api/v1/status/range  the times between which the tenant has data
//	GET  /api/v1/status/tsdb   and .../blocks, .../walreplay: what is stored of the tenant
//	POST /api/v1/admin/tsdb/... deletes what is stored and copies it
//	     /api/v1/admin/tenants...  what an operator does with tenants
//	GET  /api/v1/status/usage  what the tenant has and does
//	     /api/v1/...           the rest: Prometheus's own handlers
//	     /api/v1/admin/keys    API keys: listed, made and, below it, revoked
//	GET  /federate             the last samples, for a Prometheus that scrapes them
//	GET  /-/healthy, /-/ready  for who watches the process
//	POST /-/reload             reads the configuration again
//	GET  /metrics              the process's own metrics
//	     /debug/pprof/         Go's profiles of it, where there are credentials
//	GET  /                     the user interface, for all other paths (not
//	                           at /prometheus)
//
// Files:
//   - api.go: options and routes
//   - middleware.go: what every request passes: metrics, panics, who makes it, its scope
//   - keys.go: API keys
//   - profiles.go: profiles of the process
//   - events.go: posting events in any format, and the status of each outcome
//   - event_rules.go: what is counted: read, replaced, checked, explained
//   - admin_tenants.go: tenants made, changed, suspended, deleted; their usage
//   - rules.go: recording and alerting rules: read and changed as in Mimir, shown as in
//     Prometheus
//   - proxies.go: who sent what proxies pass on
//   - explain.go: the plan of a query
//   - body.go: bounded reading and decompression of a body
//   - held.go: the memory of all bodies together, and the time one may take
//   - prometheus.go: the making of Prometheus's handlers
//   - governed.go: reads that wait for their turn, as queries do in the engine
//   - storage_status.go, admin.go: what is stored of a tenant, and changes to it, where
//     Prometheus's handlers know no tenants
//   - federate.go, federation.go: the last samples found, and written
//   - remote_read.go: remote reads, of samples alone
//   - features.go: which optional features of Prometheus there are
//   - absent.go: what those handlers ask for and Quipu does not have
//   - metadata.go: types and help of metrics, by way of those handlers
//   - status.go: health, readiness, range of the data
//   - respond.go: answers and errors in Prometheus's JSON form
//
// Invariants:
//
//	I1: a request that reads or writes a tenant's data has one tenant and one
//	    present, set before its handler runs (internal/scope); no handler reads a
//	    clock to decide what a query sees.
//	I2: no answer under /api/ names another tenant. The process's own metrics
//	    do, so they are not gathered there.
//	I3: a body is read up to BodyBytesMax from the network and decompressed up to
//	    DecodedBytesMax, whatever its headers promise; less where the tenant's limits
//	    say so.
//	I4: the bodies of all requests take HeldBytesMax together, reserved before they
//	    are read and given back when they are answered, and none is waited for
//	    longer than a slow client needs. Buffers have up to twice the bytes that
//	    they are reserved for, where a body's length was not known.
//	I5: a route says what it needs (auth.Need), and its handler runs for nobody else.
//	    Bodies of who is not known yet take a quarter of HeldBytesMax.
package api
