package increment

import (
	"errors"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
)

// Batch is one request's increments and what came with them. The receiver owns it
// until it returns.
type Batch struct {
	// Key de-duplicates the batch where HasKey is set: a hash of what the
	// client named it.
	Key    [16]byte
	HasKey bool
	// Reservation holds the ids of the batch's events; nil where they have none. The
	// receiver settles it.
	Reservation Reservation
	Increments  []Increment
	Exemplars   []Exemplar
	Metadata    []Metadata
	// State is what the batch changes of what is kept of a tenant besides increments,
	// such as sessions that have not ended: storage logs and applies it with them.
	State []byte
	// SkipRefused: an increment that is refused is left out, Refused then has it, and
	// the others count. Without it the whole batch is refused.
	SkipRefused bool
	Refused     []Refusal
	// Derived: the samples are what rules recorded, so no rule has to be told that they
	// came late.
	Derived bool
	// Generation is that of the tenant whose settings and key the batch was made with; 0:
	// they do not matter. Another one refuses the batch.
	Generation uint64
}

// ErrTooLarge is in the chain of errors of batches that can never be stored, because
// they are larger than a record of the log: what they are of is to be sent in parts.
var ErrTooLarge = errors.New("the batch is larger than a record of the log may be")

// Reservation is ids of events from when they were looked up until the batch that has
// the events is applied or given up.
type Reservation interface {
	// Duplicate reports whether the i-th of the ids that were asked for was applied
	// before, or came earlier in the batch: its event must not be in the batch.
	Duplicate(i int) bool
	// Settle ends the reservation: where the batch was applied, its ids were seen.
	Settle(applied bool)
}

// Exemplar is an example of what a series counted.
type Exemplar struct {
	Series labels.Labels // with __name__, as in the series' increments
	Labels labels.Labels // of the exemplar, such as a trace's id
	Time   int64         // milliseconds since 1970
	Value  float64
}

// Metadata says what a metric is.
type Metadata struct {
	Metric string           `json:"metric"`
	Type   model.MetricType `json:"type,omitempty"`
	Help   string           `json:"help,omitempty"`
	Unit   string           `json:"unit,omitempty"`
}

// Refusal is why the increment at Index of a batch was left out.
type Refusal struct {
	Index int
	Err   error
}
