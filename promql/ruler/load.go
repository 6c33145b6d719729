package ruler

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/rules"

	"github.com/quipudb/quipu/internal/scope"
	"github.com/quipudb/quipu/internal/tenant"
)

// loadMode says why rules are loaded.
type loadMode int

const (
	loadStart  loadMode = iota // the process has started: alerts get their state back
	loadChange                 // files have changed
	loadAgain                  // all groups are made anew, for another configuration
)

// Scan loads the rules of tenants whose files have changed, start all that there are.
func (r *Ruler) Scan(start bool) {
	ids, err := r.options.Files.Tenants()
	if err != nil {
		r.options.Logger.Error("rules cannot be looked for", "err", err)
		return
	}
	have := make(map[tenant.ID]bool, len(ids))
	for _, id := range ids {
		have[id] = true
	}
	r.mu.Lock()
	for id := range r.tenants {
		if !have[id] { // its directory is no more
			ids = append(ids, id)
		}
	}
	r.mu.Unlock()
	mode := loadChange
	if start {
		mode = loadStart
	}
	for _, id := range ids {
		t := r.tenant(id)
		t.replacing.Lock()
		if stamp, err := r.options.Files.stamp(id); err != nil || stamp != t.stamp {
			r.load(t, mode)
		}
		t.replacing.Unlock()
	}
}

// tenant returns the rules of a tenant, of which there may be none.
func (r *Ruler) tenant(id tenant.ID) *tenantRules {
	r.mu.Lock()
	defer r.mu.Unlock()
	t := r.tenants[id]
	if t == nil {
		t = &tenantRules{id: id}
		r.tenants[id] = t
	}
	return t
}

// load puts what the tenant's files say in force. Of a file that is wrong the groups
// that were loaded before stay.
//
// REQUIRES: t.replacing
func (r *Ruler) load(t *tenantRules, mode loadMode) {
	log := r.options.Logger.With("tenant", t.id)
	stamp, err := r.options.Files.stamp(t.id)
	var texts map[string][]byte
	if err == nil {
		texts, err = r.options.Files.read(t.id)
	}
	var settings tenant.Settings
	if err == nil {
		settings, err = r.options.Store.Settings(t.id)
	}
	if err != nil {
		log.Error("rules cannot be read: those that were loaded stay", "err", err)
		return
	}
	t.stamp, t.forgotten = stamp, false
	parsed, bad := groupFiles{}, []string(nil)
	total := 0
	for namespace, text := range texts {
		groups, err := r.parse(namespace, text, settings)
		if err != nil {
			log.Error("a file of rules is wrong: what was loaded of it stays", "namespace", namespace, "err", err)
			bad = append(bad, namespace)
			continue
		}
		parsed[namespace] = groups
		total += countRules(groups.Groups)
	}
	if most := r.configNow().RulesPerTenant; total > most {
		log.Error("there are too many rules: those that were loaded stay", "rules", total, "rules.rules_per_tenant", most)
		return
	}
	t.bad = bad
	made, err := r.groups(t, parsed, settings)
	if err != nil {
		log.Error("rules cannot be loaded", "err", err)
		return
	}
	r.replace(t, made, mode)
}

func (r *Ruler) configNow() Config {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.config
}

// groupFiles are files by namespace; it is the GroupLoader of upstream's manager.
type groupFiles map[string]*rulefmt.RuleGroups

// loader adds the parser.
type loader struct {
	groupFiles
	parser parser.Parser
}

// Load returns a namespace, which has been parsed before.
func (l loader) Load(namespace string, _ bool, _ model.ValidationScheme) (*rulefmt.RuleGroups, []error) {
	return l.groupFiles[namespace], nil
}

// Parse parses an expression.
func (l loader) Parse(expr string) (parser.Expr, error) { return l.parser.ParseExpr(expr) }

