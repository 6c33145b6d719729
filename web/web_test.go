package web

import (
	"bytes"
	"compress/gzip"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"path"
	"regexp"
	"strings"
	"testing"
	"testing/fstest"
)

func get(t *testing.T, method, target string, header ...string) *http.Response {
	t.Helper()
	req := httptest.NewRequest(method, target, nil)
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	Handler().ServeHTTP(w, req)
	return w.Result()
}

func read(t *testing.T, res *http.Response) string {
	t.Helper()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

// references finds what a page or a module loads: src and href in HTML, import in
// JavaScript.
var references = regexp.MustCompile(`(?:src|href)="([^"#]+)"|(?m:^import .*? from "([^"]+)";$)`)

// TestEveryReferencedFileIsServed follows the page's references, and those of the
// modules it loads, and asks the handler for each.
func TestEveryReferencedFileIsServed(t *testing.T) {
	want := map[string]string{
		".html": "text/html; charset=utf-8",
		".css":  "text/css; charset=utf-8",
		".js":   "text/javascript; charset=utf-8",
		".svg":  "image/svg+xml",
	}
	seen := map[string]bool{}
	queue := []string{"index.html"}
	for len(queue) > 0 {
		name := queue[0]
		queue = queue[1:]
		if seen[name] {
			continue
		}
		seen[name] = true
		res := get(t, http.MethodGet, "/"+name)
		if res.StatusCode != http.StatusOK {
			t.Errorf("%s: status %d, want 200", name, res.StatusCode)
			continue
		}
		if got := res.Header.Get("Content-Type"); got != want[path.Ext(name)] {
			t.Errorf("%s: content type %q, want %q", name, got, want[path.Ext(name)])
		}
		body := read(t, res)
		if len(body) == 0 {
			t.Errorf("%s is empty", name)
		}
		if strings.HasPrefix(name, "uplot/") {
			continue
		}
		for _, match := range references.FindAllStringSubmatch(body, -1) {
			ref := match[1] + match[2]
			if strings.Contains(ref, "//") || strings.HasPrefix(ref, "/") {
				t.Errorf("%s refers to %q: only relative URLs work under a prefix", name, ref)
				continue
			}
			queue = append(queue, path.Join(path.Dir(name), ref))
		}
	}
	for _, name := range []string{"style.css", "js/app.js", "js/chart.js", "js/time.js", "uplot/uPlot.iife.min.js", "uplot/uPlot.min.css"} {
		if !seen[name] {
			t.Errorf("%s is not reached from index.html", name)
		}
	}
	err := fs.WalkDir(static, "static", func(p string, d fs.DirEntry, err error) error {
		name := strings.TrimPrefix(p, "static/")
		if err == nil && !d.IsDir() && !seen[name] && name != "uplot/LICENSE" && name != tracker {
			t.Errorf("%s is embedded and nothing refers to it", name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestRootIsThePage(t *testing.T) {
	res := get(t, http.MethodGet, "/")
	if body := read(t, res); res.StatusCode != 200 || !strings.Contains(body, "<title>Quipu</title>") {
		t.Fatalf("GET /: status %d, body %.80q", res.StatusCode, body)
	}
}

func TestWorksUnderAPrefix(t *testing.T) {
	w := httptest.NewRecorder()
	http.StripPrefix("/prometheus", Handler()).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/prometheus/js/app.js", nil))
	if w.Code != 200 {
		t.Fatalf("GET /prometheus/js/app.js: status %d, want 200", w.Code)
	}
}

// TestPolicyForbidsInlineScript checks the header, and that the page does not need
// what the header forbids.
func TestPolicyForbidsInlineScript(t *testing.T) {
	res := get(t, http.MethodGet, "/")
	policy := res.Header.Get("Content-Security-Policy")
	if !strings.Contains(policy, "default-src 'self'") || strings.Contains(policy, "unsafe") {
		t.Errorf("content security policy is %q", policy)
	}
	if got := res.Header.Get("X-Content-Type-Options"); got != "nosniff" {
		t.Errorf("X-Content-Type-Options is %q, want nosniff", got)
	}
	inline := regexp.MustCompile(`<script[^>]*>[^<]|<style|\sstyle=|\son[a-z]+=|javascript:`)
	if found := inline.FindString(read(t, res)); found != "" {
		t.Errorf("index.html has %q inline", found)
	}
}

func TestUnchangedFileIsNotSentAgain(t *testing.T) {
	first := get(t, http.MethodGet, "/style.css")
	if got := first.Header.Get("Cache-Control"); got != "no-cache" {
		t.Errorf("Cache-Control is %q, want no-cache", got)
	}
	etag := first.Header.Get("ETag")
	if etag == "" {
		t.Fatal("no ETag")
	}
	if second := get(t, http.MethodGet, "/style.css", "If-None-Match", etag); second.StatusCode != http.StatusNotModified {
		t.Errorf("with the file's ETag: status %d, want 304", second.StatusCode)
	}
	if other := get(t, http.MethodGet, "/style.css", "If-None-Match", `"other"`); other.StatusCode != http.StatusOK {
		t.Errorf("with another ETag: status %d, want 200", other.StatusCode)
	}
}

func TestRefusals(t *testing.T) {
	for _, c := range []struct {
		method, target string
		want           int
	}{
		{http.MethodGet, "/nothing.js", http.StatusNotFound},
		{http.MethodGet, "/js/", http.StatusNotFound},
		{http.MethodGet, "/../web.go", http.StatusNotFound},
		{http.MethodPost, "/index.html", http.StatusMethodNotAllowed},
		{http.MethodHead, "/index.html", http.StatusOK},
	} {
		if got := get(t, c.method, c.target).StatusCode; got != c.want {
			t.Errorf("%s %s: status %d, want %d", c.method, c.target, got, c.want)
		}
	}
}

func TestFileWithoutAKnownTypeIsRefused(t *testing.T) {
	_, err := load(fstest.MapFS{"static/photo.tiff": {Data: []byte("x")}}, "static")
	if err == nil || !strings.Contains(err.Error(), "photo.tiff") {
		t.Fatalf("load: error %v, want one that names photo.tiff", err)
	}
}

// A page waits for the tracker before it counts anything, so it stays small; and the
// pages of a site ask for it once an hour.
func TestTrackerIsSmallAndKept(t *testing.T) {
	res := get(t, http.MethodGet, "/q.js")
	body := read(t, res)
	var zipped bytes.Buffer
	w, err := gzip.NewWriterLevel(&zipped, gzip.BestCompression)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, body); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if zipped.Len() >= 2<<10 {
		t.Errorf("the tracker has %d bytes when it is compressed, it must have less than 2048", zipped.Len())
	}
	if got := res.Header.Get("Cache-Control"); got != "public, max-age=3600" {
		t.Errorf("Cache-Control is %q", got)
	}
}
