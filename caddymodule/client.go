package caddymodule

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddy-bearer/caddy-bearer/bearer"
)

// Client is what the handlers of outgoing calls and the transport have in common: it
// checks the caller, reads the key, and sends the request with a valid token of a
// [TokenSource]. The app's own credentials are removed.
//
// When the API refuses the token (auth_failure), the next step depends on what is
// known of the token and of the request. A token that worked before is renewed,
// and the request is sent again, if its body can be. A new token gets time,
// because the API may not know it yet (settle). A request that no new token cures
// does not cause a renewal each time. If none of that helps, the app gets the
// refusal unchanged, with the reason in Proxy-Status. Each key has a circuit
// breaker. It opens when the API keeps refusing and accepts none of the key's
// tokens.
//
// The client's own responses are application/problem+json. No request is ever
// sent without a token.
//
// All options of Caddy's http transport are options of a client, too. Three
// defaults differ:
//
//   - It keeps 256 idle connections for each upstream, not 32.
//   - It does not ask the API for compression if the app does not.
//   - If the app asks for 100 (Continue), it waits a second for the API's
//     response before it sends the body (expect_continue_timeout). If the API
//     refuses in that time, even a long body can be sent again.
type Client struct {
	reverseproxy.HTTPTransport

	// The token source's name. Required.
	Source string `json:"source"`

	// What is put into the request, and where. Default: the header Authorization
	// with "Bearer {token}". The default applies, too, if none of these contains
	// {token}.
	Inject []Injection `json:"inject,omitempty"`

	// How much of a request's body is remembered so that it can be sent again. A
	// request with a longer body is not replayed. 0: no body is remembered.
	// Default: 64KiB.
	ReplayBody *int64 `json:"replay_body,omitempty"`

	// How long the API may not know a new token yet, counted from when the source
	// received it. If the API refuses a token of that age which it has never
	// accepted, the request is sent again: at once with the previous token, if that
	// still works, else with the same token after waits of up to 0.3, 1 and 2
	// seconds, together no longer than max_wait. At most 1m. Negative: a new token
	// gets no time. Default: 5s.
	Settle caddy.Duration `json:"settle,omitempty"`

	// The addresses and ranges that may call, compared with the connection's peer.
	// Callers on a unix socket always may: the socket's file mode decides. Default:
	// the loopback ranges, 127.0.0.0/8 and ::1.
	Callers []string `json:"callers,omitempty"`

	// The names, besides loopback's own, under which a caller on this host may
	// address the sidecar. Any other name is taken for DNS rebinding.
	Hosts []string `json:"hosts,omitempty"`

	// What counts as the API's refusal of a token. Default: status 401.
	AuthFailure *AuthFailure `json:"auth_failure,omitempty"`

	// The circuit breaker at the API, one for each key.
	Breaker *Breaker `json:"breaker,omitempty"`

	// Hosts to which tokens may go over plain http, besides loopback.
	AllowHTTP []string `json:"allow_http,omitempty"`

	// Keep the headers in which reverse_proxy describes the caller: X-Forwarded-For,
	// X-Forwarded-Host, X-Forwarded-Proto and Via. They name this host's loopback
	// addresses, and some providers refuse or redirect requests that have them.
	// Default: they are removed.
	Forwarded bool `json:"forwarded,omitempty"`

	// Where the Caddyfile says it.
	Origin *Origin `json:"origin,omitempty"`

	source *pooledSource
	keys   keyReader
	engine *bearer.Transport
	// dial replaces how connections are made; nil: Caddy's own way.
	dial dialFunc
	// server is the one that the client belongs to, which it must not call; nil: no
	// matter.
	server *caddyhttp.Server
	// giveBreakers gives the breakers back; nil: there are none yet.
	giveBreakers func()
	// namesErrors: a request without a response is counted by its problem, and not as an
	// error.
	namesErrors bool
	callers     callerCheck
	requests    requestCounters
	replays     requestCounters
	log         *zap.Logger
}

// Caddy keeps 32 idle connections for each upstream. With more requests than that
// at once, it would close and open connections all the time, which over TLS costs
// more than the request.
const defaultIdleConnsPerHost = 256

// Without a timeout, net/http sends a body at once, even if the app has asked for
// 100 (Continue). Then a part of the body has been read when the API refuses
// because of the headers, and a long body cannot be sent again.
const defaultExpectContinueTimeout = time.Second

