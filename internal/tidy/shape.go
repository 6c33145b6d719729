package tidy

import (
	"fmt"
	"go/ast"
	"path"
	"slices"
)

// linesMax is the most lines a Go file may have that is neither a test nor
// generated. A file that outgrows it hides a concept that has a name.
const linesMax = 600

// longFiles returns the files over linesMax.
func longFiles(t tree) []string {
	var violations []string
	for _, f := range t.goFiles {
		if f.lines > linesMax && !f.isTest() && !ast.IsGenerated(f.syntax) {
			violations = append(violations, fmt.Sprintf("%s has %d lines, at most %d are allowed: split it by subject", f.path, f.lines, linesMax))
		}
	}
	return violations
}

// packageComments returns the directories whose package does not say what it is.
// The comment stands in one file; a directory of tests alone needs one too.
func packageComments(t tree) []string {
	commented := map[string]bool{}
	for _, f := range t.goFiles {
		dir := path.Dir(f.path)
		commented[dir] = commented[dir] || f.syntax.Doc != nil
	}
	var violations []string
	for dir, ok := range commented {
		if !ok {
			violations = append(violations, fmt.Sprintf("%s: no file has a package comment; add a doc.go that says what the package is for", dir))
		}
	}
	slices.Sort(violations)
	return violations
}
