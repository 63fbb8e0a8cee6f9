package caddymodule

import (
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
	"github.com/caddy-bearer/caddy-bearer/internal/plainhttp"
)

func init() {
	caddy.RegisterModule(new(Transport))
}

// Transport is a reverse proxy transport that puts a valid token of a
// [TokenSource] into every request. The app's own credentials are removed.
//
// When the API refuses the token (auth_failure), what is known decides. A token
// that worked is renewed and the request sent once more, if its body can be. A
// token that is new is given time to become known (settle). A request that no new
// token cures does not cost one each time. The app sees the refusal only if none
// of that was of use, as it came, with the reason in Proxy-Status. A circuit
// breaker, one for each key, opens when refusals go on and nothing works with
// the key's tokens.
//
// What the transport answers itself is application/problem+json; nothing is
// ever sent without a token.
//
// All options of Caddy's http transport are options of this one too. Three
// defaults differ: 256 idle connections are kept for each upstream, not 32;
// compression that the app did not ask for is not asked for; and a body whose
// app asks for 100 (Continue) first is held back for a second (expect_continue_timeout),
// so that it can be sent again, however long, if the API refuses before it.
type Transport struct {
	reverseproxy.HTTPTransport

	// The token source's name. Required.
	Source string `json:"source"`

	// What is put into the request, and where. Default: the header
	// Authorization with "Bearer {token}", also when none of these holds {token}.
	Inject []Injection `json:"inject,omitempty"`

	// How much of a request's body is remembered so that it can be sent again;
	// a longer one is not replayed. 0 is none. Default: 64KiB.
	ReplayBody *int64 `json:"replay_body,omitempty"`

	// For how long after it was obtained a token that the API has never accepted
	// may not be known there yet. Within that time a refused request waits 0.3, 1
	// and 2 seconds, together no longer than max_wait, and is sent again with the
	// same token, or at once with the one before if that still works. At most 1m;
	// negative: a new token is not given time. Default: 5s.
	Settle caddy.Duration `json:"settle,omitempty"`

	// The addresses and ranges that may call, by the connection's peer. A unix
	// socket's callers always may: its file mode decides. Default: the loopback
	// ranges, 127.0.0.0/8 and ::1.
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

	// What reverse_proxy says of the caller is passed on: X-Forwarded-For,
	// X-Forwarded-Host, X-Forwarded-Proto and Via. They tell a provider of this
	// host's loopback, and some refuse or redirect what has them. Default: they are
	// removed.
	Forwarded bool `json:"forwarded,omitempty"`

	// Where the Caddyfile says it.
	Origin *Origin `json:"origin,omitempty"`

	source *pooledSource
	// schemeKnown: no request decides whether tokens would go out in the clear.
	schemeKnown bool
	keys        keyReader
	engine      *bearer.Transport
	// giveBreakers says that breakers are used no more; nil: there are none yet.
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

// Caddy keeps 32 idle connections for each upstream. With more clients than
// that at once, connections are closed and opened for nothing, which over TLS
// costs more than the request.
const defaultIdleConnsPerHost = 256

// Caddy sends a body at once, whatever its app expects. Then some of it has been
// read when the API refuses by the headers, and a long one cannot be sent again.
const defaultExpectContinueTimeout = time.Second

// Provision sets up t.
func (t *Transport) Provision(ctx caddy.Context) error {
	t.log = ctx.Logger()
	var err error
	if t.source, t.keys, err = findSource(ctx, "transport bearer", t.Source, t.Origin); err != nil {
		return err
	}
	for _, step := range []func(caddy.Context) error{
		t.provisionEngine, t.provisionChecks, t.checkUpstreams, t.provisionBreakers,
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
		// net/http would ask for gzip in the app's place, and unpack it: the API's
		// answer would not pass as it came.
		t.Compression = new(bool)
	}
	if err := t.HTTPTransport.Provision(ctx); err != nil {
		return err
	}
	if t.TLS != nil && t.HTTPTransport.Transport != nil {
		withLiveCertificate(t.HTTPTransport.Transport.TLSClientConfig, t.TLS.ClientCertificateFile, t.TLS.ClientCertificateKeyFile)
	}
	return nil
}

// forwardedHeaders are what reverse_proxy adds to a request about its caller.
var forwardedHeaders = []string{"X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "Via"}

// provisionEngine translates the settings that are the engine's.
func (t *Transport) provisionEngine(caddy.Context) error {
	inject, err := resolveInjections(t.Inject, t.keys.names, t.Origin)
	if err != nil {
		return err
	}
	remove := t.keys.headers
	if !t.Forwarded {
		remove = append(slices.Clip(remove), forwardedHeaders...)
	}
	t.engine = &bearer.Transport{
		Source: t.source.Source, Base: &t.HTTPTransport, Inject: inject, Remove: remove,
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

func (t *Transport) provisionChecks(caddy.Context) (err error) {
	if t.callers, err = newCallerCheck(t.Callers, t.Hosts); err != nil {
		return t.Origin.errorf("callers", "%w", err)
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

// Cleanup closes idle connections.
func (t *Transport) Cleanup() error {
	if t.giveBreakers != nil {
		t.giveBreakers()
	}
	return t.HTTPTransport.Cleanup()
}

// RoundTrip lets the engine send the request with a token, and again if that is refused. Its
// error is the upstream connection's; whatever concerns tokens is an answer.
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	t.source.users.Add(1)
	defer t.source.unuse()
	if p := t.callers.check(req); p != nil {
		return t.answer(req, p), nil
	}
	if p := t.checkScheme(req); p != nil {
		return t.answer(req, p), nil
	}
	key, values, err := t.keys.read(req)
	if err != nil {
		return t.answer(req, keyProblem(err)), nil
	}
	out, body := expecting(req)
	res, err := t.engine.Send(out, key, values)
	body.ask()
	if err != nil {
		return t.notSent(out, values, err)
	}
	return res, nil
}

// notSent answers a request that the engine did not send. Other errors are the
// upstream's, or the caller's own.
func (t *Transport) notSent(req *http.Request, values []string, err error) (*http.Response, error) {
	var e *bearer.Error
	switch {
	case !errors.As(err, &e):
		return nil, err
	case errors.Is(err, bearer.ErrNotInjected):
		return t.answer(req, notInjected(e.Err)), nil
	}
	return t.answer(req, t.problemOf(e.Err, values)), nil
}

// answer makes the sidecar's own answer, and counts it.
func (t *Transport) answer(req *http.Request, p *problem) *http.Response {
	t.requests.count(p.name)
	if c := t.log.Check(zapcore.DebugLevel, "answered by the sidecar"); c != nil {
		c.Write(zap.String("source", t.Source), zap.String("problem", p.name), zap.String("detail", p.detail))
	}
	return p.response(req)
}

// isHealthCheck tells Caddy's active health checks, which come from no
// connection, from requests.
func isHealthCheck(req *http.Request) bool {
	return req.RemoteAddr == "" && req.Context().Value(caddyhttp.ServerCtxKey) == nil
}

// handlerOf returns the reverse proxy that a transport belongs to: the nearest,
// for one may stand within another's handle_response.
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

// checkUpstreams refuses to send tokens in the clear to another host. What
// only a request decides is checked again with the request.
func (t *Transport) checkUpstreams(ctx caddy.Context) error {
	h := handlerOf(ctx)
	if h == nil {
		return nil
	}
	t.schemeKnown = h.DynamicUpstreamsRaw == nil && len(h.Upstreams) > 0 && h.HealthChecks == nil
	for _, u := range h.Upstreams {
		addr, err := caddy.ParseNetworkAddress(u.Dial)
		switch {
		case err != nil || hasPlaceholder(u.Dial):
			t.schemeKnown = false
			continue
		case addr.IsUnixNetwork(), !t.plainHTTP(strconv.Itoa(int(addr.StartPort))), plainhttp.Allowed(addr.Host, t.AllowHTTP):
			continue
		}
		return t.Origin.errorf("", "transport bearer %s: upstream %s: http would send tokens in the clear: expected https, a loopback address, or the host's name in allow_http", t.Source, u.Dial)
	}
	return nil
}

// checkScheme refuses plain http to another host, where the upstream is known
// only now.
func (t *Transport) checkScheme(req *http.Request) *problem {
	if t.schemeKnown || (req.URL.Scheme != "http" && !t.plainHTTP(req.URL.Port())) {
		return nil
	}
	host := req.URL.Hostname()
	if info, ok := reverseproxy.GetDialInfo(req.Context()); ok && !isHealthCheck(req) {
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
	_ bearer.Observer                                  = (*transportCounters)(nil)
	_ reverseproxy.TLSTransport                        = (*Transport)(nil)
	_ reverseproxy.H2CTransport                        = (*Transport)(nil)
	_ reverseproxy.HealthCheckSchemeOverriderTransport = (*Transport)(nil)
	_ reverseproxy.ProxyProtocolTransport              = (*Transport)(nil)
	_ reverseproxy.RequestHeaderOpsTransport           = (*Transport)(nil)
)
