package accesslog

import (
	"encoding/json"
	"testing"
)

func TestEvent(t *testing.T) {
	for _, tc := range []struct {
		name  string
		entry Entry
		shift int64
		want  string
	}{
		{
			name:  "every field",
			entry: Entry{Address: "83.149.9.216", TimeMillis: 1431857103000, Method: "GET", Target: "/a?b=c", Status: "200", Bytes: 203023, Referrer: "http://semicomplete.com/x", UserAgent: "Mozilla/5.0"},
			want:  `{"event":"http_request","user_id":"83.149.9.216","timestamp":1431857103000,"further_data":{"page":"/a?b=c","method":"GET","status":"200","bytes":203023,"referrer":"semicomplete.com","user_agent":"Mozilla/5.0"}}`,
		},
		{
			name:  "absent fields are left out",
			entry: Entry{Address: "::1", TimeMillis: 1431857103000, Bytes: -1},
			want:  `{"event":"http_request","user_id":"::1","timestamp":1431857103000,"further_data":{}}`,
		},
		{
			name:  "no bytes is not 0 bytes",
			entry: Entry{Address: "::1", TimeMillis: 1431857103000, Status: "304", Bytes: 0},
			want:  `{"event":"http_request","user_id":"::1","timestamp":1431857103000,"further_data":{"status":"304","bytes":0}}`,
		},
		{
			name:  "shifted",
			entry: Entry{Address: "::1", TimeMillis: 1431857103000, Bytes: -1},
			shift: 1500,
			want:  `{"event":"http_request","user_id":"::1","timestamp":1431857104500,"further_data":{}}`,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := json.Marshal(tc.entry.Event(tc.shift))
			if err != nil {
				t.Fatal(err)
			}
			if string(got) != tc.want {
				t.Errorf("event\n got %s\nwant %s", got, tc.want)
			}
		})
	}
}

func TestReferrerHost(t *testing.T) {
	for url, want := range map[string]string{
		"":                                   "",
		"-":                                  "",
		"about":                              "",
		"www.example.com/no-scheme":          "",
		"http://Example.COM/Path":            "example.com",
		"https://example.com:8443/?q=1":      "example.com",
		"http://example.com?q=http://other/": "example.com",
		"http://user:secret@example.com/":    "example.com",
		"http://[2001:DB8::1]:80/x":          "2001:db8::1",
		`http://\xe4\xe5.\xf0\xf4/`:          `\xe4\xe5.\xf0\xf4`,
		"android-app://com.example.reader/":  "com.example.reader",
		"file:///home/x":                     "",
	} {
		if got := referrerHost(url); got != want {
			t.Errorf("referrerHost(%q) = %q, want %q", url, got, want)
		}
	}
}
