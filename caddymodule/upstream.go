package caddymodule

import (
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-bearer/caddy-bearer/internal/plainhttp"
)

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
