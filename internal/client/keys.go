package client

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"time"
)

// Key is an API key of the server's.
type Key struct {
	ID          string    `json:"id"`
	Tenant      string    `json:"tenant"` // "*": an operator's
	Name        string    `json:"name"`
	Permissions []string  `json:"permissions"`
	Plan        string    `json:"plan,omitempty"`
	State       string    `json:"state"`
	Created     time.Time `json:"created"`
	Expires     time.Time `json:"expires,omitzero"`
	Revoked     time.Time `json:"revoked,omitzero"`
	Used        KeyUse    `json:"used"`
	// Text is the key itself, known only of one that was just made.
	Text string `json:"key,omitempty"`
}

// KeyUse is what a key has used on a day of UTC.
type KeyUse struct {
	Day      string    `json:"day"`
	Events   int64     `json:"events"`
	Requests int64     `json:"requests"`
	Last     time.Time `json:"last,omitzero"`
}

// KeyWanted is what a key is made of; no tenant is that of who asks.
type KeyWanted struct {
	Tenant      string    `json:"tenant,omitempty"`
	Name        string    `json:"name,omitempty"`
	Permissions []string  `json:"permissions"`
	Plan        string    `json:"plan,omitempty"`
	Expires     time.Time `json:"expires,omitzero"`
}

const keysPath = "/api/v1/admin/keys"

// CreateKey makes a key. Its text is in the answer and nowhere else.
func (c *Client) CreateKey(ctx context.Context, k KeyWanted) (Key, error) {
	body, err := json.Marshal(k)
	if err != nil {
		return Key{}, fmt.Errorf("create a key: %w", err)
	}
	var out Key
	return out, c.keys(ctx, request{method: http.MethodPost, path: keysPath, body: body}, &out)
}

// Keys lists the keys that who asks may see, of one tenant unless that is "".
func (c *Client) Keys(ctx context.Context, tenant string) ([]Key, error) {
	var out []Key
	r := request{method: http.MethodGet, path: keysPath}
	if tenant != "" {
		r.query = url.Values{"tenant": {tenant}}
	}
	return out, c.keys(ctx, r, &out)
}

// RevokeKey ends a key.
func (c *Client) RevokeKey(ctx context.Context, id string) (Key, error) {
	var out Key
	return out, c.keys(ctx, request{method: http.MethodDelete, path: keysPath + "/" + url.PathEscape(id)}, &out)
}

func (c *Client) keys(ctx context.Context, r request, data any) error {
	body, err := c.do(ctx, r)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(body, &struct {
		Data any `json:"data"`
	}{data}); err != nil {
		return fmt.Errorf("read the answer of %s: %w", r.path, err)
	}
	return nil
}
