package importer

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/quipudb/quipu/internal/client"
)

// rejectionsShown is how many rejected lines a summary names.
const rejectionsShown = 5

// Summary is what became of the lines (P3).
type Summary struct {
	// Lines were read, of which Unparsed are no hits.
	Lines, Unparsed int
	// The verdicts of the server on the events it answered for.
	Accepted, Duplicate, Filtered, Rejected int
	// Rejections are the first rejected lines, as "file:line: reason".
	Rejections []string
	// Foreign are the files that have lines, but none that could be parsed.
	Foreign []string
	Took    time.Duration
}

// Unsent counts lines that were read and got no verdict.
func (s *Summary) Unsent() int {
	return s.Lines - s.Unparsed - s.Accepted - s.Duplicate - s.Filtered - s.Rejected
}

// add counts the verdicts on one batch.
func (s *Summary) add(b *batch, v client.Verdicts) {
	s.Accepted += v.Accepted
	s.Duplicate += v.Duplicate
	s.Filtered += v.Filtered
	s.Rejected += v.Rejected
	for _, e := range v.Errors {
		if len(s.Rejections) == rejectionsShown {
			return
		}
		if e.Index >= 0 && e.Index < len(b.numbers) {
			s.Rejections = append(s.Rejections, fmt.Sprintf("%s:%d: rejected: %s", b.file, b.numbers[e.Index], e.Reason))
		}
	}
}

// Fprint writes the summary as lines of text.
func (s *Summary) Fprint(w io.Writer) error {
	text := &strings.Builder{}
	fmt.Fprintf(text, "%s read, %s unparsed\n", Count(s.Lines, "line"), thousands(s.Unparsed))
	fmt.Fprintf(text, "%s accepted, %s duplicate, %s rejected", Count(s.Accepted, "event"), thousands(s.Duplicate), thousands(s.Rejected))
	if s.Filtered > 0 {
		fmt.Fprintf(text, ", %s filtered", thousands(s.Filtered))
	}
	if n := s.Unsent(); n > 0 {
		fmt.Fprintf(text, ", %s not sent", thousands(n))
	}
	fmt.Fprintf(text, "\ntook %s", s.Took.Round(time.Millisecond))
	if answered := s.Accepted + s.Duplicate + s.Filtered + s.Rejected; s.Took > 0 && answered > 0 {
		fmt.Fprintf(text, ", %s events/s", thousands(int(float64(answered)/s.Took.Seconds())))
	}
	text.WriteByte('\n')
	for _, r := range s.Rejections {
		fmt.Fprintln(text, r)
	}
	if more := s.Rejected - len(s.Rejections); more > 0 && len(s.Rejections) > 0 {
		fmt.Fprintf(text, "and %s more rejected\n", thousands(more))
	}
	_, err := io.WriteString(w, text.String())
	return err
}

// Count writes how many things of a name there are: 1 line, 2,000 lines.
func Count(n int, name string) string {
	if n != 1 {
		name += "s"
	}
	return thousands(n) + " " + name
}

// thousands writes 1234567 as 1,234,567.
func thousands(n int) string {
	digits := strconv.Itoa(n)
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}
