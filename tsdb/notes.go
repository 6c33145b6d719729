package tsdb

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"

	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/scope"
	"github.com/quipudb/quipu/internal/tenant"
	"github.com/quipudb/quipu/internal/vfs"
)

// An exemplar file is "QUIPUEXM", version (1 byte), uvarint n, n exemplars as in a
// log record, the oldest first, then the CRC-32C of all before it (4 bytes).
const (
	exemplarMagic   = "QUIPUEXM"
	exemplarVersion = 1
	exemplarSuffix  = ".exemplars"
)

const (
	// metadataMax is how many metrics of a tenant have metadata, and
	// metadataBytesMax what name, type, help and unit of one take at most.
	metadataMax      = 10_000
	metadataBytesMax = 4 << 10
)

// notes are what a tenant's increments came with: the newest exemplars, in a ring,
// and metadata by metric. Safe for concurrent use.
type notes struct {
	mu        sync.Mutex
	max       int                  // exemplars
	exemplars []increment.Exemplar // a ring once it is full
	oldest    int
	metadata  map[string]increment.Metadata
	fresh     bool // there is more than the manifest has
}

// acceptsExemplar reports whether an exemplar is one that Prometheus would take, its
// label set has at most 128 characters, and its series one that could be stored.
func acceptsExemplar(e *increment.Exemplar) bool {
	n := 0
	e.Labels.Range(func(l labels.Label) { n += utf8.RuneCountInString(l.Name) + utf8.RuneCountInString(l.Value) })
	return n <= exemplar.ExemplarMaxLabelSetLength && !e.Series.IsEmpty() && e.Series.ByteSize() <= labelsBytesMax
}

// admit leaves out of a batch what cannot be kept, and returns how many that were.
func (n *notes) admit(b *increment.Batch) (refused int) {
	if len(b.Exemplars) == 0 && len(b.Metadata) == 0 {
		return 0
	}
	before := len(b.Exemplars) + len(b.Metadata)
	n.mu.Lock()
	defer n.mu.Unlock()
	b.Exemplars = slices.DeleteFunc(b.Exemplars, func(e increment.Exemplar) bool { return n.max == 0 || !acceptsExemplar(&e) })
	room := metadataMax - len(n.metadata)
	b.Metadata = slices.DeleteFunc(b.Metadata, func(m increment.Metadata) bool {
		_, known := n.metadata[m.Metric]
		if !known {
			room--
		}
		return m.Metric == "" || room < 0 || len(m.Metric)+len(m.Type)+len(m.Help)+len(m.Unit) > metadataBytesMax
	})
	return before - len(b.Exemplars) - len(b.Metadata)
}

// add keeps what a batch that was logged came with.
func (n *notes) add(exemplars []increment.Exemplar, metadata []increment.Metadata) {
	if len(exemplars) == 0 && len(metadata) == 0 {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.fresh = true
	for _, e := range exemplars {
		if n.max == 0 {
			break // since the batch was admitted
		}
		if len(n.exemplars) < n.max {
			n.exemplars = append(n.exemplars, e)
			continue
		}
		n.exemplars[n.oldest] = e
		n.oldest = (n.oldest + 1) % n.max
	}
	for _, m := range metadata {
		if n.metadata == nil {
			n.metadata = map[string]increment.Metadata{}
		}
		n.metadata[m.Metric] = m
	}
}

// replay is add for a record that was read.
func (n *notes) replay(rec *walRecord) {
	n.add(rec.exemplars, rec.metadata)
}

// setMax changes how many exemplars are kept; of more than that the newest stay.
func (n *notes) setMax(exemplars int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.max == exemplars {
		return
	}
	n.max = exemplars
	kept, _ := n.copies() // the oldest first
	n.oldest = 0
	if n.exemplars = kept; len(kept) > exemplars {
		n.exemplars = slices.Clone(kept[len(kept)-exemplars:])
		n.fresh = true
	}
}

// reset forgets all.
func (n *notes) reset() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.exemplars, n.oldest, n.metadata = nil, 0, nil
}

// all returns the exemplars, the oldest first, and the metadata by metric.
func (n *notes) all() ([]increment.Exemplar, []increment.Metadata) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.copies()
}

// REQUIRES: n.mu
func (n *notes) copies() ([]increment.Exemplar, []increment.Metadata) {
	exemplars := slices.Concat(n.exemplars[n.oldest:], n.exemplars[:n.oldest])
	metadata := slices.SortedFunc(maps.Values(n.metadata), func(a, b increment.Metadata) int { return strings.Compare(a.Metric, b.Metric) })
	return exemplars, metadata
}

// notesSnapshot is what a flush writes.
type notesSnapshot struct {
	exemplars []increment.Exemplar
	metadata  []increment.Metadata
}

// takeFresh returns what there is, nil where the manifest has it.
func (n *notes) takeFresh() *notesSnapshot {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.fresh {
		return nil
	}
	n.fresh = false
	var out notesSnapshot
	out.exemplars, out.metadata = n.copies()
	return &out
}

// giveBack says that what takeFresh returned was not written.
func (n *notes) giveBack() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.fresh = len(n.exemplars) > 0 || len(n.metadata) > 0
}

