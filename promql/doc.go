// Package promql answers PromQL: Prometheus's parser and engine, the two
// functions that PromQL lacks, and the planner that computes calls of them.
//
//	distinct_over_time(users[1d])               distinct ids in the range, per series
//	count_distinct(users[1d], "country", ...)   the union over series, grouped by the
//	                                            labels named; with none, one result
//
// The engine cannot compute these from samples: the ids of two windows overlap,
// so counts do not add. The planner therefore replaces each such call by a
// synthetic vector selector, hands the rest of the expression to the engine, and
// serves the selector's series from values that it computed straight from the
// sketches, at exactly the times at which the engine will ask for them.
//
// Files:
//
//	parser.go     the language: upstream's, the two functions, what they refuse
//	rewrite.go    calls out of an expression tree, synthetic selectors in
//	steps.go      the times at which the engine evaluates each synthetic selector
//	engine.go     Engine, an upstream QueryEngine, and the Query it returns
//	querier.go    the Queryable that serves synthetic selectors next to real ones
//	intervals.go  the pieces of time that the ranges of a call consist of
//	distinct.go   DistinctSource and the values of one call
//	functions.go  what upstream's function table says of the two functions
//
// Invariants:
//
//	I1: a query without such a call reaches upstream's engine with the very string
//	    and Queryable it came with.
//	I2: rewriting depends on the query text alone, and a synthetic selector is
//	    named by the position of the call it replaces. So the engine's own parse
//	    of the query and the plan made for it agree without sharing state.
//	I3: a synthetic selector reads only the plan of its own query. No query can
//	    spell its name: the prefix is refused in what users write.
//	I4: every node of a rewritten tree keeps its position in the query as written;
//	    what upstream says of it, warnings and errors, points at the right place.
//	I5: a synthetic series has a sample at an evaluation time where its call has a
//	    value, and a stale marker at the first one after it where it has none, so
//	    that lookback never finds an older value.
//	I6: no range of a call begins or ends inside an interval that its source is asked
//	    for, so that the source may count an hour or a day that an interval has whole
//	    as one set. Only the sets of one group are in memory at a time.
//
// What differs from a function that the engine evaluates itself: info() over a
// call takes its info series at the evaluation time, also where the call's
// selector has an offset or an @ modifier; and traces name the synthetic
// selector.
package promql
