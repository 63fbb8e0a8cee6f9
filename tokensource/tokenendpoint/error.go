package tokenendpoint

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"golang.org/x/oauth2"
)

// What an [*Error] is, by its class; test with errors.Is.
var (
	// ErrUnavailable: the endpoint cannot be reached, is failing or is throttling;
	// a later call may succeed.
	ErrUnavailable = errors.New("no token for now")
	// ErrRefused: the endpoint refused in words. Sending the same again at once
	// does not help.
	ErrRefused = errors.New("the token endpoint refuses")
)

// Class says what an endpoint's failure means for the next attempt.
type Class int

const (
	// Transient failures are retried with back-off.
	Transient Class = iota
	// Throttled is transient, and holds for every key of the source.
	Throttled
	// Permanent failures are refusals: the endpoint understood, and said no. Of
	// what, the source decides.
	Permanent
)

// String returns transient, throttled or permanent.
func (c Class) String() string {
	return [...]string{"transient", "throttled", "permanent"}[c]
}

// Meaning is what an endpoint's settings say that a response means, see
// [ResponseOptions]. It goes before all that the response itself says.
type Meaning string

// The meanings, by the names of their options.
const (
	Unsaid         Meaning = ""
	ConsentLost    Meaning = "consent_lost"   // the refresh token or code is no good any more
	UserRefused    Meaning = "user_refused"   // the user that the call is made for is refused
	ClientRefused  Meaning = "client_refused" // the client, or the settings
	RefusedForGood Meaning = "permanent"      // the client by a grant, the refresh token by a refresh
)

// Shape is what a response looked like, without any of its values.
type Shape struct {
	// ContentType is the media type; empty: none, or not one by its form.
	ContentType string
	// JSON reports whether the body is JSON, or a form.
	JSON bool
	// Members are the names at its top level, at most 12, in alphabetical order.
	Members []string
}

// String returns the shape for people.
func (s Shape) String() string {
	kind := s.ContentType
	if kind == "" {
		kind = "no content type"
	}
	switch {
	case !s.JSON:
		return kind + ", not JSON"
	case len(s.Members) == 0:
		return kind + ", no members"
	}
	return kind + " with " + strings.Join(s.Members, ", ")
}

// Error is a failed token call. It never holds the response's body, nor
// anything that was sent.
type Error struct {
	// Call is what was asked: the grant's type, or refresh_token.
	Call string
	// Method is the request's method, and Path the path of its URL, with variables
	// by their names.
	Method, Path string
	// Host is the endpoint's host and port.
	Host string
	// Status is the HTTP status; 0 when there was no response.
	Status int
	// Code is the response's error code (RFC 6749, section 5.2), when it is one
	// by its form.
	Code string
	// Shape is what the response looked like.
	Shape Shape
	// Class is what the failure means.
	Class Class
	// Meaning is what the endpoint's settings say that it means.
	Meaning Meaning
	// RetryAfter is what the response asked for, at most an hour; 0 if nothing.
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
	fmt.Fprintf(&b, "%s call to %s%s: ", e.Call, e.Host, e.Path)
	if e.Method != "" && e.Method != http.MethodPost {
		b.Reset()
		fmt.Fprintf(&b, "%s call (%s) to %s%s: ", e.Call, e.Method, e.Host, e.Path)
	}
	if e.Status != 0 {
		fmt.Fprintf(&b, "status %d", e.Status)
		switch {
		case e.Code != "" && e.Registered():
			fmt.Fprintf(&b, ", error %s", e.Code)
		case e.Code != "":
			fmt.Fprintf(&b, ", error %s (not a registered code)", e.Code)
		}
		if e.Shape.ContentType != "" || e.Shape.JSON {
			fmt.Fprintf(&b, ", %s", e.Shape)
		}
		if e.Err != nil {
			b.WriteString(": ")
		}
	}
	if e.Err != nil {
		b.WriteString(e.Err.Error())
	}
	if e.Meaning != Unsaid {
		fmt.Fprintf(&b, " (%s by the settings)", e.Meaning)
	}
	return b.String()
}

// Registered reports whether Code is one that OAuth knows (RFC 6749, sections
// 4.1.2.1 and 5.2; RFC 8628, section 3.5; RFC 8707, section 2).
func (e *Error) Registered() bool {
	return slices.Contains(refusalCodes, e.Code) || slices.Contains(transientCodes, e.Code) || e.Code == "slow_down"
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