// provision sets up the client for a module, which within names in errors. It makes
// no network call. The steps are the module's own; they come before the breakers and
// the connections.
func (c *Client) provision(ctx caddy.Context, within string, steps ...func(caddy.Context) error) error {
	c.log = ctx.Logger()
	var err error
	if c.source, c.keys, err = findSource(ctx, within, c.Source, c.Origin); err != nil {
		return err
	}
	steps = append([]func(caddy.Context) error{c.provisionEngine, c.provisionChecks}, steps...)
	for _, step := range append(steps, c.provisionHTTP) {
		if err := step(ctx); err != nil {
			return err
		}
	}
	c.requests = newCounters(requestsTotal, c.Source, append(problemNames(), resultOK, resultRefused, resultError)...)
	c.replays = newCounters(replaysTotal, c.Source, replayResults...)
	if err := c.engine.Init(); err != nil {
		return c.Origin.errorf("", "%s %s: %w", within, c.Source, err)
	}
	return nil
}

// provisionHTTP sets up the embedded HTTPTransport. If its TLS settings name files,
// the engine sends through the newest one that was made of them.
func (c *Client) provisionHTTP(ctx caddy.Context) error {
	if c.KeepAlive == nil {
		c.KeepAlive = new(reverseproxy.KeepAlive)
	}
	if c.KeepAlive.MaxIdleConnsPerHost == 0 {
		c.KeepAlive.MaxIdleConnsPerHost = defaultIdleConnsPerHost
	}
	if c.ExpectContinueTimeout == 0 {
		c.ExpectContinueTimeout = caddy.Duration(defaultExpectContinueTimeout)
	}
	if c.Compression == nil {
		// net/http would ask for gzip by itself and unpack it, so the API's response
		// would not pass through unchanged.
		c.Compression = new(bool)
	}
	if len(tlsFiles(c.TLS)) == 0 {
		c.engine.Base = tellsDials{&c.HTTPTransport}
		return c.provisionTransport(ctx, &c.HTTPTransport)
	}
	settings := copyTransport(&c.HTTPTransport)
	live, err := newLiveTLS(ctx, c.TLS, func(ctx caddy.Context) (*reverseproxy.HTTPTransport, error) {
		h := copyTransport(settings)
		return h, c.provisionTransport(ctx, h)
	})
	if err != nil {
		return err
	}
	c.HTTPTransport = *live.get()
	c.engine.Base = tellsDials{liveRoundTripper[*reverseproxy.HTTPTransport]{live}}
	keep := func() bool { return true }
	go live.run(ctx, ctx.Slogger(), func(old *reverseproxy.HTTPTransport) {
		old.Transport.CloseIdleConnections()
		if !slices.Contains(settings.Versions, "3") { // Cleanup would end HTTP/3 requests that are under way
			keep()
		}
		newest := live.get()
		keep = context.AfterFunc(ctx, func() { _ = newest.Cleanup() })
	})
	return nil
}

// provisionTransport makes Caddy's transport of its settings.
func (c *Client) provisionTransport(ctx caddy.Context, h *reverseproxy.HTTPTransport) error {
	if err := h.Provision(ctx); err != nil {
		return err
	}
	switch {
	case c.dial != nil:
		h.Transport.DialContext = c.dial
	case c.server != nil:
		h.Transport.DialContext = notItself(c.server, h.Transport.DialContext)
	}
	return nil
}

