package caddymodule

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddy-bearer/caddy-bearer/bearer"
	"github.com/caddy-bearer/caddy-bearer/internal/plainerror"
	"github.com/caddy-bearer/caddy-bearer/internal/plainhttp"
)

func init() {
	caddy.RegisterModule(new(Transport))
}

// Transport is a reverse proxy transport that puts a valid token of a
// [TokenSource] into every request. The app's own credentials are removed.
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
// The transport's own responses are application/problem+json. No request is ever
// sent without a token.
//
// All options of Caddy's http transport are options of this one, too. Three
// defaults differ:
//
//   - It keeps 256 idle connections for each upstream, not 32.
//   - It does not ask the API for compression if the app does not.
//   - If the app asks for 100 (Continue), it waits a second for the API's
//     response before it sends the body (expect_continue_timeout). If the API
//     refuses in that time, even a long body can be sent again.
type Transport struct {
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
	// schemeKnown: all upstreams were checked when the config was loaded, so no
	// request has to be checked for plain http.
	schemeKnown bool
	keys        keyReader
	engine      *bearer.Transport
	// giveBreakers gives the breakers back; nil: there are none yet.
	giveBreakers func()
	callers      callerCheck
	requests     requestCounters
	replays      requestCounters
	log          *zap.Logger
}

// CaddyModule returns the Caddy module information.
func (*Transport) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.reverse_proxy.transport.bearer",
		New: func() caddy.Module { return new(Transport) },
	}
}

// Caddy keeps 32 idle connections for each upstream. With more requests than that
// at once, it would close and open connections all the time, which over TLS costs
// more than the request.
const defaultIdleConnsPerHost = 256

// Without a timeout, net/http sends a body at once, even if the app has asked for
// 100 (Continue). Then a part of the body has been read when the API refuses
// because of the headers, and a long body cannot be sent again.
const defaultExpectContinueTimeout = time.Second

// Provision sets up t. It makes no network call.
func (t *Transport) Provision(ctx caddy.Context) error {
	t.log = ctx.Logger()
	var err error
	if t.source, t.keys, err = findSource(ctx, "transport bearer", t.Source, t.Origin); err != nil {
		return err
	}
	for _, step := range []func(caddy.Context) error{
		t.provisionEngine, t.provisionChecks, t.checkUpstreams, t.provisionBreakers, t.provisionHTTP,
	} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	t.requests = newCounters(requestsTotal, t.Source, append(problemNames(), resultOK, resultRefused, resultError)...)
	t.replays = newCounters(replaysTotal, t.Source, replayResults...)
	if err := t.engine.Init(); err != nil {
		return t.Origin.errorf("", "transport bearer %s: %w", t.Source, err)
	}
	return nil
}

