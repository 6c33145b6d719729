// Package web is the page that a browser gets: a query box, a table and a chart
// over the HTTP API of the server that serves it. It is embedded in the binary and
// needs no build step; every file is served as it stands here.
//
// Files: web.go (the handler), static/index.html, static/style.css, static/js/
// (ES modules, app.js first), static/q.js (what counts the pages of other sites; it
// posts to /q), static/uplot/ (uPlot 1.6.32 as published on npm,
// MIT), test/ (the page in a real browser, run by "make test-clients").
//
// Invariants:
//
//	I1: the page names its files and the API by relative URLs only, so it works
//	    under any prefix that ends in a slash.
//	I2: nothing is loaded from another host, and no script or style is inline: the
//	    content security policy allows neither.
//	I3: text from the server or the URL reaches the page as text, never as HTML.
package web

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io/fs"
	"net/http"
	"path"
	"strings"
	"time"
)

//go:embed static
var static embed.FS

// securityPolicy holds for every response; frames and forms of other sites get
// nothing from the page.
const securityPolicy = "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'self'; object-src 'none'"

// contentTypes are spelled out because those of the mime package depend on the
// machine's own tables.
var contentTypes = map[string]string{
	".html": "text/html; charset=utf-8",
	".css":  "text/css; charset=utf-8",
	".js":   "text/javascript; charset=utf-8",
	".svg":  "image/svg+xml",
	"":      "text/plain; charset=utf-8",
}

// tracker is the script that counts the pages of other sites.
const tracker = "q.js"

// asset is one embedded file, ready to be sent.
type asset struct {
	body        []byte
	contentType string
	etag        string
}

// Handler serves the page at "/" and its files below it, to GET and HEAD; anything
// else is 404 or 405. Strip any prefix before it. It is safe for concurrent use.
func Handler() http.Handler {
	assets, err := load(static, "static")
	if err != nil {
		panic(err) // the binary was built with a file that has no content type
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name := strings.TrimPrefix(r.URL.Path, "/")
		if name == "" {
			name = "index.html"
		}
		a, ok := assets[name]
		if !ok {
			http.NotFound(w, r)
			return
		}
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, fmt.Sprintf("%s is not allowed on %s", r.Method, r.URL.Path), http.StatusMethodNotAllowed)
			return
		}
		a.serve(w, r, name)
	})
}

func (a asset) serve(w http.ResponseWriter, r *http.Request, name string) {
	h := w.Header()
	h.Set("Content-Type", a.contentType)
	h.Set("Content-Security-Policy", securityPolicy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "same-origin")
	h.Set("Cache-Control", caching(name))
	h.Set("ETag", a.etag)
	http.ServeContent(w, r, name, time.Time{}, bytes.NewReader(a.body))
}

// caching is how long a browser may use a file without asking.
func caching(name string) string {
	if name == tracker {
		return "public, max-age=3600" // it is asked for by every page of a site
	}
	// A browser asks each time and mostly hears "not modified": a new binary
	// never meets half of an old page.
	return "no-cache"
}

// load reads every file of fsys below root, keyed by its path below root.
func load(fsys fs.FS, root string) (map[string]asset, error) {
	assets := map[string]asset{}
	err := fs.WalkDir(fsys, root, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		body, err := fs.ReadFile(fsys, p)
		if err != nil {
			return fmt.Errorf("read %s: %w", p, err)
		}
		contentType, ok := contentTypes[path.Ext(p)]
		if !ok {
			return fmt.Errorf("load %s: no content type is known for %q", p, path.Ext(p))
		}
		sum := sha256.Sum256(body)
		assets[strings.TrimPrefix(p, root+"/")] = asset{
			body:        body,
			contentType: contentType,
			etag:        `"` + hex.EncodeToString(sum[:12]) + `"`,
		}
		return nil
	})
	return assets, err
}
