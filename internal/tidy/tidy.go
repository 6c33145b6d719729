// Package tidy holds the rules of this repository that a compiler does not check.
// Its tests apply them to the whole tree; a violation names the file and what to
// do.
//
// Files: tidy.go (reading the tree), arrows.go (which package may import which),
// shape.go (package comments, lengths of files), words.go (what text must not say).
//
// Invariants:
//
//	I1: a rule is a function from a tree to its violations, so that its test can
//	    hand it a small tree that breaks it.
//	I2: imports are read with go/parser: no build, no network.
package tidy

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"strings"
)

// modulePath is the path of this module.
const modulePath = "github.com/quipudb/quipu"

// skippedDirs hold what is not ours or not source: build output, data,
// dependencies, test input.
var skippedDirs = map[string]bool{
	".git": true, "bin": true, "data": true, "node_modules": true, "testdata": true, "uplot": true,
}

// goFile is one parsed Go file.
type goFile struct {
	path    string // from the root, with slashes
	syntax  *ast.File
	lines   int
	imports []string
}

func (f goFile) isTest() bool { return strings.HasSuffix(f.path, "_test.go") }

// tree is what the rules look at.
type tree struct {
	goFiles []goFile
	text    map[string][]byte // every text file that people read, by path
}

// textExtensions are those of source and documentation, besides files without one.
var textExtensions = map[string]bool{
	".go": true, ".md": true, ".js": true, ".mjs": true, ".html": true, ".css": true, ".yaml": true, ".yml": true, ".sh": true, "": true,
}

// readTree parses every Go file of fsys and reads every text file.
func readTree(fsys fs.FS) (tree, error) {
	t := tree{text: map[string][]byte{}}
	err := fs.WalkDir(fsys, ".", func(p string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && skippedDirs[d.Name()]:
			return fs.SkipDir
		case !d.Type().IsRegular() || !textExtensions[path.Ext(p)] || p == "LICENSE":
			return nil
		}
		src, err := fs.ReadFile(fsys, p)
		if err != nil {
			return fmt.Errorf("read %s: %w", p, err)
		}
		if bytes.IndexByte(src, 0) >= 0 {
			return nil // a binary without an extension
		}
		t.text[p] = src
		if path.Ext(p) != ".go" {
			return nil
		}
		f, err := parseGo(p, src)
		if err != nil {
			return err
		}
		t.goFiles = append(t.goFiles, f)
		return nil
	})
	return t, err
}

func parseGo(p string, src []byte) (goFile, error) {
	syntax, err := parser.ParseFile(token.NewFileSet(), p, src, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return goFile{}, fmt.Errorf("parse %s: %w", p, err)
	}
	f := goFile{path: p, syntax: syntax, lines: bytes.Count(src, []byte("\n"))}
	for _, spec := range syntax.Imports {
		f.imports = append(f.imports, strings.Trim(spec.Path.Value, "`\""))
	}
	return f, nil
}