// provisionHTTP sets up the embedded HTTPTransport. If its TLS settings name files,
// the engine sends through the newest one that was made of them.
func (t *Transport) provisionHTTP(ctx caddy.Context) error {
	if t.KeepAlive == nil {
		t.KeepAlive = new(reverseproxy.KeepAlive)
	}
	if t.KeepAlive.MaxIdleConnsPerHost == 0 {
		t.KeepAlive.MaxIdleConnsPerHost = defaultIdleConnsPerHost
	}
	if t.ExpectContinueTimeout == 0 {
		t.ExpectContinueTimeout = caddy.Duration(defaultExpectContinueTimeout)
	}
	if t.Compression == nil {
		// net/http would ask for gzip by itself and unpack it, so the API's response
		// would not pass through unchanged.
		t.Compression = new(bool)
	}
	if len(tlsFiles(t.TLS)) == 0 {
		t.engine.Base = tellsDials{&t.HTTPTransport}
		return t.HTTPTransport.Provision(ctx)
	}
	settings := copyTransport(&t.HTTPTransport)
	live, err := newLiveTLS(ctx, t.TLS, func(ctx caddy.Context) (*reverseproxy.HTTPTransport, error) {
		h := copyTransport(settings)
		return h, h.Provision(ctx)
	})
	if err != nil {
		return err
	}
	t.HTTPTransport = *live.get()
	t.engine.Base = tellsDials{liveRoundTripper[*reverseproxy.HTTPTransport]{live}}
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
func (t *Transport) provisionEngine(caddy.Context) error {
	inject, err := resolveInjections(t.Inject, t.keys.names, t.Origin)
	if err != nil {
		return err
	}
	remove := t.keys.headers
	if t.source.logins != nil {
		remove = append(slices.Clip(remove), loginBindingHeader)
	}
	if !t.Forwarded {
		remove = append(slices.Clip(remove), forwardedHeaders...)
	}
	t.engine = &bearer.Transport{
		Source: t.source.Source, Inject: inject, Remove: remove,
		Settle: time.Duration(t.Settle), Observer: (*transportCounters)(t),
	}
	if t.AuthFailure != nil {
		t.engine.AuthFailure = *t.AuthFailure
	}
	if t.ReplayBody != nil {
		if t.engine.ReplayBody = *t.ReplayBody; t.engine.ReplayBody == 0 {
			t.engine.ReplayBody = bearer.NoBody
		}
	}
	return nil
}

func (t *Transport) provisionChecks(ctx caddy.Context) (err error) {
	if t.callers, err = provisionCallers(ctx, t.Origin, t.Callers, t.Hosts); err != nil {
		return t.Origin.errorf("callers", "%w", err)
	}
	if unverified(t.TLS) {
		warn(ctx, t.Origin, "tls_insecure_skip_verify", noVerification)
	}
	if err := t.Breaker.check(t.Origin); err != nil {
		return err
	}
	if t.ReplayBody != nil && *t.ReplayBody < 0 {
		return t.Origin.errorf("replay_body", "%d: expected a size of 0 or more", *t.ReplayBody)
	}
	if time.Duration(t.Settle) > bearer.MaxSettle {
		return t.Origin.errorf("settle", "%v: expected at most %v", time.Duration(t.Settle), bearer.MaxSettle)
	}
	if err := t.engine.AuthFailure.Check(); err != nil {
		return t.Origin.errorf("auth_failure", "%w", err)
	}
	return nil
}

// provisionBreakers takes the breakers for this API. They belong to the source and
// not to the transport, so a reload does not reset them. Transports to the same
// upstreams share them.
func (t *Transport) provisionBreakers(ctx caddy.Context) error {
	upstreams := ""
	if h := handlerOf(ctx); h != nil {
		for _, u := range h.Upstreams {
			upstreams += u.Dial + " "
		}
	}
	t.engine.Breakers, t.giveBreakers = t.source.live.take(upstreams, t.Breaker.settings())
	return nil
}

// Cleanup closes idle connections. It also runs if Provision has failed.
func (t *Transport) Cleanup() error {
	if t.giveBreakers != nil {
		t.giveBreakers()
	}
	return t.HTTPTransport.Cleanup()
}

// RoundTrip checks the caller and lets the engine send the request. It returns an
// error only if the upstream connection fails, because Caddy then tries another
// upstream or answers 502. Everything that concerns the token becomes a response:
// another upstream would not change it, and the app has to learn the cause.
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	// A reload does not wait for requests, so the count keeps the source open.
	t.source.users.Add(1)
	defer t.source.unuse()
	if p := t.callers.check(req); p != nil {
		return t.respond(req, p), nil
	}
	if p := t.checkScheme(req); p != nil {
		return t.respond(req, p), nil
	}
	key, values, err := t.keys.read(req)
	if err != nil {
		return t.respond(req, keyProblem(err)), nil
	}
	out, body := fromApp(req)
	res, err := t.engine.Send(out, key, values)
	body.ask()
	if err != nil {
		return t.notSent(out, values, err)
	}
	return res, nil
}

// notSent turns the engine's error into a problem. Other errors come from the
// upstream connection or from the caller's context, and stay errors.
func (t *Transport) notSent(req *http.Request, values []string, err error) (*http.Response, error) {
	var e *bearer.Error
	switch {
	case !errors.As(err, &e):
		return nil, err
	case errors.Is(err, bearer.ErrNotInjected):
		return t.respond(req, notInjected(e.Err)), nil
	}
	return t.respond(req, t.problemOf(req, e.Err, values)), nil
}

// respond makes a response of the sidecar's own, and counts it.
func (t *Transport) respond(req *http.Request, p *problem) *http.Response {
	t.requests.count(p.name)
	if c := t.log.Check(zapcore.DebugLevel, "the sidecar responds itself"); c != nil {
		c.Write(zap.String("source", t.Source), zap.String("problem", p.name), zap.String("detail", p.detail))
	}
	return p.response(req)
}

// isHealthCheck reports whether a request is one of Caddy's active health checks.
// Those come from Caddy itself, and over no connection. The context does have the
// server, because Caddy makes it while it provisions the server.
func isHealthCheck(req *http.Request) bool {
	return req.RemoteAddr == "" && req.Context().Value(http.LocalAddrContextKey) == nil && req.Context().Value(caddyhttp.ConnCtxKey) == nil
}

// handlerOf returns the reverse proxy that a transport belongs to. That is the
// nearest one, because one reverse proxy may be inside the handle_response of
// another.
func handlerOf(ctx caddy.Context) *reverseproxy.Handler {
	for _, mod := range slices.Backward(ctx.Modules()) {
		if h, ok := mod.(*reverseproxy.Handler); ok {
			return h
		}
	}
	return nil
}

