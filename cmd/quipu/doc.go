// Command quipu serves a data directory and talks to a running server.
//
//	main.go      parses the command line and dispatches
//	console.go   the streams, the clock and the terminal that commands use
//	remote.go    the flags of every command that talks to a server
//	serve.go     "quipu serve"
//	serve_auth.go  who may do what there: credentials, TLS, the audit log
//	keys.go      "quipu keys"
//	config.go    the configuration file, and "quipu config check"
//	configs.go   the one in force, and its reloads
//	tenantadmin.go what the API does with tenants
//	tenants.go   "quipu tenants"
//	ruler.go     what evaluates the rules of all tenants
//	rules.go, rules_remote.go  "quipu rules": of files, and of a server
//	rulefiles.go, events.go  files of event rules; "quipu events"
//	analyze.go, check.go  "quipu tsdb analyze" and "quipu check"
//	inventory.go what the API says of what is stored
//	import.go    "quipu import accesslog"
//	query.go     "quipu query"
//	bench.go     "quipu bench"
//	when.go      instants and durations as they are written on the command line
//	demo.go      "quipu demo", what "make demo" runs: the story it tells
//	demo_hours.go, demo_server.go  its table of hours; the server that it runs
//	process_*.go what a child process needs of the operating system
//
// Invariants:
//
//	I1: answers go to stdout; progress, warnings and errors go to stderr.
//	I2: the exit status is 0 only if everything asked for was done: 1 when a
//	    command failed, 80 (kong's) when the command line was not understood.
package main
