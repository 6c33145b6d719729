package ruler

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/rulefmt"
	"go.yaml.in/yaml/v3"

	"github.com/quipudb/quipu/internal/tenant"
)

// ErrBadRules is in the chain of errors that say what is wrong with rules, in terms of
// who wrote them.
var ErrBadRules = errors.New("rules are wrong")

// ErrNoGroup and ErrNoNamespace say that there is nothing of a name.
var (
	ErrNoGroup     = errors.New("group does not exist")
	ErrNoNamespace = errors.New("no rule groups found")
)

// Groups are a tenant's groups of rules by namespace, as they are written. A file that
// is wrong is an error.
func (r *Ruler) Groups(id tenant.ID) (map[string][]rulefmt.RuleGroup, error) {
	groups, bad, err := r.written(id)
	for _, namespace := range slices.Sorted(maps.Keys(bad)) {
		return nil, bad[namespace]
	}
	return groups, err
}

// written are the groups of files that are right, and what is wrong with the others.
func (r *Ruler) written(id tenant.ID) (groups map[string][]rulefmt.RuleGroup, bad map[string]error, err error) {
	texts, err := r.options.Files.read(id)
	if err != nil {
		return nil, nil, err
	}
	groups, bad = make(map[string][]rulefmt.RuleGroup, len(texts)), map[string]error{}
	for namespace, text := range texts {
		parsed, errs := rulefmt.Parse(text, false, model.UTF8Validation, r.options.Parser, r.options.Logger)
		switch {
		case len(errs) > 0:
			bad[namespace] = fmt.Errorf("%s", lines(namespace, errs))
		case len(parsed.Groups) > 0:
			groups[namespace] = parsed.Groups
		}
	}
	return groups, bad, nil
}

// SetGroup makes or replaces one group, which the text describes.
func (r *Ruler) SetGroup(id tenant.ID, namespace string, text []byte) error {
	if namespace == "" {
		return fmt.Errorf("%w: the namespace has no name", ErrBadRules)
	}
	g, err := r.parseGroup(namespace, text)
	if err != nil {
		return err
	}
	if _, err := r.options.Store.Tenant(id); err != nil {
		return fmt.Errorf("open tenant %s: %w", id, err)
	}
	settings, err := r.options.Store.Settings(id)
	if err != nil {
		return err
	}
	checked := *g
	if err := fit(&checked, settings); err != nil {
		return fmt.Errorf("%w: %s", ErrBadRules, lines(namespace, []error{err}))
	}
	return r.edit(id, func(all map[string][]rulefmt.RuleGroup, bad map[string]error) (string, error) {
		if err := bad[namespace]; err != nil {
			return "", fmt.Errorf("%w: the namespace has a file that has to be mended or removed first: %w", ErrBadRules, err)
		}
		groups := all[namespace]
		if i := slices.IndexFunc(groups, func(o rulefmt.RuleGroup) bool { return o.Name == g.Name }); i >= 0 {
			groups[i] = *g
		} else {
			groups = append(groups, *g)
		}
		all[namespace] = groups
		total := 0
		for _, groups := range all {
			total += countRules(groups)
		}
		if most := r.configNow().RulesPerTenant; total > most {
			return "", fmt.Errorf("%w: the tenant would have %d rules, rules.rules_per_tenant is %d", ErrBadRules, total, most)
		}
		return namespace, nil
	})
}

// DeleteGroup removes one group.
func (r *Ruler) DeleteGroup(id tenant.ID, namespace, name string) error {
	return r.edit(id, func(all map[string][]rulefmt.RuleGroup, _ map[string]error) (string, error) {
		groups := all[namespace]
		all[namespace] = slices.DeleteFunc(slices.Clone(groups), func(g rulefmt.RuleGroup) bool { return g.Name == name })
		if len(all[namespace]) == len(groups) {
			return "", ErrNoGroup
		}
		return namespace, nil
	})
}

// DeleteNamespace removes all groups of a namespace, also where its file is wrong.
func (r *Ruler) DeleteNamespace(id tenant.ID, namespace string) error {
	return r.edit(id, func(all map[string][]rulefmt.RuleGroup, bad map[string]error) (string, error) {
		if len(all[namespace]) == 0 && bad[namespace] == nil {
			return "", ErrNoNamespace
		}
		all[namespace] = nil
		return namespace, nil
	})
}

// edit lets change alter the groups of a namespace, which it returns, and puts them in
// force. What is wrong with files of other namespaces does not matter.
func (r *Ruler) edit(id tenant.ID, change func(all map[string][]rulefmt.RuleGroup, bad map[string]error) (string, error)) error {
	t := r.tenant(id)
	t.replacing.Lock()
	defer t.replacing.Unlock()
	all, bad, err := r.written(id)
	if err != nil {
		return fmt.Errorf("the rules that there are cannot be read: %w", err)
	}
	namespace, err := change(all, bad)
	if err != nil {
		return err
	}
	var text []byte // nil: without groups there is no file
	if groups := all[namespace]; len(groups) > 0 {
		if text, err = yaml.Marshal(rulefmt.RuleGroups{Groups: groups}); err != nil {
			return fmt.Errorf("write namespace %q: %w", namespace, err)
		}
	}
	if err := r.options.Files.write(id, namespace, text); err != nil {
		return err
	}
	r.mu.Lock()
	if r.tenants[id] == nil {
		r.tenants[id] = t // it had no groups meanwhile
	}
	r.mu.Unlock()
	r.load(t, loadChange)
	return nil
}

// parseGroup reads one group. Lines in its errors are those of the text.
func (r *Ruler) parseGroup(namespace string, text []byte) (*rulefmt.RuleGroup, error) {
	bad := func(errs ...error) error { return fmt.Errorf("%w: %s", ErrBadRules, lines(namespace, errs)) }
	var g rulefmt.RuleGroup
	dec := yaml.NewDecoder(bytes.NewReader(text))
	dec.KnownFields(true)
	if err := dec.Decode(&g); errors.Is(err, io.EOF) {
		return nil, bad(errors.New("the text is empty, it must be one group of rules"))
	} else if err != nil {
		return nil, bad(err)
	}
	var node rulefmt.RuleGroupNode
	if err := yaml.Unmarshal(text, &node); err != nil {
		return nil, bad(err)
	}
	// What concerns the group as a whole is for upstream to check, without its rules.
	alone := g
	alone.Rules = nil
	whole, err := yaml.Marshal(rulefmt.RuleGroups{Groups: []rulefmt.RuleGroup{alone}})
	if err != nil {
		return nil, bad(err)
	}
	var errs []error
	if g.Name == "" {
		errs = append(errs, errors.New("the group has no name"))
	} else {
		_, errs = rulefmt.Parse(whole, false, model.UTF8Validation, r.options.Parser, r.options.Logger)
	}
	for i := range g.Rules {
		rule := &g.Rules[i]
		for _, wrong := range rule.Validate(node.Rules[i], model.UTF8Validation, r.options.Parser) {
			errs = append(errs, &rulefmt.Error{Group: g.Name, Rule: i + 1, RuleName: rule.Record + rule.Alert, Err: wrong})
		}
	}
	if len(errs) > 0 {
		return nil, bad(errs...)
	}
	return &g, nil
}
