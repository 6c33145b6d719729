package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"text/tabwriter"

	"github.com/quipudb/quipu/api"
	"github.com/quipudb/quipu/ingest"
	"github.com/quipudb/quipu/internal/tenant"
	"github.com/quipudb/quipu/tsdb"
)

// tsdbCmd is about data directories; it needs no server.
type tsdbCmd struct {
	Analyze analyzeCmd `cmd:"" help:"Say what takes room in a data directory: series, bytes and increments by kind, metric, event rule and label, and which series come and go."`
}

type analyzeCmd struct {
	Dir    string `arg:"" help:"Data directory of a server that is stopped, or a snapshot."`
	Tenant string `help:"Only this tenant."`
	Rules  string `placeholder:"FILE" help:"Event rules to ask about (default: those of each tenant)."`
	Limit  int    `default:"20" help:"How many entries each list has, the largest."`
	JSON   bool   `name:"json" help:"Print JSON."`
}

// analyzedTenant is what is printed of one tenant.
type analyzedTenant struct {
	Tenant string `json:"tenant"`
	// LogRecords is how many records of the log are in no block: a server has them in
	// memory.
	LogRecords int `json:"logRecords"`
	*api.SeriesStats
	// Problems say what is left out, and why.
	Problems []string `json:"problems,omitempty"`
}

// Run prints what takes room, the largest first. It fails where something is damaged, after
// it has printed the rest.
func (c *analyzeCmd) Run(con *console) error {
	if c.Limit < 1 {
		return errors.New("--limit must be a positive number")
	}
	o := tsdb.AnalyzeOptions{Dir: c.Dir, Limit: c.Limit}
	if c.Tenant != "" {
		var err error
		if o.Only, err = tenant.Parse(c.Tenant); err != nil {
			return fmt.Errorf("--tenant: %w", err)
		}
	}
	var given []ingest.About
	if c.Rules != "" {
		text, err := os.ReadFile(c.Rules)
		if err == nil {
			given, err = ingest.RuleMetrics(c.Rules, text)
		}
		if err != nil {
			return fmt.Errorf("--rules: %w", err)
		}
	}
	rules, wrong := map[tenant.ID][]ingest.About{}, map[tenant.ID]error{}
	o.Names = func(id tenant.ID) []string {
		if rules[id] = given; c.Rules == "" {
			rules[id], wrong[id] = rulesIn(c.Dir, id)
		}
		return metricNames(rules[id])
	}
	all, logDamage, err := tsdb.Analyze(con.ctx, o)
	if err != nil {
		return err
	}
	damaged := len(logDamage) > 0
	out := []analyzedTenant{}
	for i := range all {
		a := &all[i]
		one := analyzedTenant{Tenant: a.Tenant.String(), LogRecords: a.LogRecords, Problems: damageTexts(a.Damage)}
		damaged = damaged || len(a.Damage) > 0 || a.Err != nil
		if err := wrong[a.Tenant]; err != nil {
			one.Problems = append(one.Problems, fmt.Sprintf("what event rules cost is not known: %v", err))
		}
		if a.Err != nil {
			one.Problems = append(one.Problems, fmt.Sprintf("nothing is counted: %v", a.Err))
		} else {
			one.SeriesStats = seriesStats(&a.Stats, rules[a.Tenant])
		}
		out = append(out, one)
	}
	if err := c.print(con.out, out, damageTexts(logDamage)); err != nil {
		return err
	}
	if damaged {
		return fmt.Errorf("a part of %s is damaged, the rest was counted: \"quipu check\" says more", c.Dir)
	}
	return nil
}

// rulesIn are the event rules of a tenant of a data directory.
func rulesIn(dir string, id tenant.ID) ([]ingest.About, error) {
	text, _, err := (&ruleFiles{dir}).EventRules(id, "")
	if err != nil {
		return nil, err
	}
	if text.Text == nil {
		text.Text = ingest.DefaultRules
	}
	return ingest.RuleMetrics(text.Name, text.Text)
}

func (c *analyzeCmd) print(to io.Writer, all []analyzedTenant, logDamage []string) error {
	if c.JSON {
		enc := json.NewEncoder(to)
		enc.SetIndent("", "  ")
		enc.SetEscapeHTML(false)
		return enc.Encode(struct {
			Tenants  []analyzedTenant `json:"tenants"`
			Problems []string         `json:"problems,omitempty"`
		}{all, logDamage})
	}
	w := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	for _, text := range logDamage {
		fmt.Fprintln(w, text)
	}
	for i := range all {
		printAnalysis(w, &all[i])
	}
	return w.Flush()
}

func printAnalysis(w io.Writer, a *analyzedTenant) {
	fmt.Fprintf(w, "tenant %s", a.Tenant)
	if a.SeriesStats != nil {
		st := &a.Storage
		fmt.Fprintf(w, ": %d series, %d increments, %d blocks of %s, %d records of the log that take %s in memory",
			st.Series, st.Increments, st.Blocks, bytesText(st.BlockBytes), a.LogRecords, bytesText(st.MemoryBytes))
	}
	fmt.Fprintln(w)
	for _, text := range a.Problems {
		fmt.Fprintln(w, text)
	}
	if a.SeriesStats == nil {
		fmt.Fprintln(w)
		return
	}
	st := &a.Storage
	printCosts(w, "KIND", st.ByKind)
	printCosts(w, "EVENT RULE", append(st.ByEventRule, named(st.WithoutEventRule, "(none)")))
	printCosts(w, "METRIC", st.ByMetric)
	fmt.Fprintln(w, "\nLABEL\tVALUES\tSERIES")
	for _, l := range st.ByLabel {
		fmt.Fprintf(w, "%s\t%d\t%d\n", l.Name, l.Values, l.Series)
	}
	fmt.Fprintln(w, "\nLABEL VALUE\tSERIES")
	for _, v := range a.SeriesCountByLabelValuePair {
		fmt.Fprintf(w, "%s\t%d\n", v.Name, v.Value)
	}
	fmt.Fprintln(w, "\nDAY\tSERIES BEGIN\tEND")
	for _, d := range st.Churn {
		fmt.Fprintf(w, "%s\t%d\t%d\n", d.Day, d.First, d.Last)
	}
	fmt.Fprintln(w)
}

func named(c api.SeriesCost, name string) api.SeriesCost {
	c.Name = name
	return c
}

func printCosts(w io.Writer, what string, costs []api.SeriesCost) {
	fmt.Fprintf(w, "\n%s\tSERIES\tINCREMENTS\tCHUNKS\tBYTES\tIN MEMORY\tA SERIES\tAN INCREMENT\n", what)
	for _, c := range costs {
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%s\t%s\t%.1f\t%.2f\n", c.Name, c.Series, c.Increments, c.Chunks, bytesText(c.ChunkBytes), bytesText(c.MemoryBytes), c.BytesPerSeries, c.BytesPerIncrement)
	}
}
