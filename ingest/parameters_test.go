package ingest

import (
	"encoding/json"
	"maps"
	"net/url"
	"testing"
	"unicode/utf8"
)

// The parameters of a query are JSON whatever its bytes are, and the texts that net/url
// reads where it reads any.
func FuzzParameters(f *testing.F) {
	for _, query := range []string{"", "a=b", "a=%22%5c%0a&b", "&&=x&a=1&a=2", "a=%zz&%=1", "a+b=c+d", "a=\x00\xff", `a="\`} {
		f.Add(query)
	}
	f.Fuzz(func(t *testing.T, query string) {
		text := appendParameters(nil, []byte(query))
		var got map[string]string
		if err := json.Unmarshal(text, &got); err != nil {
			t.Fatalf("%q is %q: %v", query, text, err)
		}
		values, err := url.ParseQuery(query)
		if err != nil {
			return // what is no escape stands for itself
		}
		want := map[string]string{}
		for name, v := range values {
			if !utf8.ValidString(name) {
				return // several may be one in JSON
			}
			if name != "" {
				want[name] = string([]rune(v[len(v)-1])) // as JSON has it
			}
		}
		if !maps.Equal(got, want) {
			t.Errorf("%q is %q, want %q", query, got, want)
		}
	})
}
