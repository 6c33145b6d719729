package client

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// Answer is the answer to a query, in the shape of Prometheus's HTTP API.
type Answer struct {
	// Type is "vector", "matrix", "scalar" or "string".
	Type     string
	Result   json.RawMessage
	Warnings []string
	Infos    []string
	// Body is the whole answer as it came.
	Body []byte
}

// Range are the instants at which a range query is evaluated.
type Range struct {
	Start, End time.Time
	Step       time.Duration
}

// Query evaluates expr at one instant; the zero time is the server's present.
func (c *Client) Query(ctx context.Context, expr string, at time.Time) (Answer, error) {
	return c.ask(ctx, "/api/v1/query", instantForm(expr, at))
}

func instantForm(expr string, at time.Time) url.Values {
	form := url.Values{"query": {expr}}
	if !at.IsZero() {
		form.Set("time", unixSeconds(at))
	}
	return form
}

// QueryRange evaluates expr at every step of a range.
func (c *Client) QueryRange(ctx context.Context, expr string, r Range) (Answer, error) {
	return c.ask(ctx, "/api/v1/query_range", rangeForm(expr, r))
}

func rangeForm(expr string, r Range) url.Values {
	return url.Values{
		"query": {expr},
		"start": {unixSeconds(r.Start)},
		"end":   {unixSeconds(r.End)},
		"step":  {strconv.FormatFloat(r.Step.Seconds(), 'f', -1, 64)},
	}
}

// Explain returns how the server computes a query, as the JSON that it answered with: of
// an instant where r is nil, else of a range.
func (c *Client) Explain(ctx context.Context, expr string, at time.Time, r *Range) (json.RawMessage, error) {
	form := instantForm(expr, at)
	if r != nil {
		form = rangeForm(expr, *r)
	}
	body, err := c.post(ctx, "/api/v1/explain", form)
	if err != nil {
		return nil, err
	}
	var envelope struct {
		Data json.RawMessage `json:"data"`
	}
	if err := json.Unmarshal(body, &envelope); err != nil {
		return nil, fmt.Errorf("read the server's explanation of a query: %w", err)
	}
	return envelope.Data, nil
}

// post sends the form in a body, because an expression may be longer than an address.
func (c *Client) post(ctx context.Context, path string, form url.Values) ([]byte, error) {
	return c.do(ctx, request{
		method: http.MethodPost,
		path:   path,
		header: http.Header{"Content-Type": {"application/x-www-form-urlencoded"}},
		body:   []byte(form.Encode()),
	})
}

func (c *Client) ask(ctx context.Context, path string, form url.Values) (Answer, error) {
	body, err := c.post(ctx, path, form)
	if err != nil {
		return Answer{}, err
	}
	var envelope struct {
		Status string `json:"status"`
		Data   struct {
			ResultType string          `json:"resultType"`
			Result     json.RawMessage `json:"result"`
		} `json:"data"`
		Error    string   `json:"error"`
		Warnings []string `json:"warnings"`
		Infos    []string `json:"infos"`
	}
	if err := json.Unmarshal(body, &envelope); err != nil {
		return Answer{}, fmt.Errorf("read the server's answer to a query: %w", err)
	}
	if envelope.Status != "success" {
		return Answer{}, fmt.Errorf("the server answered %q: %s", envelope.Status, envelope.Error)
	}
	return Answer{
		Type:     envelope.Data.ResultType,
		Result:   envelope.Data.Result,
		Warnings: envelope.Warnings,
		Infos:    envelope.Infos,
		Body:     body,
	}, nil
}

// unixSeconds writes an instant to the millisecond, which is what a sample has.
func unixSeconds(t time.Time) string {
	return strconv.FormatFloat(float64(t.UnixMilli())/1000, 'f', -1, 64)
}
