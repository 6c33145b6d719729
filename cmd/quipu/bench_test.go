package main

import (
	"strings"
	"testing"
)

// TestBenchEvents: the command prints what the server counted, and fails where the server
// queried after.
func TestBenchEvents(t *testing.T) {
	s := startServer(t)
	for _, format := range []string{"plain", "ndjson"} {
		out, errs, err := runQuipu(t, "bench", "events", "--server="+s.URL, "--format="+format, "--count=5000", "--batch-size=100",
			"--warmup=0s", "--same-batch=0.1", "--field=event=1", "--field=page=20:zipf")
		if err != nil {
			t.Fatalf("%v\n%s%s", err, out, errs)
		}
		for _, want := range []string{"5000 events counted", "status 200   50 requests", "CPU-s in a million events"} {
			if !strings.Contains(out, want) {
				t.Errorf("no %q in\n%s", want, out)
			}
		}
	}
	out, errs, err := runQuipu(t, "bench", "events", "--server="+s.URL, "--path=/nowhere", "--count=100", "--batch-size=10", "--warmup=0s")
	if err == nil || !strings.Contains(errs, "10 requests were refused: status 404") {
		t.Errorf("posting to a path that does not exist: %v\n%s%s", err, out, errs)
	}
}
