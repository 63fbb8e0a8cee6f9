package tokensource

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

// Endpoint is one place that issues tokens, with what has to be said to it
// and how its answers read. The zero value of every field but URL is what
// RFC 6749 describes.
type Endpoint struct {
	// URL of the endpoint. Required.
	URL Template
	// Method is POST or GET. Default: POST.
	Method string
	// ParamsIn is where the parameters go. Default: ParamsForm, or ParamsQuery
	// with GET.
	ParamsIn ParamsIn
	// Params are added to the grant's; one with a name that the grant has too
	// takes its place.
	Params []Param
	// Rename sends parameters under other names.
	Rename map[string]string
	// Omit leaves parameters out.
	Omit []string
	// Header is added to the request; it may replace the defaults
	// Accept: application/json and Content-Type.
	Header []HeaderField
	// Client is who asks.
	Client Client
	// Auth says how the client proves it. Default: ClientSecretBasic, or
	// ClientNone for a client without a secret.
	Auth ClientAuth
	// Bearer authorizes the call by another source's token, for the same
	// key's values. When the endpoint answers 401, that token is renewed and
	// the call made once more.
	Bearer *Source
	// Timeout bounds one call, from the dial to the last byte. Default: 10s.
	Timeout time.Duration
	// Response says how the answer reads.
	Response Response
	// Transport makes the call. Default: [NewTransport].
	Transport http.RoundTripper
}

// HeaderField is a header of a token request.
type HeaderField struct {
	Name  string
	Value Template
}

// DefaultTimeout bounds a token call.
const DefaultTimeout = 10 * time.Second

// NewTransport returns a transport fit for token calls. It keeps no
// connection: a call comes once in a token's life, by when an idle connection
// is likely dead, and net/http sends a GET again by itself when a reused
// connection breaks, which would spend a one-time code twice.
func NewTransport() *http.Transport {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.DisableKeepAlives = true
	t.MaxResponseHeaderBytes = 64 << 10
	return t
}

var defaultTransport = NewTransport()

// maxAnswer is what is read of an answer, after decompression.
const maxAnswer = 64 << 10

// Call sends the parameters, and the endpoint's own, and reads the answer.
// call names it in errors: the grant's type, or refresh_token. The error is
// an [*EndpointError], or says what is wrong with the settings.
func (ep *Endpoint) Call(ctx context.Context, call string, params []Param, v Vars) (*Answer, error) {
	if ep.Bearer == nil {
		return ep.attempt(ctx, call, params, v, nil)
	}
	key, err := ep.Bearer.keyFrom(v)
	if err != nil {
		return nil, err
	}
	t, err := ep.Bearer.Token(ctx, key)
	if err != nil {
		return nil, &chainError{ep.Bearer.Name(), err}
	}
	a, err := ep.attempt(ctx, call, params, v, t)
	if !refusedBearer(err) {
		acceptedBy(t, err)
		return a, err
	}
	fresh, renewErr := ep.Bearer.Renew(ctx, key, t)
	if renewErr != nil {
		return nil, err
	}
	a, err = ep.attempt(ctx, call, params, v, fresh)
	if !refusedBearer(err) {
		acceptedBy(fresh, err)
	}
	return a, err
}

// refusedBearer reports whether the endpoint refused the other source's token,
// which says nothing final about this one.
func refusedBearer(err error) bool {
	var ee *EndpointError
	if !errors.As(err, &ee) || ee.Status != http.StatusUnauthorized {
		return false
	}
	ee.Class = Transient
	return true
}

// acceptedBy notes that an endpoint which answered took the token.
func acceptedBy(t *Token, err error) {
	var ee *EndpointError
	if err == nil || (errors.As(err, &ee) && ee.Status != 0 && ee.Status < http.StatusInternalServerError) {
		t.Accepted()
	}
}

// chainError: the source whose token authorizes the call has none.
type chainError struct {
	source string
	err    error
}

