package auth

import (
	"net/http"
	"strings"
)

// Headers that carry credentials, beside Authorization. Grafana sends X-ID-Token when it
// forwards who is logged in.
const (
	keyHeader   = "X-Api-Key" // as net/http spells it
	tokenHeader = "X-Id-Token"
)

// credential is what a request carries to say who makes it.
type credential struct {
	text string // a key or a token
	// user and password are those of Basic authentication.
	user, password string
	basic          bool
}

// credentialOf is the first credential in the headers: that of X-API-Key before that of
// Authorization, because a proxy in between, or --web.config.file, may need the latter
// for itself. ok is false where there is none.
func credentialOf(h http.Header) (c credential, ok bool, wrong *Refusal) {
	if values := h[keyHeader]; len(values) > 0 {
		if len(values) > 1 {
			return c, true, unauthorized(reasonUnknown, "the request has more than one header X-API-Key")
		}
		return credential{text: values[0]}, true, nil
	}
	values := h["Authorization"]
	switch {
	case len(values) > 1:
		return c, true, unauthorized(reasonUnknown, "the request has more than one header Authorization")
	case len(values) == 1:
		scheme, rest, _ := strings.Cut(values[0], " ")
		switch {
		case strings.EqualFold(scheme, "Bearer"):
			return credential{text: strings.TrimSpace(rest)}, true, nil
		case strings.EqualFold(scheme, "Basic"):
			return basicCredential(values[0])
		}
		return c, true, unauthorized(reasonUnknown, "the header Authorization is neither Bearer nor Basic")
	}
	if values := h[tokenHeader]; len(values) == 1 {
		return credential{text: values[0]}, true, nil
	}
	return c, false, nil
}

// basicCredential reads a password that is a key or a token, or, without a password, a
// user's name that is one, as Segment's clients send it.
func basicCredential(header string) (credential, bool, *Refusal) {
	user, password, ok := (&http.Request{Header: http.Header{"Authorization": {header}}}).BasicAuth()
	if !ok {
		return credential{}, true, unauthorized(reasonUnknown, "the header Authorization is no Basic authentication")
	}
	c := credential{text: password, user: user, password: password, basic: true}
	if password == "" {
		c.text = user
	}
	return c, true, nil
}

// Carries reports whether headers have a credential, right or wrong.
func Carries(h http.Header) bool {
	return len(h[keyHeader]) > 0 || len(h["Authorization"]) > 0 || len(h[tokenHeader]) > 0
}