func (r *Ruler) managerOptions(id tenant.ID, grid time.Duration) *rules.ManagerOptions {
	c := r.configNow()
	return &rules.ManagerOptions{
		NameValidationScheme: model.UTF8Validation,
		ExternalURL:          r.options.ExternalURL,
		QueryFunc:            r.query,
		NotifyFunc:           r.notify.sender(id),
		// Only the restoring of alerts reads with this one; it reads what was stored
		// before.
		Context:                scope.With(context.Background(), scope.Scope{Tenant: id, Now: r.options.Now().UnixMilli()}),
		AppendableV2:           appendable{},
		Queryable:              r.options.Queryable,
		Logger:                 r.options.Logger.With("tenant", id),
		OutageTolerance:        time.Duration(c.OutageTolerance),
		ForGracePeriod:         time.Duration(c.ForGracePeriod),
		ResendDelay:            time.Duration(c.ResendDelay),
		DefaultRuleQueryOffset: func() time.Duration { return grid },
		Metrics:                r.upstream,
		Parser:                 r.options.Parser,
	}
}

// groups makes the groups of a tenant by way of upstream's manager, which is not run.
func (r *Ruler) groups(t *tenantRules, parsed groupFiles, settings tenant.Settings) (map[string]*group, error) {
	grid := time.Duration(settings.Grid)
	o := r.managerOptions(t.id, grid)
	o.GroupLoader = loader{parsed, r.options.Parser}
	namespaces := make([]string, 0, len(parsed))
	for namespace := range parsed {
		namespaces = append(namespaces, namespace)
	}
	external := r.notify.externalLabels()
	made, errs := rules.NewManager(o).LoadGroups(r.configNow().interval(grid), external, r.options.ExternalURL.String(), nil, false, namespaces...)
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	out := make(map[string]*group, len(made))
	for key, g := range made {
		interval := g.Interval().Milliseconds()
		out[key] = &group{
			tenant: t, namespace: g.File(), rules: g, slot: -1, grid: grid.Milliseconds(), interval: interval,
			phase: phaseOf(t.id.String(), key, interval, grid.Milliseconds()), offset: g.QueryOffset().Milliseconds(),
		}
	}
	return out, nil
}

// replace puts made in force; groups that are as they were go on as they are.
//
// REQUIRES: t.replacing
func (r *Ruler) replace(t *tenantRules, made map[string]*group, mode loadMode) {
	r.mu.Lock()
	old := t.groups
	r.mu.Unlock()
	var gone []*group
	in := make(map[string]*group, len(made))
	for key, g := range made {
		before := old[key]
		switch {
		case before != nil && mode != loadAgain && before.rules.Equals(g.rules) && before.offset == g.offset:
			in[key] = before
			continue
		case before != nil:
			before.evaluating.Lock()
			before.gone = true
			g.rules.CopyState(before.rules)
			g.restore, g.last = before.restore, before.last
			before.evaluating.Unlock()
			if before.rules.Equals(g.rules) && before.offset == g.offset {
				g.goesOn = before
			} else {
				r.startLate(g, false)
			}
		default:
			g.restore = mode == loadStart
			r.startLate(g, g.restore)
		}
		if !g.restore {
			for _, a := range g.rules.AlertingRules() {
				a.SetRestored(true)
			}
		}
		in[key] = g
	}
	for key, g := range old {
		if made[key] == nil && !slices.Contains(t.bad, g.namespace) {
			gone = append(gone, g)
		} else if made[key] == nil {
			in[key] = g // of a file that is wrong now
		}
	}
	r.schedule(t, in)
	live := recorded(in)
	for _, g := range gone {
		g.evaluating.Lock()
		g.gone = true
		r.retire(context.Background(), g, live)
		g.evaluating.Unlock()
	}
	r.wake()
}

