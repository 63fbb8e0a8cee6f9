package tokenendpoint

import (
	"context"
	"errors"
	"net/http"
	"time"
)

// Authorizer authorizes calls of an endpoint by the tokens of another source.
type Authorizer interface {
	// Name names the other source in errors.
	Name() string
	// Identity says what its tokens belong to, without a secret in it. It is part
	// of the identity of what the endpoint issues.
	Identity() string
	// Longest is how long a token call of the other source may take.
	Longest() time.Duration
	// Token returns a token for the values of vars that choose it.
	Token(ctx context.Context, vars Lookup) (Authorization, error)
	// Renew returns the token to use in place of one that the endpoint refused.
	Renew(ctx context.Context, vars Lookup, refused Authorization) (Authorization, error)
}

// Authorization is one token of an [Authorizer].
type Authorization interface {
	// AccessToken returns the token itself.
	AccessToken() string
	// HeaderValue returns the Authorization header's values.
	HeaderValue() []string
	// Accepted notes that the endpoint took the token.
	Accepted()
}

// AuthorizerError says that the source whose token authorizes the call has no
// token. It tells nothing about the endpoint, which was not called.
type AuthorizerError struct {
	// Source is the other source's name.
	Source string
	// Err is what the other source said.
	Err error
}

// Error names the source and the cause.
func (e *AuthorizerError) Error() string { return "token of source " + e.Source + ": " + e.Err.Error() }

// Unwrap returns the cause.
func (e *AuthorizerError) Unwrap() error { return e.Err }

// authorized makes a call with the other source's token. If the endpoint
// refuses that token, it is renewed and the call made once more.
func (ep *Endpoint) authorized(ctx context.Context, call string, params []Param, vars Lookup) (*Response, error) {
	token, err := ep.Bearer.Token(ctx, vars)
	if err != nil {
		return nil, &AuthorizerError{ep.Bearer.Name(), err}
	}
	res, err := ep.attempt(ctx, call, params, vars, token)
	if !refusedBearer(err) {
		acceptedBy(token, err)
		return res, err
	}
	renewed, renewErr := ep.Bearer.Renew(ctx, vars, token)
	if renewErr != nil {
		return nil, err
	}
	res, err = ep.attempt(ctx, call, params, vars, renewed)
	if !refusedBearer(err) {
		acceptedBy(renewed, err)
	}
	return res, err
}

// refusedBearer reports whether the endpoint refused the other source's token.
// That says nothing final about the token that was asked for.
func refusedBearer(err error) bool {
	var ee *Error
	if !errors.As(err, &ee) || ee.Status != http.StatusUnauthorized {
		return false
	}
	ee.Class = Transient
	return true
}

// acceptedBy notes that an endpoint which responded took the token.
func acceptedBy(t Authorization, err error) {
	var ee *Error
	if err == nil || (errors.As(err, &ee) && ee.Status != 0 && ee.Status < http.StatusInternalServerError) {
		t.Accepted()
	}
}

type beforeSendKey struct{}

// WithBeforeSend returns a context whose calls ask hook just before they send
// anything. An error of hook ends the call with nothing sent. What a call waits
// for before that, such as another source's token, may take longer than the
// caller's right to make the call lasts.
func WithBeforeSend(ctx context.Context, hook func() error) context.Context {
	return context.WithValue(ctx, beforeSendKey{}, hook)
}

func beforeSend(ctx context.Context) error {
	if hook, _ := ctx.Value(beforeSendKey{}).(func() error); hook != nil {
		return hook()
	}
	return nil
}
