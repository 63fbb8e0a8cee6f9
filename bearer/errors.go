package bearer

import (
	"errors"

	"github.com/caddy-bearer/caddy-bearer/tokensource"
)

// Why a request was not sent, besides the errors of package tokensource; test
// with errors.Is.
var (
	// ErrSettings: the transport's fields are wrong.
	ErrSettings = errors.New("the transport's settings are wrong")
	// ErrInsecure: the token would go out in the clear, or to a host that the
	// API redirects to.
	ErrInsecure = errors.New("the token must not go there")
	// ErrKey: the request does not say whose token it needs.
	ErrKey = errors.New("no key")
	// ErrNotInjected: the token cannot be put into the request.
	ErrNotInjected = errors.New("the token cannot be put into the request")
)

// Error says that a request was not sent, because there was no token for it or
// the token could not be used. It never holds a token, a secret or a value of
// the key.
type Error struct {
	// Source is the token source's name.
	Source string
	// Key says whose token was needed; zero if that is not known.
	Key tokensource.Key
	// Why is [ErrSettings], [ErrInsecure], [ErrKey] or [ErrNotInjected]; nil when
	// there is no token, or the API's breaker is open.
	Why error
	// Err is the cause. Without Why it wraps one of tokensource's errors, and
	// [tokensource.RetryAfter] tells when to try again.
	Err error
}

// Error names the source and the cause.
func (e *Error) Error() string {
	text := "token source " + e.Source + ": "
	if e.Why != nil {
		text += e.Why.Error() + ": "
	}
	return text + e.Err.Error()
}

// Unwrap returns Why, if there is one, and Err.
func (e *Error) Unwrap() []error {
	if e.Why == nil {
		return []error{e.Err}
	}
	return []error{e.Why, e.Err}
}
