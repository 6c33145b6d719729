package ingest

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/quipudb/quipu/internal/increment"
)

// warningsMax is how many increments that storage refused one answer describes.
const warningsMax = 10

// refuse takes note of what storage left out of a batch that it took: events of which
// nothing is stored are rejected, and what is missing of the others is a warning. A
// metric that cannot be stored so neither holds up those that can, nor goes unsaid.
func (w *worker) refuse(refused []increment.Refusal) {
	if len(refused) == 0 {
		return
	}
	why := make(map[int32]error, len(refused))
	for _, r := range refused {
		why[int32(r.Index)] = r.Err
	}
	from, sessions, partly := 0, 0, map[int32]bool{}
	for _, c := range w.counted {
		touched := w.coalescer.touched[from:c.end]
		from = c.end
		inSessions := c.sessions > sessions // which storage does not refuse
		sessions = c.sessions
		if inSessions || slices.ContainsFunc(touched, func(at int32) bool { return why[at] == nil }) {
			for _, at := range touched {
				partly[at] = partly[at] || why[at] != nil
			}
			continue
		}
		w.good--
		w.reject(c.index, reject(reasonRefused, "%s", why[touched[0]]))
	}
	slices.SortStableFunc(w.result.Errors, func(a, b EventError) int { return cmp.Compare(a.Index, b.Index) })
	for _, r := range refused {
		if !partly[int32(r.Index)] {
			continue
		}
		if len(w.result.Warnings) == warningsMax {
			w.result.Warnings = append(w.result.Warnings, "and more")
			break
		}
		if text := fmt.Sprintf("an increment is not stored: %s", r.Err); !slices.Contains(w.result.Warnings, text) {
			w.result.Warnings = append(w.result.Warnings, text)
		}
	}
}
