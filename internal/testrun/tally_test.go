package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestTally(t *testing.T) {
	for _, c := range []struct {
		name, events string
		want         string   // the last line
		has, hasNot  []string // of what is printed
	}{
		{
			name: "a package that passes shows its closing line alone",
			events: `{"Action":"start","Package":"p"}
{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Test":"TestA","Output":"noise\n"}
{"Action":"run","Package":"p","Test":"TestA/sub"}
{"Action":"pass","Package":"p","Test":"TestA/sub"}
{"Action":"pass","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Output":"PASS\n"}
{"Action":"output","Package":"p","Output":"ok  \tp\t0.1s\n"}
{"Action":"pass","Package":"p"}`,
			want: "2 passed, 0 failed", has: []string{"ok  \tp\t0.1s"}, hasNot: []string{"noise", "PASS", "failed:"},
		},
		{
			name: "a failed test shows its output and is named again at the end",
			events: `{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Test":"TestA","Output":"a_test.go:3: got 1\n"}
{"Action":"fail","Package":"p","Test":"TestA"}
{"Action":"run","Package":"p","Test":"TestB"}
{"Action":"skip","Package":"p","Test":"TestB"}
{"Action":"output","Package":"p","Output":"FAIL\tp\t0.1s\n"}
{"Action":"fail","Package":"p"}`,
			want: "0 passed, 1 failed", has: []string{"a_test.go:3: got 1", "FAIL\tp", "failed: p TestA", "1 skipped"},
		},
		{
			name: "a package that does not compile is one failure",
			events: `{"ImportPath":"p","Action":"build-output","Output":"p/a.go:1:1: syntax error\n"}
{"ImportPath":"p","Action":"build-fail"}
{"Action":"output","Package":"p","Output":"FAIL\tp [build failed]\n"}
{"Action":"fail","Package":"p","FailedBuild":"p"}`,
			want: "0 passed, 1 failed", has: []string{"syntax error", "[build failed]", "failed: p"},
		},
		{
			name: "a process that exits inside a test shows what the test printed",
			events: `{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Test":"TestA","Output":"last words\n"}
{"Action":"output","Package":"p","Output":"exit status 3\n"}
{"Action":"fail","Package":"p"}`,
			want: "0 passed, 1 failed", has: []string{"last words", "exit status 3"},
		},
		{
			name:   "what is no event is printed",
			events: "go: updates to go.mod needed\n{\"Action\":\"skip\",\"Package\":\"p\"}",
			want:   "0 passed, 0 failed", has: []string{"go: updates to go.mod needed"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out bytes.Buffer
			tally := newTally(&out)
			if err := tally.read(strings.NewReader(c.events)); err != nil {
				t.Fatal(err)
			}
			tally.summary()
			got := out.String()
			if lines := strings.Split(strings.TrimSpace(got), "\n"); lines[len(lines)-1] != c.want {
				t.Errorf("the last line is %q, want %q", lines[len(lines)-1], c.want)
			}
			for _, want := range c.has {
				if !strings.Contains(got, want) {
					t.Errorf("%q is not printed:\n%s", want, got)
				}
			}
			for _, unwanted := range c.hasNot {
				if strings.Contains(got, unwanted) {
					t.Errorf("%q is printed:\n%s", unwanted, got)
				}
			}
		})
	}
}

// TestRunFailsWithGoTest runs the real "go test" over modules made for it.
func TestRunFailsWithGoTest(t *testing.T) {
	for _, c := range []struct {
		name, body, want string
		fails            bool
	}{
		{"pass", "", "1 passed, 0 failed", false},
		{"fail", `t.Fatal("no")`, "0 passed, 1 failed", true},
		{"broken", "undefined()", "0 passed, 1 failed", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, filepath.Join(dir, "go.mod"), "module example.org/m\n\ngo 1.26\n")
			write(t, filepath.Join(dir, "m_test.go"), "package m\n\nimport \"testing\"\n\nfunc TestM(t *testing.T) { "+c.body+" }\n")
			t.Chdir(dir)
			t.Setenv("GOFLAGS", "")
			t.Setenv("CGO_ENABLED", "0") // as bin/testrun was built: nothing is compiled twice
			var out bytes.Buffer
			if err := run([]string{"./..."}, &out); (err != nil) != c.fails {
				t.Errorf("error %v, want one: %t", err, c.fails)
			}
			if !strings.HasSuffix(out.String(), "\n"+c.want+"\n") {
				t.Errorf("the output does not end with %q:\n%s", c.want, out.String())
			}
		})
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}
