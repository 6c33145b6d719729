package load

import (
	"fmt"
	"net/http"

	"github.com/valyala/fastjson"
)

// Verdicts are what became of events.
type Verdicts struct{ Accepted, Duplicate, Filtered, Rejected int }

// Sum is the number of events.
func (v Verdicts) Sum() int { return v.Accepted + v.Duplicate + v.Filtered + v.Rejected }

func (v *Verdicts) add(o Verdicts) {
	v.Accepted += o.Accepted
	v.Duplicate += o.Duplicate
	v.Filtered += o.Filtered
	v.Rejected += o.Rejected
}

// readVerdicts reads an answer to a batch; said is false where it gives none, as those
// of other trackers' formats do, and those of a batch that was refused as a whole.
func readVerdicts(p *fastjson.Parser, body []byte) (v Verdicts, said bool) {
	answer, err := p.ParseBytes(body)
	if err != nil || answer.Get("accepted") == nil {
		return v, false
	}
	return Verdicts{answer.GetInt("accepted"), answer.GetInt("duplicate"), answer.GetInt("filtered"), answer.GetInt("rejected")}, true
}

// checkAnswer compares what an answer says with the batch that was sent (I2). again
// says that the server has had the batch before.
func checkAnswer(status int, v Verdicts, said bool, events int, again bool) error {
	switch {
	case said && v.Sum() != events:
		return fmt.Errorf("an answer accounts for %d of the %d events of its batch: %+v", v.Sum(), events, v)
	case said && again && status == http.StatusOK && v.Accepted > 0:
		return fmt.Errorf("a batch that was sent again counted again: %+v", v)
	case said && status != http.StatusOK && v.Rejected != events:
		return fmt.Errorf("an answer with status %d, yet not all of its %d events are rejected: %+v", status, events, v)
	}
	return nil
}
