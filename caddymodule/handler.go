package caddymodule

import (
	"context"
	"errors"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddy-bearer/caddy-bearer/bearer"
	"github.com/caddy-bearer/caddy-bearer/internal/plainerror"
	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenendpoint"
)

func init() {
	caddy.RegisterModule(new(Handler))
	httpcaddyfile.RegisterHandlerDirective("bearer", parseBearer)
	httpcaddyfile.RegisterDirectiveOrder("bearer", httpcaddyfile.Before, "reverse_proxy")
}

// Handler is the way out to a provider's API: it sends each request to the upstream,
// with a valid token of a [TokenSource]; see [Client].
//
// Caddy's reverse_proxy is made for the way in. This handler differs where a call to
// somebody else's API wants it:
//
//   - Host is the API's, and the upstream may have a base path.
//   - Nothing is told of the caller: no X-Forwarded-For, no Via (forwarded).
//   - There is no retry but the client's own, which never sends a request without its
//     body, and never to another host.
//   - An API that is away is a problem document, too: upstream-unreachable (502), or
//     upstream-timeout (504).
//   - A connection that was upgraded, such as a WebSocket, outlives a reload.
//
// It sets these placeholders, for access logs and for the handlers around it. The
// header directive needs its `>` prefix to see them, because they are known only with
// the response:
//
// Placeholder | Description
// ------------|-------------
// `{http.bearer.source}` | The token source's name
// `{http.bearer.key}` | The hash by which logs name the key; empty if the source has none
// `{http.bearer.token_state}` | How the request got its token: `fresh` (at once), `awaited`, `renewed` (because the API refused another), `none`
// `{http.bearer.replayed}` | Whether the request was sent more than once
// `{http.bearer.replay}` | What came of a refused token, as in the metric caddy_bearer_replays_total; empty if none was refused
// `{http.bearer.problem}` | The name of the sidecar's own problem response; empty if the API responded
// `{http.bearer.upstream.hostport}` | The upstream that the request went to
// `{http.bearer.upstream.latency}` | How long the API took to send its header, in the last sending
// `{http.bearer.upstream.latency_ms}` | Same as above, in milliseconds
type Handler struct {
	Client

	// The API's base URL: scheme, host, and a path that goes before the request's own.
	// {env.*} and {file.*} are read when the config is loaded. {token.NAME} is a member
	// of the response that brought the token, and {key.NAME} a value of the key; where
	// the host depends on them, allow_hosts is required. Required.
	Upstream string `json:"upstream,omitempty"`

	// The hosts that an upstream may have whose host depends on the token or the key:
	// names, with a port unless it is the scheme's own. A first label of * stands for
	// any one label.
	AllowHosts []string `json:"allow_hosts,omitempty"`

	// How long to wait for the header of the API's response, with all that comes before
	// it: waiting for a token, connecting, sending the body, and replays. Default: no
	// timeout.
	Timeout caddy.Duration `json:"timeout,omitempty"`

	base *url.URL // of a static upstream; nil: the engine resolves it for each request
	// intercepted: it belongs to a bearer_intercept, which names the upstream of each
	// request.
	intercepted bool
	proxy       httputil.ReverseProxy
}

// CaddyModule returns the Caddy module information.
func (*Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.bearer",
		New: func() caddy.Module { return new(Handler) },
	}
}

// Provision sets up h. It makes no network call.
func (h *Handler) Provision(ctx caddy.Context) error {
	h.server, _ = ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	return h.provision(ctx, "bearer", h.provisionUpstream, h.provisionProxy)
}

