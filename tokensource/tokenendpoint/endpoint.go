package tokenendpoint

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/caddy-bearer/caddy-bearer/internal/plainerror"
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
	Bearer Authorizer
	// Vars is asked at each attempt for the values of variables that are that
	// attempt's own, such as the time. A variable of the same name that [Endpoint.Call]
	// is given goes before it. Default: there are none.
	Vars func() Lookup `json:"-"`
	// Timeout bounds one call, from the dial to the last byte. Default: 10s.
	Timeout time.Duration
	// Response says how the response reads.
	Response ResponseOptions
	// Transport makes the call. Default: [NewTransport].
	Transport http.RoundTripper
}

// New returns an endpoint at a URL, to which a client authenticates by
// client_secret_basic (RFC 6749, section 2.3.1), or not at all if clientSecret
// is empty. Braces mean nothing in the arguments.
func New(url, clientID, clientSecret string) *Endpoint {
	return &Endpoint{URL: Literal(url), Client: Client{ID: Literal(clientID), Secret: Literal(clientSecret)}}
}

// HeaderField is a header of a token request.
type HeaderField struct {
	Name  string
	Value Template
}

// DefaultTimeout bounds a token call.
const DefaultTimeout = 10 * time.Second

// MaxResponseHeader is how long the headers of a response may be, in bytes. A
// transport that is not made by [NewTransport] should be given it.
const MaxResponseHeader = 64 << 10

// NewTransport returns a transport fit for token calls: a copy of
// http.DefaultTransport, or one with the same settings where a program has
// replaced that by something else. It keeps no connection: a call comes once in
// a token's life, by when an idle connection is likely dead, and net/http sends
// a GET again by itself when a reused connection breaks, which would spend a
// one-time code twice.
func NewTransport() *http.Transport {
	var t *http.Transport
	if d, ok := http.DefaultTransport.(*http.Transport); ok {
		t = d.Clone()
	} else {
		t = &http.Transport{
			Proxy:                 http.ProxyFromEnvironment,
			ForceAttemptHTTP2:     true,
			TLSHandshakeTimeout:   10 * time.Second,
			ExpectContinueTimeout: time.Second,
		}
	}
	t.DisableKeepAlives = true
	t.MaxResponseHeaderBytes = MaxResponseHeader
	return t
}

// defaultTransport is made at its first use: by then a program has put its own
// settings into http.DefaultTransport.
var defaultTransport = sync.OnceValue(NewTransport)

// maxResponse is how much of a response is read, in bytes, after decompression.
const maxResponse = 64 << 10

// Lookup returns the value of a template's variable, such as key.user; false
// when there is no such variable.
type Lookup func(name string) (value string, ok bool)

// Call sends the parameters, and the endpoint's own, and reads the response.
// call names it in errors: the grant's type, or refresh_token. vars gives the
// values of the templates' variables; nil: there are none. The error is an
// [*Error] or an [*AuthorizerError], or says what is wrong with the settings.
func (ep *Endpoint) Call(ctx context.Context, call string, params []Param, vars Lookup) (*Response, error) {
	if vars == nil {
		vars = func(string) (string, bool) { return "", false }
	}
	if ep.Bearer == nil {
		return ep.attempt(ctx, call, params, vars, nil)
	}
	return ep.authorized(ctx, call, params, vars)
}

// attempt makes one call. Every attempt is authenticated anew: assertions are
// good for one.
func (ep *Endpoint) attempt(ctx context.Context, call string, params []Param, vars Lookup, bearer Authorization) (*Response, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, ep.timeout(), errTimeout)
	defer cancel()

	req, secrets, err := ep.newRequest(ctx, params, ep.withOwnVars(vars), bearer)
	if err != nil {
		return nil, fmt.Errorf("%s call: %w", call, err)
	}
	fail := &Error{Call: call, Method: req.Method}
	fail.Host, fail.Path = ep.address()
	plain := func(err error) (error, bool) {
		err, sent := plainError(ctx, err)
		if fail.Host != req.URL.Host {
			err = withoutHost(err, fail.Host)
		}
		return err, sent
	}
	transport := ep.Transport
	if transport == nil {
		transport = defaultTransport()
	}
	if err := beforeSend(ctx); err != nil {
		return nil, fmt.Errorf("%s call: %w", call, err)
	}
	// A round trip, not a client's Do: redirects would carry the client secret to
	// wherever they point.
	res, err := transport.RoundTrip(req)
	if err != nil {
		fail.Err, fail.Sent = plain(err)
		return nil, fail
	}
	defer res.Body.Close()
	fail.Sent, fail.Status = true, res.StatusCode
	body, err := io.ReadAll(io.LimitReader(res.Body, maxResponse+1))
	if err == nil && len(body) > maxResponse {
		err = errTooLong
	}
	if err != nil {
		fail.Err, _ = plain(err)
		// what a refusal says is in its status; only a response is lost when cut
		fail.Class, fail.Meaning = ep.Response.classOf(res, nil, "")
		fail.RetryAfter = parseRetryAfter(res.Header.Get("Retry-After"), time.Now())
		return nil, fail
	}
	return ep.Response.read(fail, res, body, secrets)
}

func (ep *Endpoint) timeout() time.Duration { return cmp.Or(ep.Timeout, DefaultTimeout) }

// Longest is how long [Endpoint.Call] may take: its Timeout, or, where another
// source authorizes it, two attempts with a call of that source before each.
func (ep *Endpoint) Longest() time.Duration {
	if ep.Bearer == nil {
		return ep.timeout()
	}
	return 2 * (ep.timeout() + ep.Bearer.Longest())
}

// withOwnVars adds the variables of one attempt.
func (ep *Endpoint) withOwnVars(vars Lookup) Lookup {
	if ep.Vars == nil {
		return vars
	}
	own := ep.Vars()
	return func(name string) (string, bool) {
		if value, ok := vars(name); ok {
			return value, true
		}
		return own(name)
	}
}

var (
	errTimeout = errors.New("no complete response in time")
	errTooLong = fmt.Errorf("the response is longer than %d KiB", maxResponse>>10)
)

// plainError is err without what must not be told, see package plainerror. sent is
// false when the request surely never left.
func plainError(ctx context.Context, err error) (plain error, sent bool) {
	var (
		op          *net.OpError
		dns         *net.DNSError
		certificate *tls.CertificateVerificationError
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
	case errors.As(err, &dns), errors.As(err, &certificate):
		sent = false
	}
	return plainerror.Of(err), sent
}