func (e *chainError) Error() string { return "token of source " + e.source + ": " + e.err.Error() }
func (e *chainError) Unwrap() error { return e.err }
func (e *chainError) final() bool   { return final(e.err) }

// keyFrom picks this source's key out of another's: the values of the same
// names.
func (s *Source) keyFrom(v Vars) (Key, error) {
	values := make([]string, 0, len(s.cfg.KeyNames))
	for _, name := range s.cfg.KeyNames {
		value, ok := v.Lookup("key." + name)
		if !ok {
			return Key{}, fmt.Errorf("source %s has the key %q, which the source that uses it has not", s.cfg.Name, name)
		}
		values = append(values, value)
	}
	return NewKey(values...), nil
}

// attempt makes one call. Every attempt is authenticated anew: assertions are
// good for one.
func (ep *Endpoint) attempt(ctx context.Context, call string, params []Param, v Vars, bearer *Token) (*Answer, error) {
	timeout := ep.Timeout
	setDefault(&timeout, DefaultTimeout)
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, errTimeout)
	defer cancel()

	req, secrets, err := ep.newRequest(ctx, params, v, bearer)
	if err != nil {
		return nil, fmt.Errorf("%s call: %w", call, err)
	}
	fail := &EndpointError{Call: call, Host: req.URL.Host}
	transport := ep.Transport
	if transport == nil {
		transport = defaultTransport
	}
	if err := maySend(ctx); err != nil {
		return nil, fmt.Errorf("%s call: %w", call, err)
	}
	// A round trip, not a client's Do: redirects would carry the client secret to
	// wherever they point.
	res, err := transport.RoundTrip(req)
	if err != nil {
		fail.Err, fail.Sent = plainError(ctx, err)
		return nil, fail
	}
	defer res.Body.Close()
	fail.Sent, fail.Status = true, res.StatusCode
	body, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer+1))
	if err == nil && len(body) > maxAnswer {
		err = errTooLong
	}
	if err != nil {
		fail.Err, _ = plainError(ctx, err)
		// what a refusal says is in its status; only an answer is lost when cut
		fail.Class = ep.Response.classOf(res, nil, "")
		fail.RetryAfter = parseRetryAfter(res.Header.Get("Retry-After"), time.Now())
		return nil, fail
	}
	return ep.Response.read(fail, res, body, secrets)
}

var (
	errTimeout = errors.New("no complete answer in time")
	errTooLong = fmt.Errorf("the answer is longer than %d KiB", maxAnswer>>10)
)

// plainError is err without what must not be told: net/http's errors quote
// what the other side sent, and that may be what we sent. So only errors that
// are known to hold addresses, names and reasons are told as they are. sent is
// false when the request surely never left.
func plainError(ctx context.Context, err error) (plain error, sent bool) {
	var (
		op          *net.OpError
		dns         *net.DNSError
		certificate *tls.CertificateVerificationError
		alert       tls.AlertError
	)
	sent = !(errors.As(err, &op) && op.Op == "dial")
	switch {
	case errors.Is(err, errTimeout), errors.Is(err, context.DeadlineExceeded) && context.Cause(ctx) == errTimeout:
		return errTimeout, sent
	case errors.Is(err, context.Canceled):
		return context.Canceled, sent
	case errors.Is(err, context.DeadlineExceeded):
		return context.DeadlineExceeded, sent
	case errors.Is(err, errTooLong):
		return errTooLong, sent
	case errors.As(err, &dns):
		return dns, false
	case errors.As(err, &certificate):
		return certificate, false
	case errors.As(err, &alert):
		return fmt.Errorf("TLS: %w", alert), sent
	case errors.As(err, &op):
		return op, sent
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return errors.New("the connection was closed before the answer was complete"), sent
	}
	return fmt.Errorf("the answer is not well-formed HTTP, or not of the expected kind (%T)", err), sent
}
