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

// Shape is what a response looked like, without any of its values, in words of
// closed lists and of the settings.
type Shape struct {
	// ContentType is the media type: one that is well known, or "another content
	// type"; empty: none, or not one by its form.
	ContentType string
	// JSON reports whether the body is JSON, or a form.
	JSON bool
	// Members are the names at its top level, at most 12, in alphabetical order: those
	// that consist of well-known words, as access_token does, or that the settings
	// name. Another name may be data.
	Members []string
	// Others is how many further members there are.
	Others int
}

// String returns the shape for people.
func (s Shape) String() string {
	kind := s.ContentType
	if kind == "" {
		kind = "no content type"
	}
	others := ""
	switch {
	case s.Others == 1:
		others = "1 other member"
	case s.Others > 1:
		others = fmt.Sprintf("%d other members", s.Others)
	}
	switch {
	case !s.JSON:
		return kind + ", not JSON"
	case len(s.Members) == 0 && others == "":
		return kind + ", no members"
	case len(s.Members) == 0:
		return kind + " with " + others
	case others != "":
		others = " and " + others
	}
	return kind + " with " + strings.Join(s.Members, ", ") + others
}

// Error is a failed token call. It never holds the response's body, nor any secret
// that was sent. What it prints of the response are words of closed lists and of the
// settings.
type Error struct {
	// Call is what was asked: the grant's type, or refresh_token.
	Call string
	// Method is the request's method, and Path the path of its URL, with variables
	// by their names.
	Method, Path string
	// Host is the endpoint's host and port, with variables by their names.
	Host string
	// Status is the HTTP status; 0 when there was no response.
	Status int
	// Code is the response's error code (RFC 6749, section 5.2), when it is one
	// by its form. It says what the failure means; [Error.ShownCode] is for showing.
	Code Code
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

	codeNamed  string // Code as the settings write it; "": they do not
	codeHidden bool   // Code is judged, and not shown
}

// ShownCode returns the error code for people, logs and metrics: one of a closed list
// (see [Code]), one that a matcher of the settings has for a value, or "other"; ""
// if there is none. A response with a status of success has one only if it has
// OAuth's shape of an error.
func (e *Error) ShownCode() string {
	switch {
	case e.Code == "", e.codeHidden:
		return ""
	case e.codeNamed != "":
		return e.codeNamed
	}
	return e.Code.String()
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
		switch code := e.ShownCode(); {
		case code == "":
		case code == otherCode || e.Code.Registered():
			fmt.Fprintf(&b, ", error %s", code)
		default:
			fmt.Fprintf(&b, ", error %s (not a registered code)", code)
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
// RetrieveError. Its Body stays empty, and its ErrorCode is [Error.ShownCode]: a
// RetrieveError prints both. A program that needs another code asks for Code.
func (e *Error) As(target any) bool {
	re, ok := target.(**oauth2.RetrieveError)
	if !ok || e.Status == 0 {
		return false
	}
	*re = &oauth2.RetrieveError{
		Response:  &http.Response{StatusCode: e.Status, Status: fmt.Sprintf("%d %s", e.Status, http.StatusText(e.Status))},
		ErrorCode: e.ShownCode(),
	}
	return true
}
