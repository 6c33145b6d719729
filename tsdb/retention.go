package tsdb

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/tsdb"

	"github.com/quipudb/quipu/internal/tenant"
)

// Why retention removes data, as its metrics say.
const (
	removedByAge  = "age"
	removedBySize = "size"
	removedByRule = "rule"
)

// planRetention returns the blocks whose newest data is older than the tenant's
// retention, and the oldest of the others that must go for the rest to be within its
// retention_size. The newest block stays whatever it takes. It is a function of what it
// is given.
func planRetention(blocks []blockInfo, settings *tenant.Settings, now time.Time) (aged, over []blockInfo) {
	oldest, size := int64(math.MinInt64), int64(0)
	if settings.Retention > 0 {
		oldest = now.Add(-time.Duration(settings.Retention)).UnixMilli()
	}
	var left []blockInfo
	for _, b := range blocks {
		if b.MaxTime <= oldest {
			aged = append(aged, b)
			continue
		}
		left = append(left, b)
		size += b.Bytes
	}
	if settings.RetentionSize == 0 {
		return aged, nil
	}
	slices.SortFunc(left, func(a, b blockInfo) int {
		return cmp.Or(cmp.Compare(a.MaxTime, b.MaxTime), cmp.Compare(a.MinTime, b.MinTime), a.ULID.Compare(b.ULID))
	})
	for len(left) > 1 && size > int64(settings.RetentionSize) {
		over = append(over, left[0])
		size -= left[0].Bytes
		left = left[1:]
	}
	return aged, over
}

// retain drops the blocks that are too old, or too many.
func (s *store) retain(now time.Time) error {
	settings := s.settings()
	if settings.Retention == 0 && settings.RetentionSize == 0 {
		return nil
	}
	s.rewriting.Lock()
	defer s.rewriting.Unlock()
	if s.dropped {
		return nil
	}
	v := s.versions.pin()
	defer s.versions.unpin(v)
	aged, over := planRetention(v.infos(), &settings.Settings, now)
	if len(aged)+len(over) == 0 {
		return nil
	}
	drop := v.named(slices.Concat(aged, over))
	if err := s.replaceBlocks(drop, nil, math.MaxInt64); err != nil {
		return fmt.Errorf("drop old blocks of tenant %s: %w", s.id, err)
	}
	s.forgetSeries()
	s.db.metrics.countRetained(removedByAge, aged)
	s.db.metrics.countRetained(removedBySize, over)
	return nil
}

// forgetSeries has admission count again what is stored.
func (s *store) forgetSeries() {
	s.barrier.Lock()
	defer s.barrier.Unlock()
	s.admission.forget()
}

// infos are those of the version's blocks.
func (v *version) infos() []blockInfo {
	out := make([]blockInfo, len(v.blocks))
	for i, b := range v.blocks {
		out[i] = b.blockInfo
	}
	return out
}

// named are the version's blocks that are among infos.
func (v *version) named(infos []blockInfo) (out []*block) {
	for _, b := range v.blocks {
		if slices.ContainsFunc(infos, func(i blockInfo) bool { return i.ULID == b.ULID }) {
			out = append(out, b)
		}
	}
	return out
}

// retentionParts is in how many parts of its span a block of more than a day loses what
// rules say is past, each a rewriting of it.
const retentionParts = 4

// cutoffs are, for each rule, the time before which what it selects goes from a block
// that begins and ends at some times; math.MinInt64 where none does.
//
// A rule is a deletion whose end moves, and must not rewrite a block over and over: the
// end moves by whole days UTC, and in a block of many days by a part of them. As no
// chunk crosses midnight, a chunk goes whole or stays, and no total of a day changes.
func cutoffs(rules []tenant.RetentionRule, mint, maxt int64, now time.Time) []int64 {
	days := max(1, (maxt-mint+retentionParts*dayMillis-1)/(retentionParts*dayMillis))
	out := make([]int64, len(rules))
	for i, r := range rules {
		out[i] = math.MinInt64
		if r.Retention == 0 {
			continue
		}
		past := now.Add(-r.Retention).UnixMilli()
		end := floorTo(past, days*dayMillis)
		if floorTo(past, dayMillis) >= maxt {
			end = maxt // no more will go
		}
		if end > mint {
			out[i] = end
		}
	}
	return out
}

// pastData is what rules say is past in a block that is written anew.
type pastData struct {
	rules   []tenant.RetentionRule
	cutoffs []int64
}

// before is the time before which a series' data is past: the first rule decides.
func (p *pastData) before(ls labels.Labels) int64 {
	for i := range p.rules {
		if matchesAll(ls, p.rules[i].Matchers) {
			return p.cutoffs[i]
		}
	}
	return math.MinInt64
}

