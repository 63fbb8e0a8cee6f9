package bearer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/caddy-bearer/caddy-bearer/internal/plainhttp"
	"github.com/caddy-bearer/caddy-bearer/tokensource"
)

// Transport is an [http.RoundTripper] that puts a valid token of a
// [tokensource.Source] into every request. Credentials that the request
// brings are removed, in any spelling.
//
// When the API refuses the token ([AuthFailure]), what is known of the token and
// of the request decides: a token that worked is renewed and the request sent
// once more, one that is new is given time to become known, and a request that
// no new token cures does not cost one each time. The caller sees the refusal
// only if none of that helped, with the reason in the header Proxy-Status. A
// circuit breaker for each key opens when refusals go on and nothing works with
// its tokens.
//
// Nothing is ever sent without a token: where there is none, RoundTrip returns
// an [*Error]. Errors of Base are returned as they are, save one: when a body
// was read and its second sending failed, the error no longer says what kind of
// failure it was, so that nobody sends the request again without its body.
//
// A Transport may be used by several goroutines. Its fields must not be changed
// after the first request.
type Transport struct {
	// Where the tokens come from. Required.
	Source *tokensource.Source

	// What sends the requests. Default: a copy of [http.DefaultTransport] that
	// keeps more idle connections to one host, or [http.DefaultTransport] itself
	// where a program has replaced it with another type.
	Base http.RoundTripper

	// Key says whose token a request gets. It must not change the request. An
	// error of it, and a key without exactly one value for each of the source's
	// key names, become an [*Error] with [ErrKey]. Default: the key that
	// [WithKey] put into the request's context; none if the source has no keys.
	Key func(*http.Request) (tokensource.Key, error)

	// What is put into the request, and where. Default: the header
	// Authorization with "Bearer {token}", also when none of these holds {token}.
	Inject []Injection

	// Further headers that are removed from the request in every spelling, such
	// as those that Key reads. Authorization, Proxy-Authorization and the headers
	// in Inject always are.
	Remove []string

	// How many bytes of a request's body are remembered so that it can be sent
	// again; a request with a longer body is not replayed. NoBody is none.
	// Default: 64 KiB.
	ReplayBody int64

	// For how long after it was obtained a token that the API has never accepted
	// may not be known there yet. Within that time a refused request waits, up to
	// 0.3, 1 and 2 seconds, and is sent again with the same token, or at once with
	// the one before if that still works. The waits together are bounded by the
	// source's MaxWait. At most a minute; negative: a new token is not given time.
	// Default: 5s.
	Settle time.Duration

	// What counts as the API's refusal of a token. Default: status 401.
	AuthFailure AuthFailure

	// The circuit breakers at the API. Transports to the same API may share them.
	// Default: breakers of its own, with default settings.
	Breakers *Breakers

	// Hosts to which tokens may go over plain http, besides loopback. Names
	// without port. Default: none.
	AllowHTTP []string

	// Observer is told what becomes of requests. Default: nobody.
	Observer Observer

	once     sync.Once
	err      error // what is wrong with the settings
	base     http.RoundTripper
	injector injector
	failure  refusal
	breakers *Breakers
	replay   int64
	settle   time.Duration
	observer Observer
}

// NoBody as [Transport.ReplayBody] remembers no body. Requests without a body
// are replayed all the same.
const NoBody int64 = -1

const defaultReplayBody = 64 << 10

// MaxSettle bounds [Transport.Settle]: for so long the token before is kept.
const MaxSettle = time.Minute

const defaultSettle = 5 * time.Second

// Init checks the settings and gets ready. It calls nobody. RoundTrip does it
// by itself; a program that calls Init learns of a mistake before the first
// request. The error is the same at every call.
func (t *Transport) Init() error {
	t.once.Do(t.init)
	return t.err
}

func (t *Transport) init() {
	if t.Source == nil {
		t.err = errors.New("no Source")
		return
	}
	if t.Settle > MaxSettle {
		t.err = fmt.Errorf("field Settle is %v: expected at most %v", t.Settle, MaxSettle)
		return
	}
	if t.failure, t.err = newRefusal(&t.AuthFailure); t.err != nil {
		return
	}
	if t.injector, t.err = newInjector(t.Inject, t.Source.KeyNames(), t.Remove); t.err != nil {
		return
	}
	t.Source.Keep(t.injector.members...)
	if t.base = t.Base; t.base == nil {
		t.base = defaultBase()
	}
	if t.breakers = t.Breakers; t.breakers == nil {
		t.breakers = NewBreakers(tokensource.BreakerSettings{}, nil)
	}
	if t.observer = t.Observer; t.observer == nil {
		t.observer = nobody{}
	}
	t.replay = cmp.Or(t.ReplayBody, defaultReplayBody)
	t.settle = max(cmp.Or(t.Settle, defaultSettle), 0)
}

