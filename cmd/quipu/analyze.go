package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"text/tabwriter"

	"github.com/quipudb/quipu/internal/tenant"
	"github.com/quipudb/quipu/tsdb"
)

// tsdbCmd is about data directories; it needs no server.
type tsdbCmd struct {
	Analyze analyzeCmd `cmd:"" help:"Say what takes room in the blocks of a data directory. What is in the log alone is not looked at."`
}

type analyzeCmd struct {
	Dir    string `arg:"" help:"Data directory of a server that is stopped."`
	Tenant string `help:"Only this tenant."`
	Limit  int    `default:"20" help:"How many metrics and labels, the largest."`
	Output string `enum:"table,json" default:"table" help:"table or json."`
}

// Run prints what takes room, the largest first.
func (c *analyzeCmd) Run(con *console) error {
	if c.Limit < 1 {
		return errors.New("--limit must be a positive number")
	}
	var only tenant.ID
	if c.Tenant != "" {
		var err error
		if only, err = tenant.Parse(c.Tenant); err != nil {
			return err
		}
	}
	all, err := tsdb.Analyze(con.ctx, c.Dir, only, c.Limit)
	if err != nil {
		return err
	}
	if c.Output == "json" {
		enc := json.NewEncoder(con.out)
		enc.SetIndent("", "  ")
		return enc.Encode(all)
	}
	w := tabwriter.NewWriter(con.out, 0, 0, 2, ' ', 0)
	for _, a := range all {
		fmt.Fprintf(w, "tenant %s: %d series, %d blocks of %s\n", a.Tenant, a.Series, a.Blocks, bytesText(a.BlockBytes))
		if a.Blocks == 0 {
			fmt.Fprintln(w, "what is in the log alone is not looked at")
			continue
		}
		printCosts(w, "KIND", a.Kinds)
		printCosts(w, "METRIC", a.Metrics)
		fmt.Fprintln(w, "\nLABEL\tVALUES\tSERIES")
		for _, l := range a.Labels {
			fmt.Fprintf(w, "%s\t%d\t%d\n", l.Name, l.Values, l.Series)
		}
		fmt.Fprintln(w, "\nDAY\tSERIES BEGIN\tEND")
		for _, d := range a.Churn {
			fmt.Fprintf(w, "%s\t%d\t%d\n", d.Day, d.First, d.Last)
		}
		fmt.Fprintln(w)
	}
	return w.Flush()
}

func printCosts(w *tabwriter.Writer, what string, costs []tsdb.Cost) {
	fmt.Fprintf(w, "\n%s\tSERIES\tCHUNKS\tWINDOWS\tBYTES\tA SERIES\tA WINDOW\n", what)
	for _, c := range costs {
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%s\t%.1f\t%.2f\n", c.Name, c.Series, c.Chunks, c.Windows, bytesText(c.Bytes),
			float64(c.Bytes)/float64(max(1, c.Series)), float64(c.Bytes)/float64(max(1, c.Windows)))
	}
}