func (h *Handler) provisionUpstream(caddy.Context) error {
	upstream, err := resolveValue(h.Upstream, h.keys.names)
	if err != nil {
		return h.Origin.errorf("", "bearer %s: upstream: %w", h.Source, err)
	}
	if h.ProxyProtocol != "" {
		return h.Origin.errorf("proxy_protocol", "it would tell the provider of the caller: expected reverse_proxy with transport bearer, where the upstream is your own")
	}
	h.takeBreakers(upstream.Text())
	if len(upstream.Variables()) > 0 {
		h.engine.Upstream = &bearer.Upstream{URL: upstream, AllowHosts: h.AllowHosts}
		h.engine.AllowHTTP = h.AllowHTTP
		h.enableTLS()
		return nil
	}
	if len(h.AllowHosts) > 0 {
		return h.Origin.errorf("allow_hosts", "the upstream's host does not depend on the token or the key: expected no allow_hosts")
	}
	return h.provisionBase(upstream)
}

// enableTLS asks for Caddy's defaults of TLS, unless there are settings.
func (h *Handler) enableTLS() {
	if h.TLS == nil {
		h.TLS = new(reverseproxy.TLSConfig)
	}
}

func (h *Handler) provisionBase(upstream tokenendpoint.Template) error {
	text, err := upstream.Expand(func(string) (string, bool) { return "", false })
	if err != nil {
		return h.Origin.errorf("", "bearer %s: upstream: %w", h.Source, err)
	}
	shown := " " + h.Upstream
	if strings.Contains(h.Upstream, "@") { // there may be a password before it
		shown = ""
	}
	base, err := bearer.ParseBaseURL(text, h.AllowHTTP)
	if err == nil && base.Scheme == "http" && h.TLS != nil {
		err = errors.New("http has no TLS: expected https, or no tls options")
	}
	if err != nil {
		return h.Origin.errorf("", "bearer %s: upstream%s: %w", h.Source, shown, err)
	}
	if base.Scheme == "https" {
		h.enableTLS()
	}
	h.base = base
	return nil
}

func (h *Handler) provisionProxy(caddy.Context) error {
	// serveError counts, and tells what matters.
	h.namesErrors = true
	errorLog, err := zap.NewStdLogAt(h.log, zapcore.DebugLevel)
	if err != nil {
		return err
	}
	h.proxy = httputil.ReverseProxy{
		Rewrite:      h.rewrite,
		Transport:    exchangeTransport{h},
		ErrorHandler: h.serveError,
		ErrorLog:     errorLog,
		BufferPool:   copyBuffers{},
	}
	return nil
}

// copyBuffers are what responses are copied through.
type copyBuffers struct{}

var copyBufferPool = sync.Pool{New: func() any { return new([32 << 10]byte) }}

// Get implements httputil.BufferPool.
func (copyBuffers) Get() []byte { return copyBufferPool.Get().(*[32 << 10]byte)[:] }

// Put implements httputil.BufferPool.
func (copyBuffers) Put(b []byte) { copyBufferPool.Put((*[32 << 10]byte)(b)) }

// exchange is one request through the handler.
type exchange struct {
	h    *Handler
	w    http.ResponseWriter
	call bearer.Call
	host string // that the request went to; empty: that is not known
	// began: ReverseProxy has come to the round trip.
	began bool
	// own are the headers that other handlers have set, if an informational response
	// could lose them.
	own http.Header
	// rejected: the request cannot be sent, whatever the token.
	rejected error
	problem  string // of the sidecar's own response
	timedOut atomic.Bool
}

const exchangeVar = "bearer.exchange"

func exchangeOf(req *http.Request) *exchange {
	x, _ := caddyhttp.GetVar(req.Context(), exchangeVar).(*exchange)
	return x
}

// ServeHTTP implements caddyhttp.MiddlewareHandler.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, _ caddyhttp.Handler) error {
	x := &exchange{h: h, w: w}
	x.call.Own = true // ReverseProxy makes a request of its own
	if header := w.Header(); len(header) > 1 || header["Server"] == nil {
		x.own = header.Clone()
	}
	caddyhttp.SetVar(r.Context(), exchangeVar, x)
	if repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
		repl.Map(x.placeholder)
	}
	defer func() {
		// The response has ended too early, and the app must see that. What there was of
		// it should arrive before the connection ends.
		if e := recover(); e != nil {
			if e == http.ErrAbortHandler {
				h.log.Warn("aborting with incomplete response", zap.String("source", h.Source), zap.String("upstream", h.shown(x)))
				_ = http.NewResponseController(w).Flush()
			}
			panic(e)
		}
	}()
	h.proxy.ServeHTTP(w, r)
	return nil
}

