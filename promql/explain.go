package promql

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/promql/parser/posrange"

	upstream "github.com/prometheus/prometheus/promql"
)

// Plan is how a query is computed: a tree of its expression, whose leaves are computed
// directly or are what the engine reads or knows by itself.
type Plan struct {
	// Expr is this part of the query as written, at Start to End in it.
	Expr  string `json:"expr"`
	Start int    `json:"start"`
	End   int    `json:"end"`
	// Direct: computed from whole series, with all that is below. Otherwise by the
	// engine from the results of Parts.
	Direct bool    `json:"direct"`
	Parts  []*Plan `json:"parts,omitempty"`
	// Of a direct part that was computed: the series selected, the chunks and bytes of
	// them that were read (0 of what a memtable has), the samples that the engine would
	// have looked at, the groups of the first aggregation, the series of the result, and
	// the seconds that it took.
	Series  int     `json:"series,omitempty"`
	Chunks  int     `json:"chunks,omitempty"`
	Bytes   int     `json:"bytes,omitempty"`
	Groups  int     `json:"groups,omitempty"`
	Results int     `json:"results,omitempty"`
	Samples int64   `json:"samples,omitempty"`
	Took    float64 `json:"seconds,omitempty"`
}

// Plan returns the plan of a query that is not run.
func (e *Engine) Plan(qs string) (*Plan, error) { return e.planOf(nil, qs) }

// planOf returns the plan of qs, with what query, which may be nil, has measured.
func (e *Engine) planOf(query upstream.Query, qs string) (*Plan, error) {
	expr, err := e.parser.ParseExpr(qs)
	if err != nil {
		return nil, err
	}
	b := planBuilder{qs: qs, direct: map[parser.Expr]bool{}}
	for _, d := range e.planner.plannedIn(expr) {
		b.direct[d] = true
	}
	if p, ok := query.(*plannedQuery); ok {
		b.measured = p.plan.planned
	}
	return b.build(expr), nil
}

type planBuilder struct {
	qs       string
	direct   map[parser.Expr]bool
	measured map[string]planned
}

func (b *planBuilder) build(n parser.Node) *Plan {
	pos := n.PositionRange()
	p := &Plan{Expr: b.text(n, pos), Start: int(pos.Start), End: int(pos.End)}
	if expr, ok := n.(parser.Expr); ok && b.direct[expr] {
		p.Direct = true
		if d, ok := b.measured[syntheticName(expr)].(*direct); ok {
			p.measure(d)
		}
		return p
	}
	if _, selects := n.(*parser.MatrixSelector); selects {
		return p // with its range
	}
	for child := range parser.ChildrenIter(n) {
		p.Parts = append(p.Parts, b.build(child))
	}
	return p
}

// text is n as written.
func (b *planBuilder) text(n parser.Node, pos posrange.PositionRange) string {
	if pos.Start >= 0 && pos.Start < pos.End && int(pos.End) <= len(b.qs) {
		return strings.TrimSpace(b.qs[pos.Start:pos.End])
	}
	return n.String()
}

func (p *Plan) measure(d *direct) {
	s := &d.stats
	p.Series, p.Chunks, p.Bytes, p.Groups, p.Results, p.Took = s.series, s.counts.chunks, s.counts.bytes, s.groups, s.emitted, s.took.Seconds()
	for _, n := range s.counts.total {
		p.Samples += n
	}
}

// Write prints the plan as a tree, one part a line.
func (p *Plan) Write(w io.Writer) error { return p.write(w, 0) }

func (p *Plan) write(w io.Writer, depth int) error {
	line := fmt.Sprintf("%s%s: %s", strings.Repeat("  ", depth), p.how(), strings.Join(strings.Fields(p.Expr), " "))
	if p.Took > 0 {
		line += fmt.Sprintf("  [%d series, %d chunks, %d bytes, %d samples, %d results, %s]", p.Series, p.Chunks, p.Bytes, p.Samples, p.Results, time.Duration(p.Took*float64(time.Second)).Round(time.Microsecond))
	}
	if _, err := fmt.Fprintln(w, line); err != nil {
		return err
	}
	for _, part := range p.Parts {
		if err := part.write(w, depth+1); err != nil {
			return err
		}
	}
	return nil
}

func (p *Plan) how() string {
	if p.Direct {
		return "direct"
	}
	return "engine"
}
