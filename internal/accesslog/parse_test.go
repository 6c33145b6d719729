package accesslog

import (
	"errors"
	"testing"
	"time"
)

// at is a time of day of 17 May 2015 UTC in milliseconds.
func at(hour, minute, second int) int64 {
	return time.Date(2015, time.May, 17, hour, minute, second, 0, time.UTC).UnixMilli()
}

func TestParse(t *testing.T) {
	for _, tc := range []struct {
		name string
		line string
		want Entry
	}{
		{
			name: "combined",
			line: `83.149.9.216 - - [17/May/2015:10:05:03 +0000] "GET /a.png?b=c HTTP/1.1" 200 203023 "http://example.com/x" "Mozilla/5.0 (X11)"`,
			want: Entry{Address: "83.149.9.216", TimeMillis: at(10, 5, 3), Method: "GET", Target: "/a.png?b=c", Status: "200", Bytes: 203023, Referrer: "http://example.com/x", UserAgent: "Mozilla/5.0 (X11)"},
		},
		{
			name: "common",
			line: `127.0.0.1 - frank [17/May/2015:13:55:36 +0000] "GET /apache_pb.gif HTTP/1.0" 200 2326`,
			want: Entry{Address: "127.0.0.1", TimeMillis: at(13, 55, 36), Method: "GET", Target: "/apache_pb.gif", Status: "200", Bytes: 2326},
		},
		{
			name: "absent fields are zero values",
			line: `180.76.6.56 - - [17/May/2015:21:05:56 +0000] "GET /robots.txt HTTP/1.1" 304 - "-" "-"`,
			want: Entry{Address: "180.76.6.56", TimeMillis: at(21, 5, 56), Method: "GET", Target: "/robots.txt", Status: "304", Bytes: -1},
		},
		{
			name: "absent status of a request that was never answered",
			line: `1.2.3.4 - - [17/May/2015:01:00:00 +0000] "GET / HTTP/1.1" - - "-" "-"`,
			want: Entry{Address: "1.2.3.4", TimeMillis: at(1, 0, 0), Method: "GET", Target: "/", Bytes: -1},
		},
		{
			name: "user agent cut off by the end of the line",
			line: `46.118.127.106 - - [17/May/2015:12:05:17 +0000] "GET /x HTTP/1.1" 200 235 "-" "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html`,
			want: Entry{Address: "46.118.127.106", TimeMillis: at(12, 5, 17), Method: "GET", Target: "/x", Status: "200", Bytes: 235, UserAgent: "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html"},
		},
		{
			name: "referrer cut off by the end of the line",
			line: `1.2.3.4 - - [17/May/2015:12:05:17 +0000] "GET /x HTTP/1.1" 200 235 "http://www.goo`,
			want: Entry{Address: "1.2.3.4", TimeMillis: at(12, 5, 17), Method: "GET", Target: "/x", Status: "200", Bytes: 235, Referrer: "http://www.goo"},
		},
		{
			name: "escaped quotes and backslashes",
			line: `1.2.3.4 - - [17/May/2015:12:00:00 +0000] "GET /say?q=\"hi\" HTTP/1.1" 200 1 "http://a/\\b" "agent \"007\" \\"`,
			want: Entry{Address: "1.2.3.4", TimeMillis: at(12, 0, 0), Method: "GET", Target: `/say?q="hi"`, Status: "200", Bytes: 1, Referrer: `http://a/\b`, UserAgent: `agent "007" \`},
		},
		{
			name: "escaped bytes stay as they are logged",
			line: `1.2.3.4 - - [17/May/2015:12:00:00 +0000] "GET /\xe4 HTTP/1.0" 200 1 "http://\xe4.\xf0\xf4/" "x"`,
			want: Entry{Address: "1.2.3.4", TimeMillis: at(12, 0, 0), Method: "GET", Target: `/\xe4`, Status: "200", Bytes: 1, Referrer: `http://\xe4.\xf0\xf4/`, UserAgent: "x"},
		},
		{
			name: "IPv6",
			line: `2001:db8::7 - - [17/May/2015:12:00:00 +0000] "GET / HTTP/2.0" 200 1 "-" "x"`,
			want: Entry{Address: "2001:db8::7", TimeMillis: at(12, 0, 0), Method: "GET", Target: "/", Status: "200", Bytes: 1, UserAgent: "x"},
		},
		{
			name: "user name with spaces and brackets",
			line: `1.2.3.4 - Anna [at home] B [17/May/2015:12:00:00 +0000] "GET / HTTP/1.1" 200 1`,
			want: Entry{Address: "1.2.3.4", TimeMillis: at(12, 0, 0), Method: "GET", Target: "/", Status: "200", Bytes: 1},
		},
		{
			name: "time east of UTC",
			line: `1.2.3.4 - - [17/May/2015:12:00:00 +0530] "GET / HTTP/1.1" 200 1`,
			want: Entry{Address: "1.2.3.4", TimeMillis: at(6, 30, 0), Method: "GET", Target: "/", Status: "200", Bytes: 1},
		},
		{
			name: "time west of UTC",
			line: `1.2.3.4 - - [16/May/2015:22:00:00 -0700] "GET / HTTP/1.1" 200 1`,
			want: Entry{Address: "1.2.3.4", TimeMillis: at(5, 0, 0), Method: "GET", Target: "/", Status: "200", Bytes: 1},
		},
		{
			name: "no request",
			line: `1.2.3.4 - - [17/May/2015:12:00:00 +0000] "-" 408 - "-" "-"`,
			want: Entry{Address: "1.2.3.4", TimeMillis: at(12, 0, 0), Status: "408", Bytes: -1},
		},
		{
			name: "empty request",
			line: `1.2.3.4 - - [17/May/2015:12:00:00 +0000] "" 400 0 "-" "-"`,
			want: Entry{Address: "1.2.3.4", TimeMillis: at(12, 0, 0), Status: "400", Bytes: 0},
		},
		{
			name: "bytes of a TLS handshake instead of a request",
			line: `1.2.3.4 - - [17/May/2015:12:00:00 +0000] "\x16\x03\x01\x02 \"" 400 166 "-" "-"`,
			want: Entry{Address: "1.2.3.4", TimeMillis: at(12, 0, 0), Status: "400", Bytes: 166},
		},
		{
			name: "words instead of a request",
			line: `1.2.3.4 - - [17/May/2015:12:00:00 +0000] "GET me out of here" 400 166 "-" "-"`,
			want: Entry{Address: "1.2.3.4", TimeMillis: at(12, 0, 0), Status: "400", Bytes: 166},
		},
		{
			name: "method alone",
			line: `1.2.3.4 - - [17/May/2015:12:00:00 +0000] "GET" 400 166`,
			want: Entry{Address: "1.2.3.4", TimeMillis: at(12, 0, 0), Status: "400", Bytes: 166},
		},
		{
			name: "request of HTTP/0.9, which names no protocol",
			line: `1.2.3.4 - - [17/May/2015:12:00:00 +0000] "GET /old" 200 5`,
			want: Entry{Address: "1.2.3.4", TimeMillis: at(12, 0, 0), Method: "GET", Target: "/old", Status: "200", Bytes: 5},
		},
		{
			name: "spaces in the request target",
			line: `1.2.3.4 - - [17/May/2015:12:00:00 +0000] "GET /a b c HTTP/1.1" 200 5`,
			want: Entry{Address: "1.2.3.4", TimeMillis: at(12, 0, 0), Method: "GET", Target: "/a b c", Status: "200", Bytes: 5},
		},
		{
			name: "fields of the server's own after the user agent",
			line: `1.2.3.4 - - [17/May/2015:12:00:00 +0000] "GET / HTTP/1.1" 200 5 "-" "curl" "10.0.0.1" 0.005`,
			want: Entry{Address: "1.2.3.4", TimeMillis: at(12, 0, 0), Method: "GET", Target: "/", Status: "200", Bytes: 5, UserAgent: "curl"},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := Parse([]byte(tc.line))
			if err != nil {
				t.Fatalf("Parse: %v", err)
			}
			if got != tc.want {
				t.Errorf("Parse\n got %+v\nwant %+v", got, tc.want)
			}
		})
	}
}

