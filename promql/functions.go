package promql

import (
	"fmt"

	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/util/annotations"

	upstream "github.com/prometheus/prometheus/promql"
)

// Upstream's engine finds functions in a package-level table and fails on a nil
// entry with a message about itself. Our functions never get there through
// Engine, which replaces them; through an engine made any other way they do, and
// then say what is wrong. An init, because the table must be complete before
// any engine reads it: it has no lock.
func init() {
	for name := range ownFunctions() {
		upstream.FunctionCalls[name] = unplanned(name)
	}
}

// unplanned is the implementation of name where no planner has replaced it. A
// function cannot return an error; the evaluator turns a panic with one into the
// query's error.
func unplanned(name string) upstream.FunctionCall {
	return func([]upstream.Vector, upstream.Matrix, parser.Expressions, *upstream.EvalNodeHelper) (upstream.Vector, annotations.Annotations) {
		panic(fmt.Errorf("%s cannot be computed from samples: the query must go through Quipu's engine", name))
	}
}
