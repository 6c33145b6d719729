package importer

import (
	"bytes"
	"compress/gzip"
	"io"
	"slices"
	"strings"
	"testing"
)

// A file that grows changes its last batch and no other, so an import says where
// a file ends in a batch that may grow.
func TestImportSaysThatTheLastBatchIsShort(t *testing.T) {
	var zipped bytes.Buffer
	zip := gzip.NewWriter(&zipped)
	io.WriteString(zip, logLines(1, 14))
	zip.Close()
	for _, tc := range []struct{ name, content, want string }{
		{"one line", logLines(1, 21), "the last line is one short batch"},
		{"some lines", logLines(1, 14), "the last 4 lines are one short batch"},
		{"less than a batch", logLines(1, 3), "the last 3 lines are one short batch"},
		{"whole batches", logLines(1, 20), ""},
		{"compressed, so complete", zipped.String(), ""},
		{"nothing to count in it", logLines(1, 10) + "no hit\n", ""},
		{"empty", "", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			file := writeFile(t, "access.log", tc.content)
			var stderr bytes.Buffer
			if _, err := importInto(t.Context(), newFakeServer(t), &stderr, func(o *Options) { o.Files = []string{file} }); err != nil {
				t.Fatalf("Run: %v", err)
			}
			got := strings.TrimPrefix(stderr.String(), file+":11: not counted: no time in [dd/Mon/yyyy:hh:mm:ss zone]\n")
			want := tc.want
			if want != "" {
				want = file + ": " + want + ": if this file still grows, import it again only after it is rotated\n"
			}
			if got != want {
				t.Errorf("stderr %q, want %q", got, want)
			}
		})
	}
}

func TestImportNamesFilesOfAnotherFormat(t *testing.T) {
	hits, none, empty := writeFile(t, "access.log", "no hit\n"+logLines(1, 9)), writeFile(t, "error.log", strings.Repeat("no hit\n", 25)), writeFile(t, "empty.log", "")
	summary, err := importInto(t.Context(), newFakeServer(t), io.Discard, func(o *Options) { o.Files = []string{none, hits, empty} })
	if err != nil {
		t.Fatalf("Run: %v", err)
	}
	if want := []string{none}; !slices.Equal(summary.Foreign, want) {
		t.Errorf("files of another format are %v, want %v", summary.Foreign, want)
	}
}

// The name of a file is no part of its keys.
func TestImportCountsACopiedFileOnce(t *testing.T) {
	s := newFakeServer(t)
	first, second := writeFile(t, "access.log", logLines(1, 14)), writeFile(t, "access.log.1", logLines(1, 14))
	for _, file := range []string{first, second} {
		if _, err := importInto(t.Context(), s, io.Discard, func(o *Options) { o.Files = []string{file} }); err != nil {
			t.Fatalf("Run: %v", err)
		}
	}
	s.wantEachOnce(t, 14)
}

func TestSummaryCountsOneThingAsOne(t *testing.T) {
	var text strings.Builder
	if err := (&Summary{Lines: 1, Accepted: 1}).Fprint(&text); err != nil {
		t.Fatal(err)
	}
	if want := "1 line read, 0 unparsed\n1 event accepted, 0 duplicate, 0 rejected\ntook 0s\n"; text.String() != want {
		t.Errorf("summary\n%swant\n%s", text.String(), want)
	}
}