// placeholder returns the values of {http.bearer.*}.
func (x *exchange) placeholder(name string) (any, bool) {
	name, ok := strings.CutPrefix(name, "http.bearer.")
	if !ok {
		return nil, false
	}
	switch name {
	case "source":
		return x.h.Source, true
	case "key":
		if len(x.call.Values) == 0 {
			return "", true
		}
		return x.call.Key.String(), true
	case "token_state":
		return x.tokenState(), true
	case "replayed":
		return x.call.Sendings > 1, true
	case "replay":
		return string(x.call.Replay), true
	case "problem":
		return x.problem, true
	case "upstream.hostport":
		return x.host, true
	case "upstream.latency":
		return x.call.Latency, true
	case "upstream.latency_ms":
		return x.call.Latency.Seconds() * 1e3, true
	}
	return nil, false
}

func (x *exchange) tokenState() string {
	switch {
	case x.call.Sendings == 0:
		return "none"
	case x.call.Replay == bearer.ReplayOK || x.call.Replay == bearer.ReplayRefused:
		return "renewed"
	case x.call.Waited:
		return "awaited"
	}
	return "fresh"
}

// rewrite makes the request that goes out. ReverseProxy has removed what belongs to
// the connection, and what the request said of its caller.
func (h *Handler) rewrite(pr *httputil.ProxyRequest) {
	in, out := pr.In, pr.Out
	// ReverseProxy removes parameters that it cannot parse, against smuggling past a
	// proxy that reads them. Here nobody does, and the API may.
	out.URL.RawQuery = in.URL.RawQuery
	out.Host = ""
	base := h.base
	if h.intercepted {
		base, _ = caddyhttp.GetVar(in.Context(), interceptVar).(*url.URL)
	}
	if base != nil {
		u, err := bearer.JoinURL(base, out.URL)
		if err != nil {
			exchangeOf(in).rejected = err
			return
		}
		out.URL = u
	}
	if h.Forwarded {
		pr.SetXForwarded()
	}
	if out.Body != nil && len(in.Trailer) > 0 {
		// The server fills in the values when the body has been read, and over HTTP/1.1
		// only a chunked body has trailers.
		out.Trailer = in.Trailer
		out.ContentLength = -1
		delete(out.Header, "Content-Length")
	}
	if in.TLS != nil && !in.TLS.HandshakeComplete { // RFC 8470, section 5.1
		out.Header["Early-Data"] = []string{"1"}
	}
	if out.Header["Upgrade"] != nil {
		spellWebSocket(out.Header)
	}
}

// spellWebSocket spells the headers of a WebSocket's handshake as RFC 6455 does. Some
// servers know no other spelling, and net/http writes another.
func spellWebSocket(h http.Header) {
	for _, name := range []string{"Accept", "Extensions", "Key", "Protocol", "Version"} {
		if values, ok := h["Sec-Websocket-"+name]; ok {
			delete(h, "Sec-Websocket-"+name)
			h["Sec-WebSocket-"+name] = values
		}
	}
}

// exchangeTransport is the ReverseProxy's transport.
type exchangeTransport struct{ h *Handler }

var errTimeout = &timeoutError{}

// timeoutError says that `timeout` has passed.
type timeoutError struct{}

func (*timeoutError) Error() string   { return "timed out waiting for the API's response" }
func (*timeoutError) Timeout() bool   { return true }
func (*timeoutError) Temporary() bool { return false }

// Harmless implements plainerror.Harmless.
func (*timeoutError) Harmless() {}

