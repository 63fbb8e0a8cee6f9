package tokensource

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"golang.org/x/oauth2"
)

// What a caller can be told; test with errors.Is.
var (
	// ErrAuthorizationRequired: only a person can bring a new token.
	ErrAuthorizationRequired = errors.New("a person must authorize first")
	// ErrUnavailable: the token endpoint (or the store) cannot be reached, is
	// failing or is throttling; later may do. See [RetryAfter].
	ErrUnavailable = errors.New("no token for now")
	// ErrRefused: the token endpoint refused in a way that a repetition does
	// not mend. It is remembered until the settings or the store change.
	ErrRefused = errors.New("the token endpoint refuses for good")
	// ErrUnreadable is an ErrRefused of this side: the stored token was written
	// by a newer release, or sealed with another key.
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
	// ErrClosed: the source is closed.
	ErrClosed = errors.New("the token source is closed")
)

// Class says what an endpoint's failure means for the next attempt.
type Class int

const (
	// Transient failures are retried with back-off.
	Transient Class = iota
	// Throttled is transient, and holds for every key of the source.
	Throttled
	// Permanent failures are remembered and not repeated.
	Permanent
)

// String returns transient, throttled or permanent.
func (c Class) String() string {
	return [...]string{"transient", "throttled", "permanent"}[c]
}

// EndpointError is a failed token call. It never holds the answer's body, nor
// anything that was sent.
type EndpointError struct {
	// Call is what was asked: the grant's type, or refresh_token.
	Call string
	// Host is the endpoint's host and port.
	Host string
	// Status is the HTTP status; 0 when there was no answer.
	Status int
	// Code is the answer's error code (RFC 6749, section 5.2), when it is one
	// by its form.
	Code string
	// Class is what the failure means.
	Class Class
	// RetryAfter is what the answer asked for, uncapped; 0 if nothing.
	RetryAfter time.Duration
	// Sent reports whether the request may have reached the endpoint: what was
	// in it may be used up.
	Sent bool
	// Err is the cause where there is no status to speak for itself.
	Err error
}

// Error says what was called, and what came back.
func (e *EndpointError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s call to %s: ", e.Call, e.Host)
	if e.Status != 0 {
		fmt.Fprintf(&b, "status %d", e.Status)
		if e.Code != "" {
			fmt.Fprintf(&b, ", error %s", e.Code)
		}
		if e.Err != nil {
			b.WriteString(": ")
		}
	}
	if e.Err != nil {
		b.WriteString(e.Err.Error())
	}
	fmt.Fprintf(&b, " (%s)", e.Class)
	return b.String()
}

// Unwrap returns the cause.
func (e *EndpointError) Unwrap() error { return e.Err }

// Is matches ErrRefused or ErrUnavailable, by the class.
func (e *EndpointError) Is(target error) bool {
	switch target {
	case ErrRefused:
		return e.Class == Permanent
	case ErrUnavailable:
		return e.Class != Permanent
	}
	return false
}

// As makes the failure readable for programs that know golang.org/x/oauth2's
// RetrieveError. Its Body stays empty.
func (e *EndpointError) As(target any) bool {
	re, ok := target.(**oauth2.RetrieveError)
	if !ok || e.Status == 0 {
		return false
	}
	*re = &oauth2.RetrieveError{
		Response:  &http.Response{StatusCode: e.Status, Status: fmt.Sprintf("%d %s", e.Status, http.StatusText(e.Status))},
		ErrorCode: e.Code,
	}
	return true
}

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
	var ee *EndpointError
	if errors.As(err, &ee) && ee.RetryAfter > 0 {
		return min(ee.RetryAfter, retryAfterMax)
	}
	return 0
}

// Result names an outcome for metrics and spans, from a closed list: ok,
// authorization_required, refused, breaker_open, code_refused, throttled,
// same_token, too_soon, canceled, unavailable.
func Result(err error) string {
	var ee *EndpointError
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
	case errors.As(err, &ee) && ee.Class == Throttled:
		return "throttled"
	case errors.Is(err, context.Canceled):
		return "canceled"
	}
	return "unavailable"
}

// ErrorCode returns the endpoint's error code in err, or "".
func ErrorCode(err error) string {
	var ee *EndpointError
	if errors.As(err, &ee) {
		return ee.Code
	}
	return ""
}
