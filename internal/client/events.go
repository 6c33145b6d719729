package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
)

// Batch is one request's worth of events.
type Batch struct {
	// NDJSON holds one event a line, gzipped.
	NDJSON []byte
	// Events is how many there are.
	Events int
	// Key is the idempotency key: a batch of the same key counts once.
	Key string
}

// Verdicts are what became of the events of a batch; they add up to its size.
type Verdicts struct {
	Accepted  int `json:"accepted"`
	Duplicate int `json:"duplicate"`
	Filtered  int `json:"filtered"`
	Rejected  int `json:"rejected"`
	// Errors name rejected events; the server may leave some out.
	Errors []Rejection `json:"errors"`
}

// Rejection is why one event was not counted.
type Rejection struct {
	// Index is the event's place in the batch, from 0.
	Index  int    `json:"index"`
	Reason string `json:"reason"`
}

// PostEvents sends a batch once.
func (c *Client) PostEvents(ctx context.Context, b Batch) (Verdicts, error) {
	body, err := c.do(ctx, request{
		method: http.MethodPost,
		path:   "/api/v1/events",
		header: http.Header{
			"Content-Type":     {"application/x-ndjson"},
			"Content-Encoding": {"gzip"},
			"Idempotency-Key":  {b.Key},
		},
		body: b.NDJSON,
	})
	// A batch of which every event is rejected is answered 400, with verdicts.
	if status := (*StatusError)(nil); errors.As(err, &status) && status.Code == http.StatusBadRequest {
		var v Verdicts
		if json.Unmarshal(status.body, &v) == nil && v.Rejected == b.Events {
			return v, nil
		}
	}
	if err != nil {
		return Verdicts{}, err
	}
	var v Verdicts
	if err := json.Unmarshal(body, &v); err != nil {
		return Verdicts{}, fmt.Errorf("read the server's answer to a batch: %w", err)
	}
	if sum := v.Accepted + v.Duplicate + v.Filtered + v.Rejected; sum != b.Events {
		return Verdicts{}, fmt.Errorf("the server accounts for %d of the %d events of a batch", sum, b.Events)
	}
	return v, nil
}