// tellsDials marks Caddy's DialError as harmless: its text holds an address and a
// reason. Package bearer cannot know that, and would not tell it.
type tellsDials struct{ http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (rt tellsDials) RoundTrip(req *http.Request) (*http.Response, error) {
	res, err := rt.RoundTripper.RoundTrip(req)
	if err == nil {
		return res, nil
	}
	var de reverseproxy.DialError // only here, for it is allocated
	if errors.As(err, &de) {
		err = dialFailed{de}
	}
	return res, err
}

type dialFailed struct{ reverseproxy.DialError }

// Harmless implements plainerror.Harmless.
func (dialFailed) Harmless() {}

// Unwrap returns the DialError, for which Caddy's load balancing looks.
func (e dialFailed) Unwrap() error { return e.DialError }

// forwardedHeaders are what reverse_proxy adds to a request about its caller.
var forwardedHeaders = []string{"X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "Via"}

// provisionEngine translates the settings for package bearer. The engine's Base is
// the embedded HTTPTransport, see provisionHTTP, so all of Caddy's transport options
// apply to each sending.
func (c *Client) provisionEngine(caddy.Context) error {
	inject, err := resolveInjections(c.Inject, c.keys.names, c.Origin)
	if err != nil {
		return err
	}
	remove := c.keys.headers
	if c.source.logins != nil {
		remove = append(slices.Clip(remove), loginBindingHeader)
	}
	if !c.Forwarded {
		remove = append(slices.Clip(remove), forwardedHeaders...)
	}
	c.engine = &bearer.Transport{
		Source: c.source.Source, Inject: inject, Remove: remove,
		Settle: time.Duration(c.Settle), Observer: (*clientCounters)(c),
	}
	if c.AuthFailure != nil {
		c.engine.AuthFailure = *c.AuthFailure
	}
	if c.ReplayBody != nil {
		if c.engine.ReplayBody = *c.ReplayBody; c.engine.ReplayBody == 0 {
			c.engine.ReplayBody = bearer.NoBody
		}
	}
	return nil
}

func (c *Client) provisionChecks(ctx caddy.Context) (err error) {
	if c.callers.ranges == nil { // a route of bearer_intercept has those of all its routes
		if c.callers, err = provisionCallers(ctx, c.Origin, c.Callers, c.Hosts); err != nil {
			return c.Origin.errorf("callers", "%w", err)
		}
	}
	if unverified(c.TLS) {
		warn(ctx, c.Origin, "tls_insecure_skip_verify", noVerification)
	}
	if err := c.Breaker.check(c.Origin); err != nil {
		return err
	}
	if c.ReplayBody != nil && *c.ReplayBody < 0 {
		return c.Origin.errorf("replay_body", "%d: expected a size of 0 or more", *c.ReplayBody)
	}
	if time.Duration(c.Settle) > bearer.MaxSettle {
		return c.Origin.errorf("settle", "%v: expected at most %v", time.Duration(c.Settle), bearer.MaxSettle)
	}
	if err := c.engine.AuthFailure.Check(); err != nil {
		return c.Origin.errorf("auth_failure", "%w", err)
	}
	return nil
}

// takeBreakers takes the breakers for an API. They belong to the source and not to
// the client, so a reload does not reset them. Clients of the same upstreams share
// them.
func (c *Client) takeBreakers(upstreams string) {
	c.engine.Breakers, c.giveBreakers = c.source.live.take(upstreams, c.Breaker.settings())
}

// Cleanup closes idle connections. It also runs if Provision has failed.
func (c *Client) Cleanup() error {
	if c.giveBreakers != nil {
		c.giveBreakers()
	}
	return c.HTTPTransport.Cleanup()
}

// roundTrip checks the caller and lets the engine send the request. It returns an
// error only if the upstream connection fails. Everything that concerns the token
// becomes a response: another upstream would not change it, and the app has to learn
// the cause. The caller counts itself among the source's users meanwhile, because a
// reload does not wait for requests.
func (c *Client) roundTrip(req *http.Request, call *bearer.Call) (*http.Response, error) {
	out, body := fromApp(req)
	defer body.ask() // before the response is written, also the sidecar's own
	if p := c.callers.check(req); p != nil {
		return c.respond(out, p), nil
	}
	var err error
	if call.Key, call.Values, err = c.keys.read(req); err != nil {
		return c.respond(out, keyProblem(err)), nil
	}
	res, err := c.engine.Send(out, call)
	if err != nil {
		if failed := body.failure(); failed != nil {
			err = &appBodyError{err, failed}
		}
		return c.notSent(out, call.Values, err)
	}
	return res, nil
}

// notSent turns the engine's error into a problem. Other errors come from the
// upstream connection or from the caller's context, and stay errors.
func (c *Client) notSent(req *http.Request, values []string, err error) (*http.Response, error) {
	var e *bearer.Error
	switch {
	case !errors.As(err, &e):
		return nil, err
	case errors.Is(err, bearer.ErrNotInjected):
		return c.respond(req, notInjected(e.Err)), nil
	}
	return c.respond(req, c.problemOf(req, e.Err, values)), nil
}

// respond makes a response of the sidecar's own, and counts it.
func (c *Client) respond(req *http.Request, p *problem) *http.Response {
	c.requests.count(p.name)
	if x := exchangeOf(req); x != nil {
		x.problem = p.name
	}
	if entry := c.log.Check(zapcore.DebugLevel, "the sidecar responds itself"); entry != nil {
		entry.Write(zap.String("source", c.Source), zap.String("problem", p.name), zap.String("detail", p.detail))
	}
	return p.response(req)
}
