package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/rulefmt"
	"go.yaml.in/yaml/v3"

	"github.com/quipudb/quipu/internal/client"
	"github.com/quipudb/quipu/promql"
)

// ruleGroups are groups of rules by namespace, as a server has them.
type ruleGroups map[string][]rulefmt.RuleGroup

func readRuleGroups(ctx context.Context, server *client.Client) (ruleGroups, error) {
	text, err := server.RuleGroups(ctx)
	if err != nil {
		return nil, err
	}
	var all ruleGroups
	if err := yaml.Unmarshal(text, &all); err != nil {
		return nil, fmt.Errorf("read the server's answer about rules: %w", err)
	}
	return all, nil
}

type rulesListCmd struct {
	remote `embed:""`
}

// Run prints a line for each group that the server has.
func (c *rulesListCmd) Run(con *console) error {
	server, err := c.connect()
	if err != nil {
		return err
	}
	all, err := readRuleGroups(con.ctx, server)
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(con.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NAMESPACE\tGROUP\tRULES")
	for _, namespace := range slices.Sorted(maps.Keys(all)) {
		for _, g := range all[namespace] {
			fmt.Fprintf(w, "%s\t%s\t%d\n", namespace, g.Name, len(g.Rules))
		}
	}
	return w.Flush()
}

type rulesGetCmd struct {
	remote `embed:""`

	Namespace string `arg:"" help:"The namespace."`
	Group     string `arg:"" optional:"" help:"One of its groups (default: all)."`
}

// Run prints groups as a file that "quipu rules load" takes.
func (c *rulesGetCmd) Run(con *console) error {
	server, err := c.connect()
	if err != nil {
		return err
	}
	all, err := readRuleGroups(con.ctx, server)
	if err != nil {
		return err
	}
	groups, ok := all[c.Namespace]
	if !ok {
		return fmt.Errorf("there is no namespace %q; \"quipu rules list\" shows those that there are", c.Namespace)
	}
	if c.Group != "" {
		groups = slices.DeleteFunc(groups, func(g rulefmt.RuleGroup) bool { return g.Name != c.Group })
		if len(groups) == 0 {
			return fmt.Errorf("there is no group %q in namespace %q", c.Group, c.Namespace)
		}
	}
	enc := yaml.NewEncoder(con.out)
	enc.SetIndent(2)
	return errors.Join(enc.Encode(rulefmt.RuleGroups{Groups: groups}), enc.Close())
}

type rulesLoadCmd struct {
	remote `embed:""`

	Namespace string   `placeholder:"NAME" help:"Namespace to load one file into (default: the file's name without its ending)."`
	Files     []string `arg:"" name:"file" help:"Files of rules. Each becomes its namespace: groups that it does not have are removed there."`
}

// Run checks all files before any is loaded.
func (c *rulesLoadCmd) Run(con *console) error {
	if c.Namespace != "" && len(c.Files) > 1 {
		return errors.New("--namespace is of one file, load the others by themselves")
	}
	server, err := c.connect()
	if err != nil {
		return err
	}
	files := ruleGroups{}
	for _, name := range c.Files {
		namespace := c.Namespace
		if namespace == "" {
			namespace = strings.TrimSuffix(filepath.Base(name), filepath.Ext(name))
		}
		if _, twice := files[namespace]; twice {
			return fmt.Errorf("two of the files are of namespace %q", namespace)
		}
		if files[namespace], err = readRuleFile(name); err != nil {
			return err
		}
	}
	before, err := readRuleGroups(con.ctx, server)
	if err != nil {
		return err
	}
	for _, namespace := range slices.Sorted(maps.Keys(files)) {
		if err := loadNamespace(con.ctx, con.out, server, namespace, before[namespace], files[namespace]); err != nil {
			return err
		}
	}
	return nil
}

func readRuleFile(name string) ([]rulefmt.RuleGroup, error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	parsed, errs := rulefmt.Parse(text, false, model.UTF8Validation, promql.NewParser(), slog.New(slog.DiscardHandler))
	for i := range errs {
		errs[i] = fmt.Errorf("%s: %w", name, errs[i])
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return parsed.Groups, nil
}

// loadNamespace makes the groups of a namespace those of a file, and says what became of
// each.
func loadNamespace(ctx context.Context, out io.Writer, server *client.Client, namespace string, before, groups []rulefmt.RuleGroup) error {
	named := func(name string) func(rulefmt.RuleGroup) bool {
		return func(g rulefmt.RuleGroup) bool { return g.Name == name }
	}
	for _, g := range groups {
		text, err := yaml.Marshal(g)
		if err != nil {
			return fmt.Errorf("write group %q: %w", g.Name, err)
		}
		if err := server.SetRuleGroup(ctx, namespace, text); err != nil {
			return fmt.Errorf("group %q is not loaded: %w", g.Name, err)
		}
		fmt.Fprintf(out, "%s/%s: %d rules\n", namespace, g.Name, len(g.Rules))
	}
	for _, g := range before {
		if slices.ContainsFunc(groups, named(g.Name)) {
			continue
		}
		if err := server.DeleteRules(ctx, namespace, g.Name); err != nil {
			return fmt.Errorf("group %q is not removed: %w", g.Name, err)
		}
		fmt.Fprintf(out, "%s/%s: removed\n", namespace, g.Name)
	}
	return nil
}

type rulesDeleteCmd struct {
	remote `embed:""`

	Namespace string `arg:"" help:"The namespace."`
	Group     string `arg:"" optional:"" help:"One of its groups (default: all)."`
}

// Run removes a group or a namespace.
func (c *rulesDeleteCmd) Run(con *console) error {
	server, err := c.connect()
	if err != nil {
		return err
	}
	return server.DeleteRules(con.ctx, c.Namespace, c.Group)
}
