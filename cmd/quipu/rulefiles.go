package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/quipudb/quipu/ingest"
	"github.com/quipudb/quipu/internal/scope"
	"github.com/quipudb/quipu/internal/tenant"
	"github.com/quipudb/quipu/internal/vfs"
	"github.com/quipudb/quipu/tsdb"
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

// stored tells rules what storage has.
type stored struct{ *tsdb.DB }

// LabelValues returns the values of a metric's label over all time.
func (s stored) LabelValues(ctx context.Context, id tenant.ID, metric, label string) (values []string, err error) {
	mint, maxt, ok, err := s.DataRange(ctx, id)
	if err != nil || !ok {
		return nil, err
	}
	q, err := s.Querier(mint, maxt)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, q.Close()) }()
	ctx = scope.With(ctx, scope.Scope{Tenant: id, Now: time.Now().UnixMilli()})
	values, _, err = q.LabelValues(ctx, label, nil, labels.MustNewMatcher(labels.MatchEqual, model.MetricNameLabel, metric))
	return slices.Clone(values), err
}

// Limits returns those of a tenant, which need not exist.
func (s stored) Limits(id tenant.ID) (tenant.Limits, error) {
	settings, err := s.Settings(id)
	return settings.Limits, err
}

// SetEventRules replaces the file, or removes it.
func (r *ruleFiles) SetEventRules(id tenant.ID, text []byte) error {
	if text == nil {
		if err := os.Remove(r.path(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return vfs.OS{}.SyncDir(filepath.Dir(r.path(id)))
	}
	return vfs.WriteFile(vfs.OS{}, r.path(id), text)
}
