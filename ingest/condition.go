package ingest

import (
	"fmt"
	"strings"

	"github.com/grafana/regexp"
)

// conditionKind is what a condition asks.
type conditionKind uint8

const (
	conditionAll conditionKind = iota // of kids
	conditionAny
	conditionNot // of kids[0]
	conditionEquals
	conditionNotEquals
	conditionIn
	conditionRegexp
	conditionExists
	conditionMissing
	conditionGreater
	conditionAtLeast
	conditionLess
	conditionAtMost
)

// condition is a node of a rule's `when`.
type condition struct {
	kind   conditionKind
	slot   int
	path   string // of slot
	text   string // as the rule has it
	number float64
	isNum  bool // text is a number, and equals any that has its value
	set    []condition
	re     *regexp.Regexp
	kids   []condition
}

// holds reports whether e fulfils the condition.
func (c *condition) holds(e *event) bool {
	switch c.kind {
	case conditionAll:
		for i := range c.kids {
			if !c.kids[i].holds(e) {
				return false
			}
		}
		return true
	case conditionAny:
		for i := range c.kids {
			if c.kids[i].holds(e) {
				return true
			}
		}
		return false
	case conditionNot:
		return !c.kids[0].holds(e)
	}
	f := &e.fields[c.slot]
	switch c.kind {
	case conditionExists:
		return f.kind != fieldAbsent
	case conditionMissing:
		return f.kind == fieldAbsent
	case conditionEquals:
		return c.equals(f)
	case conditionNotEquals:
		return !c.equals(f)
	case conditionIn:
		for i := range c.set {
			if c.set[i].equals(f) {
				return true
			}
		}
		return false
	case conditionRegexp:
		return f.isScalar() && c.re.Match(f.text)
	}
	n, ok := f.number()
	if !ok {
		return false
	}
	switch c.kind {
	case conditionGreater:
		return n > c.number
	case conditionAtLeast:
		return n >= c.number
	case conditionLess:
		return n < c.number
	default:
		return n <= c.number
	}
}

func (c *condition) equals(f *field) bool {
	if !f.isScalar() {
		return false
	}
	if string(f.text) == c.text {
		return true
	}
	if !c.isNum || f.kind != fieldNumber {
		return false
	}
	n, ok := f.number()
	return ok && n == c.number
}

// String is the condition as a person would say it.
func (c *condition) String() string {
	each := func(cs []condition, separator string) string {
		out := make([]string, len(cs))
		for i := range cs {
			out[i] = cs[i].String()
		}
		return strings.Join(out, separator)
	}
	switch c.kind {
	case conditionAll:
		return "(" + each(c.kids, " and ") + ")"
	case conditionAny:
		return "(" + each(c.kids, " or ") + ")"
	case conditionNot:
		return "not " + c.kids[0].String()
	case conditionExists:
		return c.path + " exists"
	case conditionMissing:
		return c.path + " is missing"
	case conditionIn:
		texts := make([]string, len(c.set))
		for i := range c.set {
			texts[i] = fmt.Sprintf("%q", c.set[i].text)
		}
		return c.path + " in [" + strings.Join(texts, ", ") + "]"
	}
	operator := map[conditionKind]string{
		conditionEquals: "=", conditionNotEquals: "!=", conditionRegexp: "=~", conditionGreater: ">",
		conditionAtLeast: ">=", conditionLess: "<", conditionAtMost: "<=",
	}[c.kind]
	return fmt.Sprintf("%s %s %q", c.path, operator, c.text)
}

// failing says which part of the condition e does not fulfil; "" where it does.
func (c *condition) failing(e *event) string {
	if c.holds(e) {
		return ""
	}
	if c.kind == conditionAll {
		for i := range c.kids {
			if why := c.kids[i].failing(e); why != "" {
				return why
			}
		}
	}
	why := "when: " + c.String() + " does not hold"
	if c.path != "" {
		why += ": " + c.path + " is " + e.fields[c.slot].String()
	}
	return why
}
