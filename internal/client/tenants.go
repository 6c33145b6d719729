package client

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
)

const tenantsPath = "/api/v1/admin/tenants"

// Tenants returns at most a page of tenants after the one named, as the JSON of an array,
// and after whom to ask for more; "" where there are no more.
func (c *Client) Tenants(ctx context.Context, after string) (tenants []json.RawMessage, next string, err error) {
	data, err := c.admin(ctx, http.MethodGet, "", url.Values{"limit": {"1000"}, "after": {after}}, nil)
	if err != nil {
		return nil, "", err
	}
	var page struct {
		Tenants []json.RawMessage `json:"tenants"`
		Next    string            `json:"next"`
	}
	if err := json.Unmarshal(data, &page); err != nil {
		return nil, "", fmt.Errorf("read the server's list of tenants: %w", err)
	}
	return page.Tenants, page.Next, nil
}

// CreateTenant makes a tenant with settings and returns it.
func (c *Client) CreateTenant(ctx context.Context, id string, settings json.RawMessage) (json.RawMessage, error) {
	body, err := json.Marshal(map[string]any{"id": id, "settings": settings})
	if err != nil {
		return nil, fmt.Errorf("write the settings of tenant %s: %w", id, err)
	}
	return c.admin(ctx, http.MethodPost, "", nil, body)
}

// Tenant returns a tenant and its settings.
func (c *Client) Tenant(ctx context.Context, id string) (json.RawMessage, error) {
	return c.admin(ctx, http.MethodGet, "/"+id, nil, nil)
}

// ChangeTenant merges settings into those of a tenant and returns it.
func (c *Client) ChangeTenant(ctx context.Context, id string, settings json.RawMessage) (json.RawMessage, error) {
	return c.admin(ctx, http.MethodPatch, "/"+id, nil, settings)
}

// SuspendTenant has requests for a tenant's data refused, ResumeTenant served again.
func (c *Client) SuspendTenant(ctx context.Context, id string) (json.RawMessage, error) {
	return c.admin(ctx, http.MethodPost, "/"+id+"/suspend", nil, nil)
}

// ResumeTenant has requests for a tenant's data served again.
func (c *Client) ResumeTenant(ctx context.Context, id string) (json.RawMessage, error) {
	return c.admin(ctx, http.MethodPost, "/"+id+"/resume", nil, nil)
}

// DeleteTenant deletes a tenant with all its data and returns what that freed.
func (c *Client) DeleteTenant(ctx context.Context, id string) (json.RawMessage, error) {
	return c.admin(ctx, http.MethodDelete, "/"+id, nil, nil)
}

// TenantUsage returns what a tenant has and does.
func (c *Client) TenantUsage(ctx context.Context, id string) (json.RawMessage, error) {
	return c.admin(ctx, http.MethodGet, "/"+id+"/usage", nil, nil)
}

func (c *Client) admin(ctx context.Context, method, path string, query url.Values, body []byte) (json.RawMessage, error) {
	return c.data(ctx, request{method: method, path: tenantsPath + path, query: query, body: body})
}

// data returns the data of the answer to a request with JSON, null where it has none.
func (c *Client) data(ctx context.Context, r request) (json.RawMessage, error) {
	r.header = http.Header{"Content-Type": {"application/json"}}
	answer, err := c.do(ctx, r)
	if err != nil || len(answer) == 0 {
		return json.RawMessage("null"), err
	}
	var envelope struct {
		Data json.RawMessage `json:"data"`
	}
	if err := json.Unmarshal(answer, &envelope); err != nil {
		return nil, fmt.Errorf("read the server's answer: %w", err)
	}
	return envelope.Data, nil
}
