package ingest

import (
	"encoding/json"
	"testing"
)

// TestResultAsJSON: what is appended is what encoding/json writes, and what it cannot
// say is left to that.
func TestResultAsJSON(t *testing.T) {
	none := []EventError{}
	for _, tc := range []struct {
		r    Result
		fast bool
	}{
		{Result{Errors: none}, true},
		{Result{Accepted: 1, Duplicate: 22, Filtered: 333, Rejected: 4444, Errors: none}, true},
		{Result{}, false},
		{Result{Rejected: 1, Errors: []EventError{{Reason: "no"}}}, false},
		{Result{Rejected: 1, Errors: none, ErrorsOmitted: 1}, false},
		{Result{Accepted: 1, Errors: none, Warnings: []string{"w"}}, false},
	} {
		want, err := json.Marshal(tc.r)
		if err != nil {
			t.Fatal(err)
		}
		got, ok := tc.r.AppendJSON(nil)
		if ok != tc.fast || ok && string(got) != string(want) {
			t.Errorf("%+v: %s, %t, want %s, %t", tc.r, got, ok, want, tc.fast)
		}
	}
}