// end is the latest of its times.
func (p *pastData) end() int64 { return slices.Max(p.cutoffs) }

// removePast takes the chunks out of a selection of one block that are past. It reports
// false where none is left.
func (sel *selection) removePast(p *pastData) bool {
	before := p.before(sel.labels)
	sel.chunks = slices.DeleteFunc(sel.chunks, func(c blockChunk) bool { return c.meta.MaxTime < before })
	return len(sel.chunks) > 0
}

// hasPast reports whether a block has a chunk that is past.
func (b *block) hasPast(ctx context.Context, p *pastData) (has bool, err error) {
	files, err := b.cache.acquire(b)
	if err != nil {
		return false, b.readError(err)
	}
	defer b.cache.release(b)
	err = readMapped(func() error {
		d := newSeriesDecoder(files.index)
		for i, r := range p.rules {
			if p.cutoffs[i] == math.MinInt64 {
				continue
			}
			postings, err := tsdb.PostingsForMatchers(ctx, files.index, r.Matchers...)
			if err != nil {
				return err
			}
			for n := 0; postings.Next(); n++ {
				if n%lookEvery == 0 && ctx.Err() != nil {
					return ctx.Err()
				}
				if err := d.decode(postings.At()); err != nil {
					return err
				}
				ls, err := d.labels()
				if err != nil {
					return err
				}
				if has = len(d.metas) > 0 && d.metas[0].MaxTime < p.before(ls); has {
					return nil
				}
			}
			if err := postings.Err(); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return false, b.readError(err)
	}
	return has, nil
}

// ruleRetention is how far a tenant's rules have been applied. It is lost with the
// process: then blocks are looked at again, and not rewritten.
type ruleRetention struct {
	text  tenant.RetentionRules // of which rules are
	rules []tenant.RetentionRule
	done  map[ulid.ULID][]int64 // cutoffs that have been applied
	after time.Time             // a failure rests until then
	// inMemory is when memtables were looked through last.
	inMemory time.Time
}

// use takes over rules that have changed.
func (r *ruleRetention) use(text tenant.RetentionRules) error {
	if text == r.text {
		return nil
	}
	rules, err := text.Rules()
	if err != nil {
		return err
	}
	*r = ruleRetention{text: text, rules: rules, done: map[ulid.ULID][]int64{}}
	return nil
}

// retainByRules rewrites the blocks of which the tenant's rules say that some is past.
func (s *store) retainByRules(ctx context.Context, now time.Time) error {
	r := &s.byRules
	if err := r.use(s.settings().RetentionRules); err != nil {
		return fmt.Errorf("retention of tenant %s: %w", s.id, err)
	}
	if len(r.rules) == 0 || now.Before(r.after) {
		return nil
	}
	s.rewriting.Lock()
	defer s.rewriting.Unlock()
	if s.dropped {
		return nil
	}
	v := s.versions.pin()
	defer s.versions.unpin(v)
	var failed error
	rewritten := false
	done := make(map[ulid.ULID][]int64, len(v.blocks))
	for _, b := range v.blocks {
		past := &pastData{r.rules, cutoffs(r.rules, b.MinTime, b.MaxTime, now)}
		if !slices.Equal(r.done[b.ULID], past.cutoffs) {
			did, err := s.removePast(ctx, v, b, past)
			if err != nil {
				failed = errors.Join(failed, err)
				continue
			}
			rewritten = rewritten || did
		}
		done[b.ULID] = past.cutoffs
	}
	r.done = done // without those that are gone
	if rewritten {
		s.forgetSeries()
	}
	if failed != nil {
		r.after = now.Add(compactRetry)
		return fmt.Errorf("remove what is past by the rules of tenant %s: %w", s.id, failed)
	}
	return nil
}

// removePast rewrites a block of a version without what is past, if it has some.
//
// REQUIRES: s.rewriting
func (s *store) removePast(ctx context.Context, v *version, b *block, past *pastData) (did bool, err error) {
	if past.end() == math.MinInt64 {
		return false, nil
	}
	if has, err := b.hasPast(ctx, past); err != nil || !has {
		return false, err
	}
	left, err := s.rewrite(ctx, rewriting{sources: []*block{b}, seq: b.Seq, deleted: &v.deleted, past: past, step: b.Step})
	if err != nil {
		return false, err
	}
	m := s.db.metrics
	m.retentionBlocks.WithLabelValues(removedByRule).Inc()
	m.retentionBytes.WithLabelValues(removedByRule).Add(float64(max(0, b.Bytes-left)))
	return true, nil
}
