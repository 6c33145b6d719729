// Package ruler evaluates the recording and alerting rules of tenants.
//
// Rules are Prometheus's: its file format, its groups, rules, states and templates
// (package rules of upstream), its notifier. What is ours is when groups are evaluated,
// by what, and where their results go:
//
//	Files    <data.dir>/<tenant>/rules/<namespace>.yaml
//	load     files to groups, by way of upstream's manager, which is never run
//	schedule one timer for the groups of all tenants; a bounded number is evaluated at
//	         once, tenants taking turns. A tenant without rules costs nothing.
//	evaluate upstream's evaluation of a group, with the engine that answers queries,
//	         and the tenant in the scope of the context
//	batches  what the rules give is stored as samples of the tenant, in one batch where
//	         no rule of the group reads what another one records
//	late     recording rules evaluated again where late events changed what they read
//	notify   alerts to Alertmanagers, by a notifier for each tenant that has any
//
// Evaluation times are on the tenant's grid, and queries look at least one step of it
// back, so that no rule sees a window that is open: what it records is what anyone reads
// of that time later, but for events that come late.
//
// Files:
//
//	ruler.go     Ruler: options, Run, what Prometheus's API asks for
//	config.go, alerting.go  the sections "rules" and "alerting" of the configuration
//	files.go     rule files
//	load.go      files to groups, and into the schedule
//	edit.go      groups made, replaced and removed over the API
//	group.go     the schedule
//	evaluate.go  one evaluation, and its samples on their way to storage
//	late.go      steps that late events changed
//	notify.go    notifiers
//	metrics.go   metrics
//
// Invariants:
//
//	I1: rules read and write only with the tenant whose files they are in,
//	    and not at all while it is suspended, or once it was forgotten.
//	I2: a group is evaluated, replaced, retired or evaluated again by one goroutine at
//	    a time (group.evaluating).
//	I3: evaluation times are multiples of the grid, and queries of rules are at least
//	    one grid step before them.
//	I4: a file that is wrong changes nothing: what was loaded of it before goes on.
//	I5: alerts leave with the label that names their tenant, whatever their rule says.
//
// Lock order: tenantRules.replacing, group.evaluating, Ruler.mu; notifiers.mu is taken
// last.
package ruler