// defaultBase is net/http's default with room for many requests to one API.
// net/http keeps two idle connections to a host. With more requests than that
// at once, connections are closed and opened for nothing, which over TLS costs
// more than the request.
func defaultBase() http.RoundTripper {
	std, ok := http.DefaultTransport.(*http.Transport)
	if !ok { // replaced, by tracing or by a test
		return http.DefaultTransport
	}
	base := std.Clone()
	base.MaxIdleConnsPerHost = max(base.MaxIdleConnsPerHost, base.MaxIdleConns)
	return base
}

// RoundTrip sends the request with a token, once or, if the API refuses it, up to
// five times. It does not modify
// the request, and closes its body also when it returns an error.
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	if err := t.Init(); err != nil {
		return nil, t.notSent(req, tokensource.Key{}, ErrSettings, err)
	}
	if err := t.checkURL(req); err != nil {
		return nil, t.notSent(req, tokensource.Key{}, ErrInsecure, err)
	}
	key, values, err := t.key(req)
	if err != nil {
		return nil, t.notSent(req, tokensource.Key{}, ErrKey, err)
	}
	return t.Send(req, key, values)
}

// checkURL refuses to send the token where it would be seen by others.
func (t *Transport) checkURL(req *http.Request) error {
	switch {
	case req.URL == nil:
		return errors.New("the request has no URL")
	case req.URL.Scheme != "https" && !plainhttp.Allowed(req.URL.Hostname(), t.AllowHTTP):
		return fmt.Errorf("%s to %s: expected https, a loopback address, or the host's name in AllowHTTP", req.URL.Scheme, req.URL.Host)
	}
	// http.Client removes Authorization when a redirect leads to another host.
	// It must not come back here: where an API sends its clients for a download
	// is often not its own.
	if r := req.Response; r != nil && r.Request != nil && r.Request.URL != nil && r.Request.URL.Host != req.URL.Host {
		return fmt.Errorf("%s redirects to another host, %s", r.Request.URL.Host, req.URL.Host)
	}
	return nil
}

// Send is RoundTrip for a program that has itself checked where the request
// goes, and read its key: neither the URL nor [Transport.Key] is looked at.
// values are the key's, as [tokensource.NewKey] took them; nil: they are taken
// from the key when they are needed.
func (t *Transport) Send(req *http.Request, key tokensource.Key, values []string) (*http.Response, error) {
	if err := t.Init(); err != nil {
		return nil, t.notSent(req, key, ErrSettings, err)
	}
	ctx := req.Context()
	token, err := t.Source.Token(ctx, key)
	if err != nil {
		return nil, t.noToken(ctx, req, key, err)
	}
	renewable := t.Source.CanRenew(token)
	allowed, err := t.breakers.allow(key, token, renewable)
	if err != nil {
		if !renewable {
			err = fmt.Errorf("%w: %w", tokensource.ErrAuthorizationRequired, err)
		}
		return nil, t.notSent(req, key, nil, err)
	}
	if values == nil && t.injector.usesKey {
		values = key.Values()
	}
	a := attempt{t: t, req: req, key: key, values: values, body: captureBody(req, t.replay)}
	t.injector.captureTrailer(req, a.body)
	res, verdict, err := a.run(token)
	allowed(verdict, a.blamed)
	return res, err
}

// noToken is the error of a request for which there is no token. A caller that
// is gone gets its own error, as with any transport.
func (t *Transport) noToken(ctx context.Context, req *http.Request, key tokensource.Key, err error) error {
	if ctxErr := ctx.Err(); ctxErr != nil && errors.Is(err, ctxErr) {
		closeBody(req)
		t.observer.Request(ResultError)
		return err
	}
	return t.notSent(req, key, nil, err)
}

// notSent is the error of a request that is not sent at all.
func (t *Transport) notSent(req *http.Request, key tokensource.Key, why, err error) error {
	closeBody(req)
	if t.observer != nil { // else the settings are wrong
		t.observer.Request(ResultNotSent)
	}
	return t.newError(key, why, err)
}

func (t *Transport) newError(key tokensource.Key, why, err error) error {
	e := &Error{Key: key, Why: why, Err: err}
	if t.Source != nil {
		e.Source = t.Source.Name()
	}
	return e
}

func closeBody(req *http.Request) {
	if req.Body != nil {
		_ = req.Body.Close()
	}
}

// CloseIdleConnections closes Base's idle connections, if it can. It is what
// [http.Client.CloseIdleConnections] calls.
func (t *Transport) CloseIdleConnections() {
	if t.Init() != nil {
		return
	}
	if c, ok := t.base.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}

// Interface guard
var _ http.RoundTripper = (*Transport)(nil)
