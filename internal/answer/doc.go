// Package answer shows the answers of Prometheus's query API on a terminal.
//
//	answer.go  the JSON of an answer into values
//	number.go  values and times as text
//	table.go   values as aligned columns
//	plot.go    a matrix as a plot
//
// Invariants:
//
//	A1: the order of series is the server's: topk and sort have one.
//	A2: an integer below 1e21 shows all its digits and no exponent.
package answer
