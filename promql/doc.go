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
//	exact.go      increase and rate of counts, anchored where a tenant wants it
//	explanation.go how queries were answered, for who asks
//	parser.go     the language: upstream's, the two functions, what they refuse
//	rewrite.go    calls out of an expression tree, synthetic selectors in
//	steps.go      the times at which the engine evaluates each synthetic selector
//	engine.go     Engine, an upstream QueryEngine, and the Query it returns
//	querier.go    the Queryable that serves synthetic selectors next to real ones
//	distinct.go   DistinctSource and the values of one call
//	functions.go  what upstream's function table says of the two functions
//
// In front of the engine a Cache keeps the steps of range queries that can no longer
// change:
//
//	cache.go         Cache, a QueryEngine; options, keys, metrics
//	cache_query.go   one query: what is known of it, the rest from the engine
//	cache_reach.go   which samples a step depends on, so what a change makes wrong
//	cache_extent.go  values of consecutive steps as bytes, and put together
//	cache_store.go   bytes of all tenants in one cache, and the share of each
//
// and in front of that a Governor holds queries to the limits of their tenants:
//
//	governor.go      Governor, a QueryEngine; what exceeds a limit, slow queries
//	turns.go         how many queries run at once, and whose turn is next
//	engines.go       an Engine for each bound of samples
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
//	I6: sketches belong to their source and are never changed.
//	I7: a query that the cache answers has the answer of the engine. Kept is only
//	    what depends on samples before a time that storage promised is settled, and
//	    used only while nothing of that has changed; the parts of an answer that
//	    were read at different moments are of the same state, or it is computed
//	    whole. What can depend on the range that is asked for is not kept.
//
// What differs from a function that the engine evaluates itself: info() over a
// call takes its info series at the evaluation time, also where the call's
// selector has an offset or an @ modifier; and traces name the synthetic
// selector.
package promql
