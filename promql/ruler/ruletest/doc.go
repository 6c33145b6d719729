// Package ruletest checks files of recording and alerting rules, and runs unit tests of
// them in the format of Prometheus's promtool, without a server.
//
// The verdicts are promtool's where the language is its own: rules are loaded and
// evaluated by upstream's package, and series come from its loader
// (promqltest.LazyLoader). promtool itself is a command and cannot be imported, so what
// it does around these is done here again, after cmd/promtool/unittest.go of upstream. Only the language is larger: it has Quipu's
// functions, and the experimental ones without a flag.
//
// Files:
//
//	check.go   what is wrong with a file of rules
//	format.go  the format of unit tests
//	run.go     one test: series in, rules evaluated, alerts and samples compared
package ruletest
