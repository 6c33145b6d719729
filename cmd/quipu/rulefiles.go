package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/quipudb/quipu/ingest"
	"github.com/quipudb/quipu/internal/tenant"
	"github.com/quipudb/quipu/internal/vfs"
)

// ruleFiles are tenants' event rules in <data.dir>/<tenant>/events.yaml.
type ruleFiles struct{ dir string }

func (r *ruleFiles) path(id tenant.ID) string {
	return filepath.Join(r.dir, id.String(), tenant.EventRulesFile)
}

// EventRules reads the file where its size or time is another than have says.
func (r *ruleFiles) EventRules(id tenant.ID, have string) (ingest.RuleText, bool, error) {
	name := r.path(id)
	info, err := os.Stat(name)
	if errors.Is(err, fs.ErrNotExist) {
		const none = "none"
		return ingest.RuleText{Name: name, Stamp: none}, have != none, nil
	}
	if err != nil {
		return ingest.RuleText{}, false, err
	}
	stamp := fmt.Sprintf("%d bytes of %d", info.Size(), info.ModTime().UnixNano())
	if stamp == have {
		return ingest.RuleText{}, false, nil
	}
	text, err := os.ReadFile(name)
	if err != nil {
		return ingest.RuleText{}, false, err
	}
	if text == nil {
		text = []byte{} // an empty file is not none
	}
	return ingest.RuleText{Name: name, Text: text, Stamp: stamp}, true, nil
}

// SetEventRules replaces the file.
func (r *ruleFiles) SetEventRules(id tenant.ID, text []byte) error {
	return vfs.WriteFile(vfs.OS{}, r.path(id), text)
}