// RoundTrip implements http.RoundTripper.
func (t exchangeTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	h, x := t.h, exchangeOf(req)
	x.began = true
	h.source.users.Add(1)
	defer h.source.unuse()
	x.host = req.URL.Host
	if x.rejected != nil {
		out, body := fromApp(req)
		defer body.ask()
		return h.respond(out, &problem{name: problemBadRequest, status: http.StatusBadRequest, detail: x.rejected.Error()}), nil
	}
	if h.Timeout > 0 {
		ctx, cancel := context.WithCancelCause(req.Context()) // the request's end cancels it
		timer := time.AfterFunc(time.Duration(h.Timeout), func() {
			x.timedOut.Store(true)
			cancel(errTimeout)
		})
		defer timer.Stop()
		req = req.WithContext(ctx)
	}
	res, err := h.roundTrip(req, &x.call)
	if err != nil {
		return nil, err
	}
	if x.timedOut.Load() { // while a refusal waited for another token: its body ended with the context
		_ = res.Body.Close()
		return nil, errTimeout
	}
	if res.Request != nil && res.Request.URL != nil {
		x.host = res.Request.URL.Host
	}
	x.keepHeaders()
	// Other addresses of the API (RFC 7838) are none of the sidecar's.
	delete(res.Header, "Alt-Svc")
	return res, nil
}

// keepHeaders prepares the headers of the response, before ReverseProxy adds the
// API's. If it has passed on an informational response, it has removed all.
func (x *exchange) keepHeaders() {
	header := x.w.Header()
	for name, values := range x.own {
		if _, ok := header[name]; !ok {
			header[name] = values
		}
	}
	delete(header, "Server") // the API's own is told, or none
}

// serveError answers a request that got no response.
func (h *Handler) serveError(w http.ResponseWriter, req *http.Request, err error) {
	x := exchangeOf(req)
	var body *appBodyError
	timedOut := x.timedOut.Load()
	switch {
	case !x.began:
		x.answer(&problem{name: problemBadRequest, status: http.StatusBadRequest, detail: "the protocol in Upgrade has characters that must not go there"}, req)
	case req.Context().Err() != nil && errors.Is(err, context.Canceled) && !timedOut:
		h.requests.count(resultError)
		w.WriteHeader(statusClientClosedRequest) // for the access log; nobody else is there to read it
	case errors.As(err, &body):
		x.answer(body.problem(), req)
	default:
		p := upstreamProblem(err, timedOut, x.call.Sendings > 0 && x.call.Replay != bearer.ReplayNoToken)
		h.log.Error(p.detail, zap.String("source", h.Source), zap.String("upstream", h.shown(x)), zap.String("problem", p.name), h.shownError(p, err))
		x.answer(p, req)
	}
}

// dynamic reports whether the upstream depends on the token or the key. Then it may hold
// a value of the key, which is no business of the log's.
func (h *Handler) dynamic() bool { return h.base == nil && !h.intercepted }

// shown is the upstream as the log shows it.
func (h *Handler) shown(x *exchange) string {
	if h.dynamic() {
		return h.Upstream
	}
	return x.host
}

// shownError is an error of the connection as the log shows it.
func (h *Handler) shownError(p *problem, err error) zap.Field {
	if h.dynamic() {
		return zap.String("error", p.proxyError)
	}
	return zap.Error(plainerror.Of(err))
}

// statusClientClosedRequest is what Caddy's reverse_proxy, and nginx, log when the
// client has gone.
const statusClientClosedRequest = 499

func (x *exchange) answer(p *problem, req *http.Request) {
	p.source = x.h.Source
	x.problem = p.name
	x.h.requests.count(p.name)
	x.keepHeaders()
	_ = p.write(x.w, req)
}

// Interface guards
var (
	_ caddy.Provisioner           = (*Handler)(nil)
	_ caddy.CleanerUpper          = (*Handler)(nil)
	_ caddyhttp.MiddlewareHandler = (*Handler)(nil)
	_ plainerror.Harmless         = (*timeoutError)(nil)
	_ httputil.BufferPool         = copyBuffers{}
)
