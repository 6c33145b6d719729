// Package enrich finds what an event does not say itself: the browser, system and kind
// of device behind a user agent, whether that is a program rather than a person, the
// country and city of an address, and the source and medium behind a referrer.
//
// Files:
//
//	enrich.go   Enricher, what all workers share, and Cache, what one has found
//	agent.go    user agents, by a parser and what it takes for another
//	bot.go      which of them are programs
//	place.go    addresses, by a database file of MaxMind's form
//	source.go   referrers
//
// Invariants:
//
//	I1: Nothing found depends on what was asked before: caches hold values of pure
//	    functions of a text (and, of places, of the database that is open).
//	I2: Caches are bounded, in entries and in the length of what they are asked for; an
//	    address is in memory no longer than its cache is, and nowhere else.
package enrich
