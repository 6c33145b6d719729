package client

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
)

const (
	deletionsPath = "/api/v1/admin/tsdb/deletions"
	snapshotsPath = "/api/v1/admin/snapshots"
)

// DeleteSeries deletes what selectors select from a start to an end, "" for none, and
// returns the ids of the deletions.
func (c *Client) DeleteSeries(ctx context.Context, selectors []string, start, end string) (ids []string, err error) {
	var got http.Header
	_, err = c.do(ctx, request{
		method: http.MethodPost, path: "/api/v1/admin/tsdb/delete_series", header: http.Header{"Content-Type": {"application/x-www-form-urlencoded"}},
		body: []byte(span(url.Values{"match[]": selectors}, start, end).Encode()), got: &got,
	})
	if text := got.Get("Quipu-Deletion-Id"); text != "" {
		ids = strings.Split(text, ", ")
	}
	return ids, err
}

// DeleteRuleData deletes what is stored under the metrics of an event rule.
func (c *Client) DeleteRuleData(ctx context.Context, rule, start, end string) (json.RawMessage, error) {
	return c.data(ctx, request{method: http.MethodPost, path: "/api/v1/admin/event-rules/" + url.PathEscape(rule) + "/delete_data", query: span(url.Values{}, start, end)})
}

func span(form url.Values, start, end string) url.Values {
	for name, at := range map[string]string{"start": start, "end": end} {
		if at != "" {
			form.Set(name, at)
		}
	}
	return form
}

// Deletions returns those that are not done and the last that are.
func (c *Client) Deletions(ctx context.Context) (json.RawMessage, error) {
	data, err := c.data(ctx, request{method: http.MethodGet, path: deletionsPath})
	return field(data, "deletions", err)
}

// Deletion returns one by its id.
func (c *Client) Deletion(ctx context.Context, id string) (json.RawMessage, error) {
	return c.data(ctx, request{method: http.MethodGet, path: deletionsPath + "/" + url.PathEscape(id)})
}

// EraseUsers destroys the key of the tenant's user ids.
func (c *Client) EraseUsers(ctx context.Context) (json.RawMessage, error) {
	return c.data(ctx, request{method: http.MethodPost, path: "/api/v1/admin/users/erase"})
}

// Snapshots returns all that there are.
func (c *Client) Snapshots(ctx context.Context) (json.RawMessage, error) {
	data, err := c.data(ctx, request{method: http.MethodGet, path: snapshotsPath})
	return field(data, "snapshots", err)
}

// MakeSnapshot makes a snapshot of some tenants, of all where none is named.
func (c *Client) MakeSnapshot(ctx context.Context, tenants []string, skipHead bool) (json.RawMessage, error) {
	body, err := json.Marshal(map[string]any{"tenants": tenants, "skip_head": skipHead})
	if err != nil {
		return nil, fmt.Errorf("write what is asked for: %w", err)
	}
	return c.data(ctx, request{method: http.MethodPost, path: snapshotsPath, body: body})
}

// DeleteSnapshot deletes one.
func (c *Client) DeleteSnapshot(ctx context.Context, name string) error {
	_, err := c.data(ctx, request{method: http.MethodDelete, path: snapshotsPath + "/" + url.PathEscape(name)})
	return err
}

// RestoreTenant makes a tenant what it is in a snapshot.
func (c *Client) RestoreTenant(ctx context.Context, snapshot, tenant string, replace, withoutEventIDs bool) (json.RawMessage, error) {
	body, err := json.Marshal(map[string]any{"tenant": tenant, "replace": replace, "without_event_ids": withoutEventIDs})
	if err != nil {
		return nil, fmt.Errorf("write what is asked for: %w", err)
	}
	return c.data(ctx, request{method: http.MethodPost, path: snapshotsPath + "/" + url.PathEscape(snapshot) + "/restore", body: body})
}

// field is one of a JSON object.
func field(object json.RawMessage, name string, err error) (json.RawMessage, error) {
	if err != nil {
		return nil, err
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(object, &fields); err != nil {
		return nil, fmt.Errorf("read the server's answer: %w", err)
	}
	return fields[name], nil
}
