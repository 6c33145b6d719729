package auth

import (
	"net/http"
	"time"
)

// Reasons of refusals: what metrics and logs call them. None repeats what was sent.
const (
	reasonNone     = "no_credential"
	reasonUnknown  = "unknown_credential"
	reasonKey      = "unknown_key"
	reasonRevoked  = "revoked_key"
	reasonExpired  = "expired"
	reasonToken    = "invalid_token"
	reasonIssuer   = "issuer_unavailable"
	reasonTenant   = "other_tenant"
	reasonMissing  = "missing_permission"
	reasonPlan     = "unknown_plan"
	reasonNeedsKey = "api_key_required"
	reasonRate     = "rate"
	reasonQuota    = "quota"
	reasonHeader   = "bad_tenant_header"
)

var reasons = []string{
	reasonNone, reasonUnknown, reasonKey, reasonRevoked, reasonExpired, reasonToken, reasonIssuer, reasonTenant, reasonMissing,
	reasonPlan, reasonNeedsKey, reasonRate, reasonQuota, reasonHeader,
}

// Refusal is why a request is not served.
type Refusal struct {
	Status  int    // of HTTP
	Message string // for who asked
	// RetryAfter is when it may be sent again; 0: never as it is.
	RetryAfter time.Duration

	reason string
}

func (r *Refusal) Error() string { return r.Message }

// Challenge is the value of WWW-Authenticate; "" where another credential would not help.
func (r *Refusal) Challenge() string {
	switch {
	case r.Status != http.StatusUnauthorized:
		return ""
	case r.reason == reasonNone:
		return `Bearer realm="quipu"`
	}
	return `Bearer realm="quipu", error="invalid_token"`
}

// unauthorized refuses a credential that is not valid.
func unauthorized(reason, message string) *Refusal {
	return &Refusal{Status: http.StatusUnauthorized, reason: reason, Message: message}
}

// forbidden refuses what a valid credential does not let do.
func forbidden(reason, message string) *Refusal {
	return &Refusal{Status: http.StatusForbidden, reason: reason, Message: message}
}
