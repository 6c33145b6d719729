// Package promql answers PromQL: Prometheus's parser and engine, the two functions that
// PromQL lacks, and a planner that computes most of what is asked from whole series.
//
//	distinct_over_time(users[1d])               distinct ids in the range, per series
//	count_distinct(users[1d], "country", ...)   the union over series, grouped by the
//	                                            labels named; with none, one result
//
// The engine reads sample by sample, by way of an iterator, and keeps a value of every
// series and step until it aggregates them. The planner finds the subtrees of a query
// that are a function of a range, or aggregations and functions of histograms over one or
// over a selector; replaces each by a synthetic vector selector; hands the rest of the
// expression to the engine; and serves the selector's series from what it has computed
// in one pass over the data, several series at a time, at exactly the times at which the
// engine will ask for them. So it does with calls of our two functions, which cannot be
// computed from samples at all: the ids of two windows overlap, so counts do not add.
//
//	planner.visit      which subtrees, by the query's text
//	evaluationPlaces   when the engine evaluates what stands for each
//	direct.compute     select columns; evaluator: column -> row of values by step;
//	                   layers (aggregations, functions of histograms) over rows;
//	                   series out of what is left
//
// Simple aggregations of floats (sum, avg, min, max, count, group) go into accumulators
// of each goroutine; all else takes rows in the order of the series, in one goroutine,
// with the engine's own arithmetic, while others compute the next rows.
//
// Functions of histograms take native histograms and classic buckets by rows too: which
// buckets are of one histogram is found once for a series and not at every step.
//
// Files:
//
//	exact.go      increase and rate of counts, anchored where a tenant wants it
//	explanation.go how queries were answered, for who asks
//	parser.go     the language: upstream's, the two functions, what they refuse
//	plan.go       what is computed directly
//	rewrite.go    subtrees out of an expression, synthetic selectors in
//	steps.go      where the engine evaluates each synthetic selector
//	engine.go     Engine, an upstream QueryEngine, and the Query it returns
//	querier.go    the Queryable that serves synthetic selectors next to real ones
//	columns.go, hints.go            what a direct computation reads
//	direct.go                       one of them
//	evaluate.go                     a column to a row
//	kernels.go, kernels_grid.go     functions of samples, and of runs of increments
//	accumulate.go                   simple aggregations
//	inorder.go, cells.go, ranks.go, grouping.go     all others
//	histograms.go                   functions of histograms
//	output.go                       rows to series
//	accounting.go, counts.go        what the engine would have counted
//	explain.go    plans as trees
//	intervals.go  the pieces of time that the ranges of a call consist of
//	distinct.go   DistinctSource and the values of one call
//	functions.go  what upstream's function table says of the two functions
//
// In front of the engine a Cache keeps the steps of range queries that can no longer
// change:
//
//	cache.go         Cache, a QueryEngine; options, keys, metrics
//	cache_query.go   one query: what is known of it, the rest from the engine
//	cache_reach.go   which samples a step depends on, so what a change makes wrong
//	dependence.go    the same for who records what expressions give
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
//	I1: a query without such a subtree reaches upstream's engine with the very string
//	    and Queryable it came with.
//	I2: rewriting depends on the query text and the engine's options alone, and a
//	    synthetic selector is named by the position of the subtree it replaces. So the
//	    engine's own parse of the query and the plan made for it agree without
//	    sharing state.
//	I3: a synthetic selector reads only the plan of its own query. No query can
//	    spell its name: the prefix is refused in what users write.
//	I4: every node of a rewritten tree keeps its position in the query as written;
//	    what upstream says of it, warnings and errors, points at the right place.
//	I5: a synthetic series has a sample at an evaluation time where its subtree has a
//	    value, and a stale marker at the first one after it where it has none, so
//	    that lookback never finds an older value.
//	I6: sketches and histograms belong to their source and are never changed.
//	I7: what is computed directly is what the engine gives, within the order of
//	    additions: values, errors, annotations and counts of samples. What is not sure
//	    to be is left to the engine, by the text of the query: see planner.takes.
//	I8: no result depends on how goroutines are scheduled.
//	I9: a synthetic selector is the same at every step where its subtree is (@), so
//	    that the engine treats what is around it as it would.
//	I10: a query that the cache answers has the answer of the engine. Kept is only
//	    what depends on samples before a time that storage promised is settled, and
//	    used only while nothing of that has changed; the parts of an answer that
//	    were read at different moments are of the same state, or it is computed
//	    whole. What can depend on the range that is asked for is not kept.
//	I11: no range of a call begins or ends inside an interval that its source is asked
//	    for, so that the source may count an hour or a day that an interval has whole
//	    as one set. Only the sets of one group are in memory at a time, within the bytes of
//	    the samples that a query may hold.
//
// What differs from a function that the engine evaluates itself: info() over one of our
// two functions takes its info series at the evaluation time, also where the call's
// selector has an offset or an @ modifier; traces name the synthetic selector; and a
// query fails for too many samples by what the planner holds, which is less than the
// engine would.
package promql