// plainHTTP reports whether requests to an upstream's port go out without TLS.
func (t *Transport) plainHTTP(port string) bool {
	return !t.TLSEnabled() || slices.Contains(t.TLS.ExceptPorts, port)
}

// checkUpstreams refuses a config that would send tokens to another host over plain
// http. An upstream that is known only with the request is checked by checkScheme.
func (t *Transport) checkUpstreams(ctx caddy.Context) error {
	h := handlerOf(ctx)
	if h == nil {
		return nil
	}
	t.schemeKnown = h.DynamicUpstreamsRaw == nil && len(h.Upstreams) > 0 && h.HealthChecks == nil
	for _, u := range h.Upstreams {
		if err := t.checkUpstream(u.Dial, 0); err != nil {
			return err
		}
	}
	if h.HealthChecks == nil || h.HealthChecks.Active == nil {
		return nil
	}
	return t.checkHealthChecks(h.HealthChecks.Active, h.Upstreams)
}

// checkHealthChecks refuses health checks that take a token where requests would not.
func (t *Transport) checkHealthChecks(active *reverseproxy.ActiveHealthChecks, upstreams reverseproxy.UpstreamPool) error {
	if active.FollowRedirects {
		return t.Origin.errorf("", "transport bearer %s: health_follow_redirects: a redirect of a health check could take the token to another host: expected a health_uri that does not redirect", t.Source)
	}
	if active.Upstream != "" {
		if !slices.ContainsFunc(upstreams, func(u *reverseproxy.Upstream) bool { return sameHost(u.Dial, active.Upstream) }) {
			return t.Origin.errorf("", "transport bearer %s: health_upstream %s: the token would go to a host that requests do not go to: expected one of the upstreams' hosts", t.Source, active.Upstream)
		}
		return t.checkUpstream(active.Upstream, 0)
	}
	for _, u := range upstreams {
		if err := t.checkUpstream(u.Dial, active.Port); err != nil {
			return err
		}
	}
	return nil
}

func sameHost(dial, other string) bool {
	a, errA := caddy.ParseNetworkAddress(dial)
	b, errB := caddy.ParseNetworkAddress(other)
	return errA == nil && errB == nil && a.Network == b.Network && strings.EqualFold(a.Host, b.Host)
}

// checkUpstream refuses an address to which tokens would go over plain http. port
// replaces the address's, unless it is 0.
func (t *Transport) checkUpstream(dial string, port int) error {
	addr, err := caddy.ParseNetworkAddress(dial)
	if err != nil || hasPlaceholder(dial) { // known only with the request
		t.schemeKnown = false
		return nil
	}
	if port == 0 {
		port = int(addr.StartPort) //nolint:gosec // a port
	}
	if addr.IsUnixNetwork() || !t.plainHTTP(strconv.Itoa(port)) || plainhttp.Allowed(addr.Host, t.AllowHTTP) {
		return nil
	}
	return t.Origin.errorf("", "transport bearer %s: upstream %s: http would send tokens in the clear: expected https, a loopback address, or the host's name in allow_http", t.Source, dial)
}

// checkScheme refuses plain http to another host if the upstream is known only with
// the request: a dynamic upstream, one with a placeholder, or a health check's. It
// looks at the address that is dialed, and not at the URL alone, whose host may be
// another.
func (t *Transport) checkScheme(req *http.Request) *problem {
	if t.schemeKnown || (req.URL.Scheme != "http" && !t.plainHTTP(req.URL.Port())) {
		return nil
	}
	host := req.URL.Hostname()
	if info, ok := reverseproxy.GetDialInfo(req.Context()); ok {
		if strings.HasPrefix(info.Network, "unix") {
			return nil
		}
		host = info.Host
	}
	if plainhttp.Allowed(host, t.AllowHTTP) {
		return nil
	}
	return &problem{
		name: problemUpstreamInsecure, status: http.StatusBadGateway,
		detail: "the upstream is plain http on another host: expected https, or its name in allow_http",
	}
}

// Interface guards
var (
	_ caddy.Provisioner                                = (*Transport)(nil)
	_ caddy.CleanerUpper                               = (*Transport)(nil)
	_ http.RoundTripper                                = (*Transport)(nil)
	_ plainerror.Harmless                              = dialFailed{}
	_ bearer.Observer                                  = (*transportCounters)(nil)
	_ reverseproxy.TLSTransport                        = (*Transport)(nil)
	_ reverseproxy.H2CTransport                        = (*Transport)(nil)
	_ reverseproxy.HealthCheckSchemeOverriderTransport = (*Transport)(nil)
	_ reverseproxy.ProxyProtocolTransport              = (*Transport)(nil)
	_ reverseproxy.RequestHeaderOpsTransport           = (*Transport)(nil)
)
