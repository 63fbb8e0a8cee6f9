package tokenendpoint

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"golang.org/x/oauth2"
)

// What an [*Error] is, by its class; test with errors.Is.
var (
	// ErrUnavailable: the endpoint cannot be reached, is failing or is throttling;
	// a later call may succeed.
	ErrUnavailable = errors.New("no token for now")
	// ErrRefused: the endpoint refused in a way that retrying does not fix.
	ErrRefused = errors.New("the token endpoint refuses for good")
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

// Error is a failed token call. It never holds the response's body, nor
// anything that was sent.
type Error struct {
	// Call is what was asked: the grant's type, or refresh_token.
	Call string
	// Host is the endpoint's host and port.
	Host string
	// Status is the HTTP status; 0 when there was no response.
	Status int
	// Code is the response's error code (RFC 6749, section 5.2), when it is one
	// by its form.
	Code string
	// Class is what the failure means.
	Class Class
	// RetryAfter is what the response asked for, uncapped; 0 if nothing.
	RetryAfter time.Duration
	// Sent reports whether the request may have reached the endpoint: what was
	// in it may be used up.
	Sent bool
	// Err is the cause where there is no status to speak for itself.
	Err error
}

// Error says what was called, and what came back.
func (e *Error) Error() string {
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
func (e *Error) Unwrap() error { return e.Err }

// Is matches ErrRefused or ErrUnavailable, by the class.
func (e *Error) Is(target error) bool {
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
func (e *Error) As(target any) bool {
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
