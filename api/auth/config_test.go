package auth

import (
	"bytes"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// What is wrong with a configuration is said with the field that it is in.
func TestConfigErrorsNameTheField(t *testing.T) {
	const right = "issuer: https://i, audiences: [a]"
	for text, want := range map[string]string{
		"issuers: [{" + right + "}]":                                       "",
		"issuers: [{issuer: 'http://127.0.0.1:5556/dex', audiences: [a]}]": "",
		"issuers: [{issuer: 'http://i', audiences: [a]}]":                  "issuers[0].issuer: \"http://i\" is not https",
		"issuers: [{issuer: 'i', audiences: [a]}]":                         "issuers[0].issuer: \"i\" is not of the form",
		"issuers: [{issuer: 'https://u:p@i', audiences: [a]}]":             "issuers[0].issuer: ",
		"issuers: [{issuer: https://i}]":                                   "issuers[0].audiences: ",
		"issuers: [{issuer: https://i, audiences: ['']}]":                  "issuers[0].audiences: ",
		"issuers: [{" + right + ", client_ids: [c]}]":                      "issuers[0].client_ids: ",
		"issuers: [{" + right + ", algorithms: [HS256]}]":                  "issuers[0].algorithms: \"HS256\" is not taken",
		"issuers: [{" + right + ", algorithms: [none]}]":                   "issuers[0].algorithms: \"none\" is not taken",
		"issuers: [{" + right + ", scope_map: {s: [metrics:reed]}}]":       "issuers[0].scope_map.s: there is no permission",
		"issuers: [{" + right + ", default_permissions: [everything]}]":    "issuers[0].default_permissions: ",
		"issuers: [{" + right + ", jwks_url: 'ftp://i/keys'}]":             "issuers[0].jwks_url: ",
		"issuers: [{" + right + ", ca_file: /does/not/exist}]":             "issuers[0].ca_file: ",
		"issuers: [{" + right + "}, {" + right + "}]":                      "issuers[1].issuer: https://i is issuers[0] already",
		"plans: {free: {events_per_day: -1}}":                              "plans.free.events_per_day is -1",
		"plans: {free: {requests_per_day: -1}}":                            "plans.free.requests_per_day is -1",
		"plans: {free: {requests_per_second: .nan}}":                       "plans.free.requests_per_second is NaN",
		"plans: {'': {}}": "plans: a plan needs a name",
	} {
		var c Config
		dec := yaml.NewDecoder(bytes.NewReader([]byte(text)))
		dec.KnownFields(true)
		err := dec.Decode(&c)
		if err == nil {
			err = c.Validate()
		}
		if (err == nil) != (want == "") || err != nil && !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}
