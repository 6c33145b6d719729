package client

import (
	"context"
	"net/http"
	"net/url"
)

const rulesPath = "/config/v1/rules"

// RuleGroups returns all groups of recording and alerting rules, in YAML: lists of them
// by namespace.
func (c *Client) RuleGroups(ctx context.Context) ([]byte, error) {
	return c.rules(ctx, http.MethodGet, nil)
}

// SetRuleGroup makes or replaces the group that the text is, in YAML.
func (c *Client) SetRuleGroup(ctx context.Context, namespace string, text []byte) error {
	_, err := c.rules(ctx, http.MethodPost, text, namespace)
	return err
}

// DeleteRules removes one group of a namespace; all where the group is "".
func (c *Client) DeleteRules(ctx context.Context, namespace, group string) error {
	names := []string{namespace}
	if group != "" {
		names = append(names, group)
	}
	_, err := c.rules(ctx, http.MethodDelete, nil, names...)
	return err
}

// rules sends a request for what the names name. They may have slashes.
func (c *Client) rules(ctx context.Context, method string, body []byte, names ...string) ([]byte, error) {
	path := rulesPath
	for _, name := range names {
		path += "/" + url.PathEscape(name)
	}
	return c.do(ctx, request{method: method, path: path, body: body, header: http.Header{"Content-Type": {"application/yaml"}}})
}
