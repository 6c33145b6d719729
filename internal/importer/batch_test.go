package importer

import (
	"io"
	"strings"
	"testing"
)

// keysOf cuts content into batches and returns their keys.
func keysOf(t *testing.T, content string, lines int, shifted bool) []string {
	t.Helper()
	in, err := openInput(stdinName, strings.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	r := &batcher{in: in, lines: lines, shifted: shifted, unparsed: func(string, int, error) {}}
	var keys []string
	for {
		b, err := r.next()
		if err == io.EOF {
			return keys
		}
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, b.key)
	}
}

func TestKeyDependsOnLinesOffsetAndSettings(t *testing.T) {
	content := logLines(1, 4)
	base := keysOf(t, content, 2, false)
	if len(base) != 2 || base[0] == base[1] {
		t.Fatalf("keys %v of two batches", base)
	}
	if again := keysOf(t, content, 2, false); again[0] != base[0] || again[1] != base[1] {
		t.Error("the same content has other keys")
	}
	if same := keysOf(t, content+logLines(5, 5), 2, false); same[0] != base[0] || same[1] != base[1] {
		t.Error("keys of whole batches change when the file grows")
	}
	repeated := keysOf(t, logLines(1, 2)+logLines(1, 2), 2, false)
	if repeated[0] == repeated[1] {
		t.Error("the same lines at another offset have the same key")
	}
	for name, other := range map[string]string{
		"batch size":   keysOf(t, logLines(1, 2), 3, false)[0],
		"shift":        keysOf(t, content, 2, true)[0],
		"content":      keysOf(t, logLines(2, 3), 2, false)[0],
		"line borders": keysOf(t, strings.Replace(content, "\n", " ", 1), 2, false)[0],
	} {
		if other == base[0] {
			t.Errorf("the key does not depend on the %s", name)
		}
	}
}

func TestLinesKeepTheirOffsets(t *testing.T) {
	long := strings.Repeat("y", 400<<10) // longer than the read buffer
	in, err := openInput(stdinName, strings.NewReader("a\r\n\n"+long+"\nlast"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []struct {
		text   string
		offset int64
		number int
	}{
		{"a", 0, 1},
		{"", 3, 2},
		{long, 4, 3},
		{"last", int64(4 + len(long) + 1), 4},
	} {
		l, err := in.next()
		if err != nil {
			t.Fatal(err)
		}
		if string(l.text) != want.text || l.offset != want.offset || l.number != want.number || l.tooLong() {
			t.Errorf("line %d at %d of %d bytes, want line %d at %d of %d", l.number, l.offset, len(l.text), want.number, want.offset, len(want.text))
		}
	}
	if _, err := in.next(); err != io.EOF {
		t.Errorf("error %v after the last line, want EOF", err)
	}
}
