package client

import (
	"context"
	"crypto/tls"
	"errors"
	"net/http"
	"time"
)

// Retry repeats what fails for a reason that passes. The waits double from
// First up to Max; a wait that the server asked for is kept when it is longer.
type Retry struct {
	// For bounds the time from the first failure to the start of the last try.
	For        time.Duration
	First, Max time.Duration
	// Notify, if not nil, is told of each failure and of the wait that follows.
	Notify func(err error, wait time.Duration)
	// Now and Sleep are the clock; nil is the real one. Sleep returns early,
	// with an error, when ctx ends.
	Now   func() time.Time
	Sleep func(ctx context.Context, d time.Duration) error
}

// Do calls f until it succeeds, fails for good, or has failed for too long; it
// returns the error of the last call.
func (r Retry) Do(ctx context.Context, f func() error) error {
	now, sleep := r.Now, r.Sleep
	if now == nil {
		now = time.Now
	}
	if sleep == nil {
		sleep = sleepReal
	}
	wait := r.First
	var failing time.Time
	for {
		err := f()
		if err == nil || ctx.Err() != nil || !Passes(err) {
			return err
		}
		if failing.IsZero() {
			failing = now()
		}
		pause := wait
		if status := (*StatusError)(nil); errors.As(err, &status) {
			pause = max(pause, status.RetryAfter)
		}
		if now().Add(pause).Sub(failing) > r.For {
			return err
		}
		if r.Notify != nil {
			r.Notify(err, pause)
		}
		if sleep(ctx, pause) != nil {
			return err
		}
		wait = min(2*wait, r.Max)
	}
}

// Passes reports whether the same request may succeed later: there was no
// answer, or the server, or a proxy before it, was too busy to give one.
func Passes(err error) bool {
	if certificate := (*tls.CertificateVerificationError)(nil); errors.As(err, &certificate) {
		return false
	}
	if status := (*StatusError)(nil); errors.As(err, &status) {
		switch status.Code {
		case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
			return true
		}
		return false
	}
	unreachable := (*UnreachableError)(nil)
	return errors.As(err, &unreachable)
}

func sleepReal(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