func TestParseRefusesWhatIsNoHit(t *testing.T) {
	for _, tc := range []struct {
		name string
		line string
		want error
	}{
		{"empty line", ``, ErrNoAddress},
		{"one word", `hello`, ErrNoAddress},
		{"no address", ` - - [17/May/2015:12:00:00 +0000] "GET / HTTP/1.1" 200 5`, ErrNoAddress},
		{"prose", `the log was rotated here`, ErrNoTime},
		{"cut off in the time", `1.2.3.4 - - [17/May/2015:12:0`, ErrNoTime},
		{"day that does not exist", `1.2.3.4 - - [31/Feb/2015:12:00:00 +0000] "GET / HTTP/1.1" 200 5`, ErrNoTime},
		{"time without zone", `1.2.3.4 - - [17/May/2015:12:00:00] "GET / HTTP/1.1" 200 5`, ErrNoTime},
		{"error log", `[Sun May 17 12:00:00 2015] [error] [client 1.2.3.4] File does not exist`, ErrNoTime},
		{"no request", `1.2.3.4 - - [17/May/2015:12:00:00 +0000] 200 5`, ErrNoRequest},
		{"cut off in the request", `1.2.3.4 - - [17/May/2015:12:00:00 +0000] "GET /index`, ErrBadStatus},
		{"status of four digits", `1.2.3.4 - - [17/May/2015:12:00:00 +0000] "GET / HTTP/1.1" 2000 5`, ErrBadStatus},
		{"cut off after the status", `1.2.3.4 - - [17/May/2015:12:00:00 +0000] "GET / HTTP/1.1" 200`, ErrBadBytes},
		{"negative bytes", `1.2.3.4 - - [17/May/2015:12:00:00 +0000] "GET / HTTP/1.1" 200 -5`, ErrBadBytes},
		{"bytes past 63 bits", `1.2.3.4 - - [17/May/2015:12:00:00 +0000] "GET / HTTP/1.1" 200 9223372036854775808`, ErrBadBytes},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if e, err := Parse([]byte(tc.line)); !errors.Is(err, tc.want) {
				t.Errorf("Parse = %+v, %v; want the error %q", e, err, tc.want)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add(`83.149.9.216 - - [17/May/2015:10:05:03 +0000] "GET /a.png HTTP/1.1" 200 203023 "http://example.com/x" "Mozilla/5.0"`)
	f.Add(`::1 - a b [17/May/2015:10:05:03 -0730] "\x16\x03 \"" - - "-" "cut \`)
	f.Add(`x [] [[17/May/2015:10:05:03 +0000]"" 000 0`)
	f.Fuzz(func(t *testing.T, line string) {
		e, err := Parse([]byte(line))
		if err != nil {
			if e != (Entry{}) {
				t.Fatalf("an error came with an entry: %+v", e)
			}
			return
		}
		if e.Address == "" || e.Bytes < -1 || (e.Status != "" && len(e.Status) != 3) {
			t.Fatalf("entry breaks its own description: %+v", e)
		}
		if (e.Method == "") != (e.Target == "") {
			t.Fatalf("method %q without target %q, or the other way round", e.Method, e.Target)
		}
		for _, field := range []string{e.Target, e.Referrer, e.UserAgent} {
			if len(field) > len(line) {
				t.Fatalf("field %q is longer than its line", field)
			}
		}
		if got := e.Event(0); got.UserID != e.Address || got.Timestamp != e.TimeMillis {
			t.Fatalf("event %+v of entry %+v", got, e)
		}
	})
}
