package load

import (
	"errors"
	"fmt"
	"net/url"
	"time"
)

// Options of a run.
type Options struct {
	// Server is the base address, as in "http://127.0.0.1:9480".
	Server string
	// Token is sent as a bearer token unless it is "".
	Token string
	// TenantHeader and Tenant are a header of every request; Tenant "": none.
	TenantHeader, Tenant string
	// Format is one of Formats; Path is where it is posted, "": the format's own.
	Format, Path string
	// Fields are those of the events; see DefaultFields.
	Fields []Field
	// Batch is the events in a request, Connections how many are open, each with one
	// request at a time.
	Batch, Connections int
	// Duration and Count, of events, end the run, whichever is first; 0 does not.
	Duration time.Duration
	Count    int
	// Warmup is sent before what is measured.
	Warmup time.Duration
	// Rate is events a second in all; 0: each connection sends as fast as it is answered.
	Rate float64
	// Late is the part of events whose time is in the past, by up to LateBy.
	Late   float64
	LateBy time.Duration
	// SameID is the part of events that have the id of an event before.
	SameID float64
	// SameBatch is the part of batches that are sent again with their Idempotency-Key,
	// which all batches have then.
	SameBatch float64
	// Seed makes the values of fields; ids differ in every run.
	Seed uint64
}

const (
	// batchMax and connectionsMax bound the memory that a slip of the keyboard takes.
	batchMax       = 100_000
	connectionsMax = 10_000
)

// validate checks the options and sets what they leave out.
func (o *Options) validate() (base *url.URL, f format, err error) {
	base, err = url.Parse(o.Server)
	if err != nil {
		return nil, nil, fmt.Errorf("server address: %w", err)
	}
	if (base.Scheme != "http" && base.Scheme != "https") || base.Host == "" {
		return nil, nil, fmt.Errorf("server address %q is not of the form http://host:port", o.Server)
	}
	if f, err = formatOf(o.Format); err != nil {
		return nil, nil, err
	}
	if o.Path == "" {
		o.Path = f.path()
	}
	if o.Fields == nil {
		o.Fields = DefaultFields()
	}
	if o.TenantHeader == "" {
		o.TenantHeader = "X-Scope-OrgID"
	}
	switch {
	case o.Batch < 1 || o.Batch > batchMax:
		return nil, nil, fmt.Errorf("a batch of %d events: it must be 1 to %d", o.Batch, batchMax)
	case o.Connections < 1 || o.Connections > connectionsMax:
		return nil, nil, fmt.Errorf("%d connections: there must be 1 to %d", o.Connections, connectionsMax)
	case o.Duration < 0 || o.Count < 0 || o.Warmup < 0 || o.Rate < 0 || o.LateBy < 0:
		return nil, nil, errors.New("a duration, a count, a rate or how late events are is negative")
	case o.Duration == 0 && o.Count == 0:
		return nil, nil, errors.New("the run would never end: give it a duration or a count of events")
	case o.Late > 0 && o.LateBy < time.Millisecond:
		return nil, nil, errors.New("some events are to be late: say by how much")
	}
	for _, part := range []float64{o.Late, o.SameID, o.SameBatch} {
		if !(part >= 0 && part < 1) {
			return nil, nil, fmt.Errorf("a part of %g: it must be at least 0 and less than 1", part)
		}
	}
	return base, f, checkFields(o.Fields)
}
