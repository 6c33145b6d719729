package ruler

import (
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/quipudb/quipu/internal/tenant"
	"github.com/quipudb/quipu/internal/vfs"
)

// Files are the rule files of all tenants: <dir>/<tenant>/rules/<namespace>.yaml, each
// in Prometheus's format. A namespace is escaped as a segment of a URL's path is.
type Files struct{ dir string }

// NewFiles returns those below a data directory.
func NewFiles(dir string) *Files { return &Files{dir} }

const (
	fileSuffix = ".yaml"
	// nameBytesMax is the longest name of a file on usual file systems.
	nameBytesMax = 255 - len(".tmp")
)

func (f *Files) path(id tenant.ID) string { return filepath.Join(f.dir, id.String(), tenant.RulesDir) }

// Tenants are those that have a directory of rules.
func (f *Files) Tenants() ([]tenant.ID, error) {
	entries, err := os.ReadDir(f.dir)
	if err != nil {
		return nil, fmt.Errorf("look for rules: %w", err)
	}
	var out []tenant.ID
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		id, err := tenant.Parse(e.Name())
		if err != nil {
			continue // not a tenant's
		}
		if info, err := os.Stat(f.path(id)); err == nil && info.IsDir() {
			out = append(out, id)
		}
	}
	return out, nil
}

// exist reports whether the tenant has a directory of rules.
func (f *Files) exist(id tenant.ID) bool {
	info, err := os.Stat(f.path(id))
	return err == nil && info.IsDir()
}

// stamp changes where a file of the tenant does.
func (f *Files) stamp(id tenant.ID) (string, error) {
	var b strings.Builder
	err := f.each(id, func(_ string, e fs.DirEntry) error {
		info, err := e.Info()
		if err != nil {
			return err
		}
		fmt.Fprintf(&b, "%s %d %d\n", e.Name(), info.Size(), info.ModTime().UnixNano())
		return nil
	})
	return b.String(), err
}

// read returns the text of every namespace of the tenant.
func (f *Files) read(id tenant.ID) (map[string][]byte, error) {
	out := map[string][]byte{}
	err := f.each(id, func(namespace string, e fs.DirEntry) error {
		text, err := os.ReadFile(filepath.Join(f.path(id), e.Name()))
		out[namespace] = text
		return err
	})
	return out, err
}

// each calls do with the files of the tenant.
func (f *Files) each(id tenant.ID, do func(namespace string, e fs.DirEntry) error) error {
	entries, err := os.ReadDir(f.path(id))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read rules of tenant %s: %w", id, err)
	}
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), fileSuffix)
		if !ok || e.IsDir() {
			continue
		}
		namespace, err := url.PathUnescape(name)
		if err != nil || namespace == "" {
			continue // not one of ours
		}
		if err := do(namespace, e); err != nil && !errors.Is(err, fs.ErrNotExist) { // removed meanwhile
			return fmt.Errorf("read rules of tenant %s: %w", id, err)
		}
	}
	return nil
}

// write replaces the files of a namespace durably; nil removes them.
func (f *Files) write(id tenant.ID, namespace string, text []byte) error {
	name := url.PathEscape(namespace) + fileSuffix
	if len(name) > nameBytesMax {
		return fmt.Errorf("%w: the namespace %q is too long", ErrBadRules, namespace)
	}
	dir := f.path(id)
	if err := (vfs.OS{}).MkdirAll(dir); err != nil {
		return fmt.Errorf("keep rules of tenant %s: %w", id, err)
	}
	if text != nil {
		if err := vfs.WriteFile(vfs.OS{}, filepath.Join(dir, name), text); err != nil {
			return fmt.Errorf("keep rules of tenant %s: %w", id, err)
		}
		if err := (vfs.OS{}).SyncDir(filepath.Dir(dir)); err != nil { // where the directory is new
			return fmt.Errorf("keep rules of tenant %s: %w", id, err)
		}
	}
	// Files that were written by hand may spell the namespace otherwise.
	err := f.each(id, func(of string, e fs.DirEntry) error {
		if of != namespace || text != nil && e.Name() == name {
			return nil
		}
		return os.Remove(filepath.Join(dir, e.Name()))
	})
	if err != nil {
		return fmt.Errorf("remove rules of tenant %s: %w", id, err)
	}
	return vfs.OS{}.SyncDir(dir)
}
