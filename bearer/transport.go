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
// When the API refuses the token ([AuthFailure]), the next step depends on what is
// known of the token and of the request:
//
//   - A token that worked before is renewed, and the request is sent again.
//   - A new token gets time, because the API may not know it yet.
//   - A request that no new token cures does not cause a renewal each time.
//
// If none of that helps, the caller gets the refusal, with the reason in the
// header Proxy-Status. Each key has a circuit breaker. It opens when the API keeps
// refusing and accepts none of the key's tokens.
//
// No request is ever sent without a token: if there is none, RoundTrip returns an
// [*Error]. Errors of Base keep their types, but not their texts: net/http quotes what
// the API has sent, which may be the token. There is one exception. If the body was
// read and a replay failed, the error hides its type, so that nobody sends the request
// again without its body.
//
// The token is also removed from the response's headers, if the API repeats it there.
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

	// Key says whose token a request gets. It must not change the request. If it
	// returns an error, or a key that does not have exactly one value for each of
	// the source's key names, RoundTrip returns an [*Error] with [ErrKey]. Default:
	// the key that [WithKey] has put into the request's context; none if the source
	// has no keys.
	Key func(*http.Request) (tokensource.Key, error)

	// What is put into the request, and where. Default: the header
	// Authorization with "Bearer {token}", also when none of these holds {token}.
	Inject []Injection

	// Upstream says where requests go, where that depends on the token or the key.
	// Default: where the request's URL says.
	Upstream *Upstream

	// Further headers that are removed from the request in every spelling, such as
	// those that Key reads. Authorization, Proxy-Authorization and the headers in
	// Inject are always removed.
	Remove []string

	// How many bytes of a request's body are remembered so that it can be sent
	// again; a request with a longer body is not replayed. NoBody is none.
	// Default: 64 KiB.
	ReplayBody int64

	// How long the API may not know a new token yet, counted from when the source
	// received it. If the API refuses a token of that age which it has never
	// accepted, the request is sent again: at once with the previous token, if that
	// still works, else with the same token after waits of up to 0.3, 1 and 2
	// seconds. The waits together last no longer than the source's MaxWait. At most
	// a minute. Negative: a new token gets no time. Default: 5s.
	Settle time.Duration

	// What counts as the API's refusal of a token. Default: status 401.
	AuthFailure AuthFailure

	// The circuit breakers at the API. Transports to the same API may share them.
	// Default: breakers of its own, with default settings.
	Breakers *Breakers

	// Hosts to which tokens may go over plain http, besides loopback. Names
	// without port. Default: none.
	AllowHTTP []string

	// Observer is told the outcome of requests. Default: none.
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

// MaxSettle bounds [Transport.Settle]. The source keeps the previous token for so
// long.
const MaxSettle = time.Minute

const defaultSettle = 5 * time.Second

// Init checks the settings and prepares the transport. It makes no network call.
// RoundTrip calls it by itself; a program that calls Init learns of a mistake
// before the first request. Every call returns the same error.
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
	if t.Upstream != nil {
		to, err := newTarget(t.Upstream, t.Source.KeyNames(), t.AllowHTTP)
		if err != nil {
			t.err = fmt.Errorf("upstream: %w", err)
			return
		}
		t.injector.goTo(to)
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

// defaultBase is net/http's default with more idle connections to one host.
// net/http keeps two. With more than two requests at once, it would close and open
// connections all the time, which over TLS costs more than the request.
func defaultBase() http.RoundTripper {
	std, ok := http.DefaultTransport.(*http.Transport)
	if !ok { // replaced, by tracing or by a test
		return http.DefaultTransport
	}
	base := std.Clone()
	base.MaxIdleConnsPerHost = max(base.MaxIdleConnsPerHost, base.MaxIdleConns)
	return base
}

// RoundTrip sends the request with a token. If the API refuses the token, it may
// send the request again, up to five times in all. It does not modify the request.
// It always closes the body, also when it returns an error.
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
	return t.Send(req, &Call{Key: key, Values: values})
}

