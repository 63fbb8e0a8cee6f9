package tokensource

import (
	"context"
	"errors"
	"time"

	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenendpoint"
)

// What a caller can be told; test with errors.Is.
var (
	// ErrAuthorizationRequired: only a person can bring a new token.
	ErrAuthorizationRequired = errors.New("a person must authorize first")
	// ErrUnavailable: the token endpoint (or the store) cannot be reached, is
	// failing or is throttling; later may do. See [RetryAfter].
	ErrUnavailable = tokenendpoint.ErrUnavailable
	// ErrRefused: the token endpoint refuses the client or the key, see [FaultOf].
	// It is asked again by and by; a caller need not wait for that.
	ErrRefused = tokenendpoint.ErrRefused
	// ErrUnreadable is an ErrRefused of this side: the stored token was written
	// by a newer release, or sealed with another key, or is not sealed though it
	// should be.
	ErrUnreadable = errors.New("the stored token cannot be read")
	// ErrBreakerOpen: the token endpoint failed so often that it is left alone.
	ErrBreakerOpen = errors.New("the token endpoint's circuit breaker is open")
	// ErrCodeRefused: an authorization code was refused, or was used before.
	ErrCodeRefused = errors.New("the authorization code is refused")
	// ErrSameToken: a forced renewal brought the very token that was refused.
	ErrSameToken = errors.New("the token endpoint issued the refused token again")
	// ErrTooSoon: a forced renewal was asked for within [Config.MinInterval]
	// of the last one, for a token that the API never accepted.
	ErrTooSoon = errors.New("the token was renewed only just now")
	// ErrKey: the key has not one value for each of [Config.KeyNames].
	ErrKey = errors.New("the key does not fit the source")
	// ErrClosed: the source is closed.
	ErrClosed = errors.New("the token source is closed")
)

// delayedError is a failure with the time to its next attempt.
type delayedError struct {
	err   error
	after time.Duration
}

func (e *delayedError) Error() string { return e.err.Error() }
func (e *delayedError) Unwrap() error { return e.err }

// RetryAfter returns how long to wait before a source that failed with err
// tries again; 0 when err does not say.
func RetryAfter(err error) time.Duration {
	var d *delayedError
	if errors.As(err, &d) {
		return d.after
	}
	var ee *tokenendpoint.Error
	if errors.As(err, &ee) && ee.RetryAfter > 0 {
		return min(ee.RetryAfter, retryAfterMax)
	}
	return 0
}

// Result names an outcome for metrics and spans, from a closed list: ok,
// authorization_required, refused, breaker_open, code_refused, throttled,
// same_token, too_soon, canceled, unavailable.
func Result(err error) string {
	var ee *tokenendpoint.Error
	switch {
	case err == nil:
		return "ok"
	case errors.Is(err, ErrCodeRefused):
		return "code_refused"
	case errors.Is(err, ErrAuthorizationRequired):
		return "authorization_required"
	case errors.Is(err, ErrBreakerOpen):
		return "breaker_open"
	case errors.Is(err, ErrSameToken):
		return "same_token"
	case errors.Is(err, ErrTooSoon):
		return "too_soon"
	case errors.Is(err, ErrRefused):
		return "refused"
	case errors.As(err, &ee) && ee.Class == tokenendpoint.Throttled:
		return "throttled"
	case errors.Is(err, context.Canceled):
		return "canceled"
	}
	return "unavailable"
}

// ErrorCode returns the endpoint's error code in err as it may be shown, see
// [tokenendpoint.Error.ShownCode]; "" if there is none.
func ErrorCode(err error) string {
	var ee *tokenendpoint.Error
	if errors.As(err, &ee) {
		return ee.ShownCode()
	}
	return ""
}
