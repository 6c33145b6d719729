package tenant

import (
	"encoding/json"
	"strings"
	"testing"
)

// Rules and sizes of retention read back as they were written, as YAML and as JSON, and
// settings with them can be compared.
func TestRetentionIsWrittenAsItIsRead(t *testing.T) {
	const file = "retention_size: 10GiB\nretention_rules:\n  - {match: '{env=\"dev\"}', retention: 7d}\n  - {match: 'page_views_total{env!=\"\"}', retention: 0s}\n"
	own, err := ParsePatch([]byte(file))
	if err != nil {
		t.Fatal(err)
	}
	want := DefaultSettings()
	want.RetentionSize = 10 << 30
	want.RetentionRules = *own.RetentionRules
	again, err := ParsePatch(own.File(DefaultSettings()))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []*Patch{&own, &again} {
		if got, err := (&Policy{Defaults: DefaultSettings()}).Settings(ID{}, p, 0); err != nil || !got.Equal(&want) {
			t.Errorf("settings are %+v, %v, want %+v", got, err, want)
		}
	}
	src, err := json.Marshal(own)
	const object = `{"retention_rules":[{"match":"{env=\"dev\"}","retention":"1w"},{"match":"page_views_total{env!=\"\"}","retention":"0s"}],"retention_size":"10GiB"}`
	if err != nil || string(src) != object {
		t.Errorf("as JSON: %s, %v", src, err)
	}
	var merged Patch
	if _, err := merged.Merge(src); err != nil || *merged.RetentionRules != *own.RetentionRules || *merged.RetentionSize != 10<<30 {
		t.Errorf("merged: %+v, %v", merged, err)
	}
	if _, err := merged.Merge([]byte(`{"retention_rules": [], "retention_size": 1024}`)); err != nil || *merged.RetentionRules != "" || *merged.RetentionSize != 1024 {
		t.Errorf("no rules and a plain number: %+v, %v", merged, err)
	}
	if rules, err := own.RetentionRules.Rules(); err != nil || len(rules) != 2 || rules[0].Retention.Hours() != 168 || len(rules[1].Matchers) != 2 {
		t.Errorf("rules are %+v, %v", rules, err)
	}
}

func TestRetentionErrorsNameTheField(t *testing.T) {
	for src, want := range map[string]string{
		`retention_size: many`:                            `line 1: "many" is no number of bytes`,
		`retention_size: -1GiB`:                           `retention_size is -1GiB`,
		`retention_rules: 7d`:                             `line 1: cannot unmarshal`,
		`retention_rules: [{when: a}]`:                    `line 1: field when is not known`,
		`retention_rules: [{match: a}]`:                   `retention_rules[0].retention is missing`,
		`retention_rules: [{match: "{", retention: 1d}]`:  `retention_rules[0].match is "{"`,
		`retention_rules: [{match: "{}", retention: 1d}]`: `retention_rules[0].match is "{}"`,
		"retention_rules: [{match: a, retention: soon}]":  `line 1: not a valid duration`,
		"retention: 2d\nretention_rules: [{match: a, retention: 1d}, {match: b, retention: 3d}]": `retention_rules[1].retention is 3d, it must be at most the tenant's retention (2d)`,
	} {
		if _, err := ParseSettings([]byte(src), DefaultSettings()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", src, err, want)
		}
	}
	for _, object := range []string{`{"retention_rules": [{"match": "a", "age": "1d"}]}`, `{"retention_size": "1 cup"}`, `{"retention_rules": {}}`} {
		if _, err := (&Patch{}).Merge([]byte(object)); err == nil || !strings.HasPrefix(err.Error(), "retention_") {
			t.Errorf("%s: %v, want the field's name", object, err)
		}
	}
	if v, err := FieldJSON("retention_size", "10GiB"); err != nil || string(v) != `"10GiB"` {
		t.Errorf("as a person writes it: %s, %v", v, err)
	}
}
