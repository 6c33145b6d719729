// Package accesslog reads the access logs of Apache and nginx in the common and
// the combined format, one line at a time, and turns a line into an event.
//
//	parse.go   a line into an Entry
//	time.go    the time of a line
//	event.go   an Entry into the event that is posted
//
// The formats are those of Apache's mod_log_config
// (https://httpd.apache.org/docs/current/logs.html#accesslog):
//
//	address ident user [day/Month/year:hh:mm:ss zone] "request" status bytes
//	... "referrer" "user agent"
//
// Invariants:
//
//	I1: what identifies a hit (address, time, status field, bytes field) must be
//	    there, or the line is an error; what describes it (request, referrer,
//	    user agent) may be garbage, cut off or absent, and the hit still counts.
//	I2: a field that the log marks as absent with "-" is the zero value.
package accesslog