// Forget forgets the rules of a tenant that is about to be deleted. When it returns, none
// is being evaluated, and none will be before a file of its rules is written.
func (r *Ruler) Forget(id tenant.ID) error {
	t := r.tenant(id)
	t.replacing.Lock()
	defer t.replacing.Unlock()
	stamp, err := r.options.Files.stamp(id)
	if err != nil {
		return err
	}
	// Who looks for rules finds nothing new as long as the files are there.
	t.stamp, t.bad, t.forgotten = stamp, nil, stamp != ""
	r.mu.Lock()
	gone := t.sorted()
	for _, g := range gone {
		if g.cancel != nil {
			g.cancel()
		}
	}
	if t.forgotten {
		r.tenants[id] = t
	}
	r.mu.Unlock()
	r.schedule(t, nil)
	for _, g := range gone {
		g.evaluating.Lock()
		g.gone = true
		g.evaluating.Unlock()
	}
	r.notify.forget(id)
	return nil
}

// Recall undoes Forget: what rules the tenant has now are loaded.
func (r *Ruler) Recall(id tenant.ID) {
	t := r.tenant(id)
	t.replacing.Lock()
	defer t.replacing.Unlock()
	t.stamp, t.forgotten = "", false
	if r.options.Files.exist(id) {
		r.load(t, loadChange)
	}
}

// schedule replaces the groups of a tenant in the schedule.
//
// REQUIRES: t.replacing
func (r *Ruler) schedule(t *tenantRules, in map[string]*group) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for key, g := range t.groups {
		if in[key] == g {
			continue
		}
		if g.slot >= 0 {
			heap.Remove(&r.due, g.slot)
		}
		t.waiting = slices.DeleteFunc(t.waiting, func(w *group) bool { return w == g })
	}
	if len(t.waiting) == 0 {
		r.ring = slices.DeleteFunc(r.ring, func(w *tenantRules) bool { return w == t })
	}
	now := r.options.Now().UnixMilli()
	for key, g := range in {
		if t.groups[key] != g {
			if g.goesOn != nil { // which is not evaluated any more, but told of others until now
				g.late, g.goesOn = g.goesOn.late, nil
			}
			g.next = g.slotAt(now) + g.interval
			heap.Push(&r.due, g)
		}
	}
	if t.groups = in; len(in) == 0 && !t.forgotten {
		delete(r.tenants, t.id)
	}
}

// recorded are the metrics that rules of the groups record.
func recorded(in map[string]*group) map[string]bool {
	out := map[string]bool{}
	for _, g := range in {
		for _, rule := range g.rules.Rules() {
			if _, ok := rule.(*rules.RecordingRule); ok {
				out[rule.Name()] = true
			}
		}
	}
	return out
}

func countRules(groups []rulefmt.RuleGroup) (n int) {
	for i := range groups {
		n += len(groups[i].Rules)
	}
	return n
}

// parse reads a file of rules and makes its times fit the tenant's grid. Errors name
// the namespace, and where they can the line, the group and the rule.
func (r *Ruler) parse(namespace string, text []byte, settings tenant.Settings) (*rulefmt.RuleGroups, error) {
	groups, errs := rulefmt.Parse(text, false, model.UTF8Validation, r.options.Parser, r.options.Logger)
	if len(errs) == 0 {
		for i := range groups.Groups {
			if err := fit(&groups.Groups[i], settings); err != nil {
				errs = append(errs, err)
			}
		}
	}
	if len(errs) > 0 {
		return nil, fmt.Errorf("%w: %s", ErrBadRules, lines(namespace, errs))
	}
	return groups, nil
}

// lines are errors as one text, each with the namespace that it is in.
func lines(namespace string, errs []error) string {
	out := make([]string, len(errs))
	for i, err := range errs {
		out[i] = fmt.Sprintf("namespace %q: %v", namespace, err)
	}
	return strings.Join(out, "\n")
}

// fit checks a group against the tenant's grid, and raises how far back it looks to a
// multiple of that: a window that is open is not to be seen.
func fit(g *rulefmt.RuleGroup, settings tenant.Settings) error {
	grid := settings.Grid
	if g.Interval%grid != 0 {
		return fmt.Errorf("group %q: its interval is %s, it must be a multiple of the tenant's grid (%s)", g.Name, g.Interval, grid)
	}
	if g.QueryOffset != nil {
		offset := max(1, (*g.QueryOffset+grid-1)/grid) * grid
		g.QueryOffset = &offset
	}
	return nil
}
