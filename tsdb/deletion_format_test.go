package tsdb

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
)

// sampleDeletion has a matcher of each type.
func sampleDeletion(t testing.TB) *deletion {
	t.Helper()
	d := &deletion{Number: 3, Time: 1000, MinTime: -5, MaxTime: 15_000}
	for i, value := range []string{"events_total", "/a", "/b|/c.*", "x"} {
		name := []string{model.MetricNameLabel, "page", "page", "country"}[i]
		d.Matchers = append(d.Matchers, labels.MustNewMatcher(labels.MatchType(i), name, value))
	}
	return d
}

// sameManifest compares what two would be written as.
func sameManifest(a, b *manifest) bool {
	x, errX := json.Marshal(a)
	y, errY := json.Marshal(b)
	return errX == nil && errY == nil && bytes.Equal(x, y)
}

// mustEncodeAgain fails the test where a deletion that was decoded encodes to another.
func mustEncodeAgain(t *testing.T, r *recordReader, rec *walRecord) {
	t.Helper()
	src := rec.deletion.append(rec.append([]byte{recordDeletion}))
	again, err := decodeRecord(r, src)
	if err != nil || again.deletion == nil || !bytes.Equal(again.deletion.append(again.append([]byte{recordDeletion})), src) {
		t.Fatalf("what decodes does not encode: %v\n%x", err, src)
	}
}

// A record of a deletion that is cut short, or too long, does not decode.
func TestDeletionRecordIsWhole(t *testing.T) {
	src := sampleDeletion(t).append(sampleBatch().head.append([]byte{recordDeletion}))
	rec, err := decodeRecord(newRecordReader(), src)
	if err != nil || rec.deletion == nil || rec.deletion.Number != 3 || len(rec.deletion.Matchers) != 4 || rec.deletion.Matchers[2].String() != `page=~"/b|/c.*"` {
		t.Fatalf("decoded %+v, %v", rec, err)
	}
	for n := range src {
		if _, err := decodeRecord(newRecordReader(), src[:n]); err == nil {
			t.Errorf("%d bytes of %d decode", n, len(src))
		}
	}
	if _, err := decodeRecord(newRecordReader(), append(src, 0)); err == nil {
		t.Error("a byte too many decodes")
	}
}

// A manifest whose deletions cannot be is damaged.
func TestManifestWithImpossibleDeletions(t *testing.T) {
	good := func() *manifest {
		m := &manifest{Deleted: 4, Blocks: []blockInfo{{Clean: 2}}}
		for n := range uint64(2) {
			d := sampleDeletion(t)
			d.Number += n
			m.Deletions = append(m.Deletions, d)
		}
		return m
	}
	if err := good().checkDeletions(); err != nil {
		t.Fatal(err)
	}
	for want, spoil := range map[string]func(*manifest){
		"deletion 3 follows 3": func(m *manifest) { m.Deletions[1].Number = 3 },
		"deletion 4 follows":   func(m *manifest) { m.Deleted = 3 },
		"clean of 5 deletions": func(m *manifest) { m.Blocks[0].Clean = 5 },
		"of nothing":           func(m *manifest) { m.Deletions[0].Matchers = nil },
		"is missing":           func(m *manifest) { m.Deletions[0] = nil },
	} {
		m := good()
		spoil(m)
		if err := m.checkDeletions(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}
