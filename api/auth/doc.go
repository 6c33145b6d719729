// Package auth says who makes a request, and what they may do: by API keys of its own, by
// tokens (JWT) of OpenID providers, and by the users of --web.config.file. It also keeps
// the log of who did what.
//
// Files:
//   - permission.go: the permissions, and what a route needs
//   - subject.go: who asks, carried by the request's context
//   - authenticator.go: Authenticator, which a request is shown to; what runs beside it
//   - credential.go: where a request may carry a credential
//   - config.go: the section auth of the configuration
//   - key.go, keys.go: a key and its text; the keys of a directory, in @auth/keys.json
//   - usage.go: plans: what keys have used, in @auth/usage.json
//   - manage.go: who may make which keys
//   - token.go: what is checked of a token, and what its claims say
//   - issuer.go, keyset.go: a provider's keys, read again and again; which token one fits
//   - cache.go: tokens that were verified
//   - users.go: users of --web.config.file
//   - refusal.go: why a request is not served
//   - audit.go, gate.go: the audit log; how much of it one source of refusals may fill
//
// Locks: Authenticator.mu before Keys.mu before ledger.mu before usage.mu. A request takes
// usage.mu, and tokenCache.mu to read, alone.
//
// Invariants:
//
//	I1: a request's tenant is that of its credential. A header chooses one only where the
//	    credential is the operator's.
//	I2: of a key's text only its hash is stored or held; of a token likewise.
//	I3: no log, metric or file says anything that a request carried as a credential, nor a
//	    claim of a token that is not verified.
//	I4: caches are bounded, and hold only what was found to be right: whoever has no
//	    credential makes nobody's be forgotten.
//	I5: a token is verified by a key of the issuer that it names, by an algorithm for that
//	    kind of key; neither is ever chosen by its header alone.
//	I6: what is asked of an issuer is bounded in time, size and how often.
package auth