// checkURL refuses to send the token to where others could see it.
func (t *Transport) checkURL(req *http.Request) error {
	switch {
	case req.URL == nil:
		return errors.New("the request has no URL")
	case t.Upstream != nil: // checked with the token
		return nil
	case req.URL.Scheme != "https" && !plainhttp.Allowed(req.URL.Hostname(), t.AllowHTTP):
		return fmt.Errorf("%s to %s: expected https, a loopback address, or the host's name in AllowHTTP", req.URL.Scheme, req.URL.Host)
	}
	// When a redirect leads to another host, http.Client removes Authorization. The
	// transport must not add it again: APIs often redirect to a file server that is
	// not theirs.
	if r := req.Response; r != nil && r.Request != nil && r.Request.URL != nil && r.Request.URL.Host != req.URL.Host {
		return fmt.Errorf("%s redirects to another host, %s", r.Request.URL.Host, req.URL.Host)
	}
	return nil
}

// Call is one request through [Transport.Send]: what the caller knows of it, and what
// Send reports.
type Call struct {
	// Key says whose token the request gets.
	Key tokensource.Key
	// Values are the values that were given to [tokensource.NewKey]. If they are nil,
	// Send takes them from the key when it needs them.
	Values []string
	// Own: the request is the caller's own and Send may change it, which saves a copy.
	Own bool

	// Waited: there was no usable token at once, so the request waited for one.
	Waited bool
	// Sendings is how often the request was sent.
	Sendings int
	// Latency is the time from the last sending until the header of its response.
	// 0: there was no response.
	Latency time.Duration
	// Replay is what came of a token's refusal. Empty: the API refused none.
	Replay Replay
}

// Send is RoundTrip for a program that has checked the request's URL and read its
// key by itself. It looks neither at the URL nor at [Transport.Key].
func (t *Transport) Send(req *http.Request, call *Call) (*http.Response, error) {
	key := call.Key
	if err := t.Init(); err != nil {
		return nil, t.notSent(req, key, ErrSettings, err)
	}
	ctx := req.Context()
	token, waited, err := t.Source.TokenOrWait(ctx, key)
	call.Waited = waited
	if err != nil {
		return nil, t.noToken(ctx, req, key, err)
	}
	// The breaker is asked only now, because it depends on the token: a new one that
	// a person has brought closes it.
	renewable := t.Source.CanRenew(token)
	allowed, err := t.breakers.allow(key, token, renewable)
	if err != nil {
		// While this breaker is open, only a person can help: say so.
		if !renewable {
			err = fmt.Errorf("%w: %w", tokensource.ErrAuthorizationRequired, err)
		}
		return nil, t.notSent(req, key, nil, err)
	}
	values := call.Values
	if values == nil && t.injector.usesKey {
		values = key.Values()
	}
	a := attempt{t: t, req: req, key: key, values: values, own: call.Own && t.injector.inPlace, body: captureBody(req, t.replay)}
	t.injector.captureTrailer(req, a.body)
	res, verdict, err := a.run(token)
	allowed(verdict, a.blamed)
	call.Sendings, call.Latency, call.Replay = a.sendings, a.latency, a.replay
	return res, err
}

// noToken returns the error of a request for which there is no token. If the
// caller's own context has ended, the error is the context's, as with any
// transport.
func (t *Transport) noToken(ctx context.Context, req *http.Request, key tokensource.Key, err error) error {
	if ctxErr := ctx.Err(); ctxErr != nil && errors.Is(err, ctxErr) {
		closeBody(req)
		t.observer.Request(ResultError)
		return err
	}
	return t.notSent(req, key, nil, err)
}

// notSent returns the error of a request that is not sent at all. The body is
// closed all the same, as http.RoundTripper demands.
func (t *Transport) notSent(req *http.Request, key tokensource.Key, why, err error) error {
	closeBody(req)
	if t.observer != nil { // nil if the settings are wrong, and Init ended early
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

// CloseIdleConnections closes Base's idle connections, if Base can do that.
// [http.Client.CloseIdleConnections] calls it.
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