// writeNotes writes a snapshot and names it in m.
func (s *store) writeNotes(m *manifest, n *notesSnapshot) error {
	m.Metadata, m.Exemplars = n.metadata, ""
	if len(n.exemplars) == 0 {
		return nil
	}
	name := s.db.newULID().String() + exemplarSuffix
	if err := vfs.WriteFile(s.db.opts.FS, filepath.Join(s.dir, name), encodeExemplars(n.exemplars)); err != nil {
		return fmt.Errorf("write exemplars: %w", err)
	}
	m.Exemplars = name
	return nil
}

// openNotes reads what the manifest has.
func (s *store) openNotes() error {
	s.notes.max = s.settings().Limits.Exemplars
	s.notes.add(nil, s.man.Metadata)
	if s.man.Exemplars != "" && s.notes.max > 0 {
		exemplars, err := readExemplars(s.db.opts.FS, filepath.Join(s.dir, s.man.Exemplars))
		if err != nil {
			return err
		}
		s.notes.add(exemplars, nil)
	}
	s.notes.fresh = false
	return nil
}

func encodeExemplars(exemplars []increment.Exemplar) []byte {
	dst := append([]byte(exemplarMagic), exemplarVersion)
	dst = binary.AppendUvarint(dst, uint64(len(exemplars)))
	for i := range exemplars {
		dst = appendExemplar(dst, &exemplars[i])
	}
	return binary.BigEndian.AppendUint32(dst, crc32.Checksum(dst, castagnoli))
}

func readExemplars(fsys vfs.FS, path string) ([]increment.Exemplar, error) {
	src, err := fsys.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read exemplars: %w", err)
	}
	out, err := decodeExemplars(src)
	if err != nil {
		return nil, fmt.Errorf("read exemplars %s: %w", path, err)
	}
	return out, nil
}

func decodeExemplars(src []byte) ([]increment.Exemplar, error) {
	body, head := len(src)-4, len(exemplarMagic)+1
	switch {
	case body < head || !bytes.HasPrefix(src, []byte(exemplarMagic)):
		return nil, errors.New("not an exemplar file")
	case crc32.Checksum(src[:body], castagnoli) != binary.BigEndian.Uint32(src[body:]):
		return nil, errors.New("checksum is wrong")
	case src[head-1] != exemplarVersion:
		return nil, fmt.Errorf("version %d, only %d is known", src[head-1], exemplarVersion)
	}
	d := decoder{src: src[head:body]}
	r := newRecordReader()
	var out []increment.Exemplar
	for n := d.uvarint(); n > 0 && d.err == nil; n-- {
		out = append(out, r.exemplar(&d))
	}
	if d.err == nil && len(d.src) > 0 {
		return nil, fmt.Errorf("%d bytes too many", len(d.src))
	}
	return out, d.err
}

// Metadata returns what is known of a tenant's metrics beyond their kind, by name.
func (db *DB) Metadata(id tenant.ID) ([]increment.Metadata, error) {
	s, err := db.store(id, false)
	if err != nil || s == nil {
		return nil, err
	}
	_, metadata := s.notes.all()
	return metadata, nil
}

// ExemplarQuerier returns the exemplars of the tenant that the context's scope names.
func (db *DB) ExemplarQuerier(ctx context.Context) (storage.ExemplarQuerier, error) {
	sc, ok := scope.From(ctx)
	if !ok {
		return nil, errNoScope
	}
	s, err := db.store(sc.Tenant, false)
	if err != nil {
		return nil, err
	}
	return exemplarQuerier{s}, nil
}

// exemplarQuerier serves one tenant; store is nil where there is none.
type exemplarQuerier struct{ store *store }

// Select returns the exemplars in [start, end] of the series that any of the sets of
// matchers selects, by series and then by time.
func (q exemplarQuerier) Select(start, end int64, matchers ...[]*labels.Matcher) ([]exemplar.QueryResult, error) {
	out := []exemplar.QueryResult{}
	if q.store == nil {
		return out, nil
	}
	exemplars, _ := q.store.notes.all()
	bySeries := map[string]int{}
	for _, e := range exemplars {
		if e.Time < start || e.Time > end || !slices.ContainsFunc(matchers, func(ms []*labels.Matcher) bool { return matchesAll(e.Series, ms) }) {
			continue
		}
		key := e.Series.String()
		i, ok := bySeries[key]
		if !ok {
			i = len(out)
			bySeries[key] = i
			out = append(out, exemplar.QueryResult{SeriesLabels: e.Series})
		}
		out[i].Exemplars = append(out[i].Exemplars, exemplar.Exemplar{Labels: e.Labels, Value: e.Value, Ts: e.Time, HasTs: true})
	}
	for i := range out {
		slices.SortStableFunc(out[i].Exemplars, func(a, b exemplar.Exemplar) int { return cmp.Compare(a.Ts, b.Ts) })
	}
	slices.SortFunc(out, func(a, b exemplar.QueryResult) int { return labels.Compare(a.SeriesLabels, b.SeriesLabels) })
	return out, nil
}
