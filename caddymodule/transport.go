package caddymodule

import (
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-bearer/caddy-bearer/bearer"
	"github.com/caddy-bearer/caddy-bearer/internal/plainerror"
	"github.com/caddy-bearer/caddy-bearer/internal/plainhttp"
)

func init() {
	caddy.RegisterModule(new(Transport))
}

// Transport is the transport of Caddy's reverse_proxy that puts a valid token of a
// [TokenSource] into every request; see [Client]. It is for upstreams that need load
// balancing or health checks. For others there is [Handler].
type Transport struct {
	Client

	// schemeKnown: all upstreams were checked when the config was loaded, so no
	// request has to be checked for plain http.
	schemeKnown bool
}

// CaddyModule returns the Caddy module information.
func (*Transport) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.reverse_proxy.transport.bearer",
		New: func() caddy.Module { return new(Transport) },
	}
}

// Provision sets up t. It makes no network call.
func (t *Transport) Provision(ctx caddy.Context) error {
	return t.provision(ctx, "transport bearer", t.checkUpstreams, t.provisionBreakers)
}

func (t *Transport) provisionBreakers(ctx caddy.Context) error {
	upstreams := ""
	if h := handlerOf(ctx); h != nil {
		for _, u := range h.Upstreams {
			upstreams += u.Dial + " "
		}
	}
	t.takeBreakers(upstreams)
	return nil
}

// RoundTrip sends the request with a token. It returns an error only if the upstream
// connection fails, because Caddy then tries another upstream or answers 502.
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	t.source.users.Add(1)
	defer t.source.unuse()
	if p := t.checkScheme(req); p != nil {
		if refused := t.callers.check(req); refused != nil {
			p = refused
		}
		return t.respond(req, p), nil
	}
	return t.roundTrip(req, new(bearer.Call))
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
	_ bearer.Observer                                  = (*clientCounters)(nil)
	_ reverseproxy.TLSTransport                        = (*Transport)(nil)
	_ reverseproxy.H2CTransport                        = (*Transport)(nil)
	_ reverseproxy.HealthCheckSchemeOverriderTransport = (*Transport)(nil)
	_ reverseproxy.ProxyProtocolTransport              = (*Transport)(nil)
	_ reverseproxy.RequestHeaderOpsTransport           = (*Transport)(nil)
)
