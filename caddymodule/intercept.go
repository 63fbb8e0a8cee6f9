package caddymodule

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
	"golang.org/x/net/http/httpguts"

	"github.com/caddy-bearer/caddy-bearer/bearer"
	"github.com/caddy-bearer/caddy-bearer/internal/plainerror"
)

func init() {
	caddy.RegisterModule(new(Intercept))
	httpcaddyfile.RegisterHandlerDirective("bearer_intercept", parseBearerIntercept)
	httpcaddyfile.RegisterDirectiveOrder("bearer_intercept", httpcaddyfile.Before, "reverse_proxy")
}

// Intercept is a forward proxy for apps that call a provider's API at its own address.
// With HTTPS_PROXY and a CA file, such an app needs no other base URL.
//
// An app sends CONNECT for a host. If the host has a route, the handler ends the TLS
// connection itself, with a certificate of Caddy's pki app for that name, and sends each
// request in it with a token, as [Handler] does. Requests for http:// and https:// URLs
// in absolute form work, too. The upstream is the host that was asked for, always over
// https.
//
// A request inside the connection must be for the host of the CONNECT: another name in
// the TLS handshake (SNI) ends it, and another Host is the problem misdirected. Requests
// in the connection pass through the routes of the site again, so Caddy's access log,
// tracing and metrics see each.
//
// The handler resolves names itself, and connects to public addresses alone
// (allow_addresses). Refusals of a CONNECT say why in the status line, because that is
// what clients show.
//
// The placeholder `{http.bearer.proxy_user}` is the user in the proxy's URL
// (http://alice:any@127.0.0.1:3128; many clients do not send a user without a password).
// A source's `key` can be read from it.
type Intercept struct {
	// The hosts whose calls get a token.
	Routes []*InterceptRoute `json:"routes,omitempty"`

	// What happens to other hosts: "tunnel", or "refuse", or the hosts that may be
	// tunnelled, as in a route's host. Default: tunnel.
	Others []string `json:"others,omitempty"`

	// Addresses and ranges that may be connected to although they are not public, such as
	// those of a provider in the same network. A route for localhost, or for such an
	// address itself, may be connected to anyway. Default: none.
	AllowAddresses []string `json:"allow_addresses,omitempty"`

	// The addresses and ranges that may call, compared with the connection's peer.
	// Callers on a unix socket always may. Default: the loopback ranges, 127.0.0.0/8 and
	// ::1.
	Callers []string `json:"callers,omitempty"`

	// The certificate authority of Caddy's pki app that signs the certificates. Default:
	// local.
	CA string `json:"ca,omitempty"`

	// Where the Caddyfile says it.
	Origin *Origin `json:"origin,omitempty"`

	allowed []netip.Prefix
	callers callerCheck
	dialer  *guardedDialer // for tunnels
	plain   *http.Transport
	forward httputil.ReverseProxy
	inside  *insideServer
	log     *zap.Logger
}

// InterceptRoute is a host whose calls get a token. Upstream and AllowHosts are not set:
// the upstream is the host that was asked for.
type InterceptRoute struct {
	// The host's name. A first label of * stands for any one label. It has a port unless
	// that is 443, or 80 for http. Required.
	Host string `json:"host"`

	Handler

	// making is held while the certificate is made that serves all names of a domain, and
	// made says that there is one. See insideServer.certificate.
	making sync.Mutex
	made   bool
}

// name is the route's host in lower case, without a port.
func (r *InterceptRoute) name() string {
	u := url.URL{Host: r.Host}
	return strings.ToLower(u.Hostname())
}

// CaddyModule returns the Caddy module information.
func (*Intercept) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.bearer_intercept",
		New: func() caddy.Module { return new(Intercept) },
	}
}

const (
	othersTunnel = "tunnel"
	othersRefuse = "refuse"
)

// Provision sets up ic. It makes no network call.
func (ic *Intercept) Provision(ctx caddy.Context) error {
	ic.log = ctx.Logger()
	server, ok := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if !ok {
		return ic.Origin.errorf("", "bearer_intercept: there is no server: expected it in a site")
	}
	if len(ic.Routes) == 0 {
		return ic.Origin.errorf("", "bearer_intercept: no host: expected <host> <source>, such as: api.acme.example acme")
	}
	if matchesHost(server) {
		return ic.Origin.errorf("", "bearer_intercept: the site's address has a host, so Caddy would answer CONNECT for other hosts by itself: expected an address without one, such as http://:3128")
	}
	if err := ic.provisionAddresses(ctx, server); err != nil {
		return err
	}
	for i, route := range ic.Routes {
		if slices.ContainsFunc(ic.Routes[:i], func(r *InterceptRoute) bool { return plainHost(r.Host) == plainHost(route.Host) }) {
			return route.Origin.errorf("", "bearer_intercept: %s: given twice: expected each host once", route.Host)
		}
		if err := route.provision(ctx, ic); err != nil {
			return err
		}
	}
	if err := ic.checkOthers(); err != nil {
		return err
	}
	ic.provisionForward()
	var err error
	ic.inside, err = newInsideServer(ctx, ic, server)
	return err
}

// matchesHost reports whether the route of a server that has a bearer_intercept in it is
// for certain hosts alone. Its handlers are still to be loaded at that time.
func matchesHost(server *caddyhttp.Server) bool {
	return slices.ContainsFunc(server.Routes, func(route caddyhttp.Route) bool {
		holds := slices.ContainsFunc(route.HandlersRaw, func(raw json.RawMessage) bool { return bytes.Contains(raw, []byte(`"bearer_intercept"`)) })
		return holds && slices.ContainsFunc(route.MatcherSets, func(set caddyhttp.MatcherSet) bool {
			return slices.ContainsFunc(set, func(m any) bool {
				_, host := m.(*caddyhttp.MatchHost)
				return host
			})
		})
	})
}

func (ic *Intercept) provisionAddresses(ctx caddy.Context, server *caddyhttp.Server) error {
	for _, text := range ic.AllowAddresses {
		prefix, err := parseRange(text)
		if err != nil {
			return ic.Origin.errorf("allow_addresses", "%w", err)
		}
		ic.allowed = append(ic.allowed, prefix)
	}
	var err error
	if ic.callers, err = provisionCallers(ctx, ic.Origin, ic.Callers, nil); err != nil {
		return ic.Origin.errorf("callers", "%w", err)
	}
	ic.callers.anyName = true // the host that a request names is the provider's
	ic.dialer = newGuardedDialer(ic.allowed, nil, 0, 0)
	for _, proxy := range environmentProxies() {
		if listensOn(server, proxy) {
			return ic.Origin.errorf("", "bearer_intercept: %s in the environment of Caddy leads to this very site, %s: expected it in the environment of the apps alone", proxyVariables, proxy)
		}
	}
	return nil
}

// listensOn reports whether a server listens on an address of this host.
func listensOn(server *caddyhttp.Server, hostport string) bool {
	host, port, err := net.SplitHostPort(hostport)
	if err != nil {
		return false
	}
	if addr, err := netip.ParseAddr(host); !strings.EqualFold(host, "localhost") && (err != nil || !addr.IsLoopback()) {
		return false
	}
	return listensAt(server, port)
}

func (ic *Intercept) checkOthers() error {
	if len(ic.Others) == 0 {
		ic.Others = []string{othersTunnel}
	}
	for _, other := range ic.Others {
		word := other == othersTunnel || other == othersRefuse
		if word && len(ic.Others) > 1 {
			return ic.Origin.errorf("others", "%s and more: expected tunnel, refuse, or names", other)
		}
		if err := bearer.CheckHostPattern(other); err != nil && !word {
			return ic.Origin.errorf("others", "%w", err)
		}
	}
	return nil
}

// plainHost is a route's host without a port that need not be written.
func plainHost(host string) string {
	return strings.TrimSuffix(strings.TrimSuffix(strings.ToLower(host), ":443"), ":80")
}

// provision sets up the route of an Intercept.
func (r *InterceptRoute) provision(ctx caddy.Context, ic *Intercept) error {
	if err := bearer.CheckHostPattern(r.Host); err != nil {
		return r.Origin.errorf("", "bearer_intercept: %w", err)
	}
	switch option := unsupportedByGuard(&r.HTTPTransport); {
	case option != "":
		return r.Origin.errorf(option, "bearer_intercept connects by itself: expected no %s", option)
	case r.Upstream != "" || len(r.AllowHosts) > 0:
		return r.Origin.errorf("", "bearer_intercept %s: an upstream: expected none, because it is the host that was asked for", r.Host)
	case len(r.AllowHTTP) > 0:
		return r.Origin.errorf("allow_http", "bearer_intercept %s: its upstream is always https: expected no allow_http", r.Host)
	case len(r.Callers) > 0 || len(r.Hosts) > 0:
		return r.Origin.errorf("callers", "bearer_intercept %s: expected callers outside, for all hosts", r.Host)
	}
	r.intercepted = true
	r.dial = newGuardedDialer(slices.Concat(ic.allowed, r.ownAddresses()), environmentProxies(), time.Duration(r.DialTimeout), time.Duration(r.FallbackDelay)).DialContext
	r.callers = ic.callers
	return r.Client.provision(ctx, "bearer_intercept "+r.Host, r.provisionRoute, r.provisionProxy)
}

func (r *InterceptRoute) provisionRoute(caddy.Context) error {
	r.takeBreakers("intercept " + strings.ToLower(r.Host))
	r.enableTLS()
	return nil
}

// ownAddresses returns the addresses that the route itself names: whoever writes
// localhost, or an address, means it.
func (r *InterceptRoute) ownAddresses() []netip.Prefix {
	host := r.name()
	if addr, err := netip.ParseAddr(host); err == nil {
		return []netip.Prefix{netip.PrefixFrom(addr.Unmap(), addr.Unmap().BitLen())}
	}
	if host == "localhost" || underLocalhost(host) {
		return loopbackRanges
	}
	return nil
}

// Cleanup ends the server for the inside of connections. Requests that are under way are
// finished.
func (ic *Intercept) Cleanup() error {
	if ic.inside != nil {
		ic.inside.close()
	}
	if ic.plain != nil {
		ic.plain.CloseIdleConnections()
	}
	var errs []error
	for _, route := range ic.Routes {
		errs = append(errs, route.Cleanup())
	}
	return errors.Join(errs...)
}

// target is a host that an app has asked for.
type target struct {
	name, port string // lower case; the port is never empty
}

func (t target) hostport() string { return net.JoinHostPort(t.name, t.port) }

// matches reports whether a pattern is for the target. The standard ports need not be
// written.
func (t target) matches(pattern string) bool {
	if t.port == "443" || t.port == "80" {
		return bearer.MatchHost(pattern, t.name, "") || bearer.MatchHost(pattern, t.name, t.port)
	}
	return bearer.MatchHost(pattern, t.name, t.port)
}

// parseTarget reads a host and a port, which may be missing in a URL with a scheme.
func parseTarget(hostport, scheme string) (target, error) {
	var t target
	u := url.URL{Host: hostport}
	t.name, t.port = strings.TrimSuffix(strings.ToLower(u.Hostname()), "."), u.Port()
	if t.port == "" {
		t.port = map[string]string{"http": "80", "https": "443"}[scheme]
	}
	if _, err := netip.ParseAddr(t.name); err != nil && !bearer.HostName(t.name) {
		return t, errors.New("the host is not a name")
	}
	if t.port == "" {
		return t, errors.New("the target has no port")
	}
	return t, nil
}

// route returns the target's route. near says that there is one for the name, but not
// for the port.
func (ic *Intercept) route(t target) (route *InterceptRoute, near bool) {
	for _, r := range ic.Routes {
		// A name itself is before all names of a domain, whatever their order.
		if t.matches(r.Host) && (route == nil || strings.HasPrefix(route.Host, "*")) {
			route = r
		}
		near = near || bearer.MatchHost(r.name(), t.name, "")
	}
	return route, near && route == nil
}

// mayTunnel reports whether a host without a route may be called, without a token.
func (ic *Intercept) mayTunnel(t target) bool {
	switch ic.Others[0] {
	case othersTunnel:
		return true
	case othersRefuse:
		return false
	}
	return slices.ContainsFunc(ic.Others, t.matches)
}

// ServeHTTP implements caddyhttp.MiddlewareHandler.
func (ic *Intercept) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	if t := tunnelOf(r); t != nil && t.ic == ic {
		return ic.serveInside(w, r, t)
	}
	if r.Method == http.MethodConnect {
		return ic.serveConnect(w, r)
	}
	if p := ic.callers.checkPeer(r); p != nil {
		return p.write(w, r)
	}
	if r.URL.Host == "" {
		return (&problem{
			name: problemNotFound, status: http.StatusNotFound,
			detail: "this is a proxy for HTTPS_PROXY: expected CONNECT, or a URL with a host",
		}).write(w, r)
	}
	return ic.serveAbsolute(w, r)
}

// serveAbsolute serves a request whose URL has a host, as clients send it to a proxy for
// http://, and some for https://.
func (ic *Intercept) serveAbsolute(w http.ResponseWriter, r *http.Request) error {
	t, err := parseTarget(r.URL.Host, r.URL.Scheme)
	if err != nil || (r.URL.Scheme != "http" && r.URL.Scheme != "https") {
		return (&problem{name: problemBadRequest, status: http.StatusBadRequest, detail: "the URL is not of http or https, or its host is not a name"}).write(w, r)
	}
	route, near := ic.route(t)
	user := proxyUser(r)
	switch {
	case route != nil:
		seenProxy.count(r, user, t, route.Host, seenRequest)
		return ic.serveRoute(w, r, route, t, user)
	case near || !ic.mayTunnel(t):
		seenProxy.count(r, user, t, "", seenRefused)
		return notCallable(t, near).write(w, r)
	}
	seenProxy.count(r, user, t, "", seenTunnel)
	ic.forward.ServeHTTP(w, r)
	return nil
}

// notCallable is the problem of a target without a route that may not be called. near says
// that there is a route for its name, but not for its port.
func notCallable(t target, near bool) *problem {
	why := "it is not among the hosts that may be called"
	if near {
		why = "only other ports of this host are intercepted"
	}
	return &problem{name: problemTargetRefused, status: http.StatusForbidden, detail: t.hostport() + ": " + why}
}

// interceptVar has the base URL of a request to a route.
const interceptVar = "bearer.intercept"

func (ic *Intercept) serveRoute(w http.ResponseWriter, r *http.Request, route *InterceptRoute, t target, user string) error {
	base := &url.URL{Scheme: "https", Host: t.name}
	if strings.Contains(t.name, ":") {
		base.Host = "[" + t.name + "]"
	}
	if t.port != "443" && t.port != "80" {
		base.Host = t.hostport()
	}
	caddyhttp.SetVar(r.Context(), interceptVar, base)
	if repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
		repl.Set("http.bearer.proxy_user", user)
	}
	return route.ServeHTTP(w, r, nil)
}

// proxyUser returns the user in the proxy's URL, which clients send as
// Proxy-Authorization (RFC 7617) without being asked. The password is not looked at.
func proxyUser(r *http.Request) string {
	values := r.Header["Proxy-Authorization"]
	if len(values) != 1 { // of two, a guess would use another user's token
		return ""
	}
	scheme, encoded, _ := strings.Cut(values[0], " ")
	if !strings.EqualFold(scheme, "Basic") {
		return ""
	}
	text, err := base64.StdEncoding.DecodeString(strings.TrimSpace(encoded))
	if err != nil {
		return ""
	}
	user, _, _ := strings.Cut(string(text), ":")
	if len(user) > maxKeyValue || !httpguts.ValidHeaderFieldValue(user) {
		return ""
	}
	return user
}

// provisionForward sets up the way for http:// requests to hosts without a route.
func (ic *Intercept) provisionForward() {
	ic.plain = &http.Transport{ // with no proxy: it would be asked for addresses that nobody has checked
		DialContext: ic.dialer.DialContext, DisableCompression: true, ForceAttemptHTTP2: true,
		MaxIdleConnsPerHost: 32, IdleConnTimeout: time.Minute, TLSHandshakeTimeout: connectTimeout,
	}
	ic.forward = httputil.ReverseProxy{
		Rewrite: func(pr *httputil.ProxyRequest) {
			pr.Out.URL.RawQuery = pr.In.URL.RawQuery
			pr.Out.Host = pr.In.URL.Host
		},
		Transport: ic.plain,
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			if t, bad := parseTarget(r.URL.Host, r.URL.Scheme); bad == nil {
				seenProxy.count(r, "", t, "", seenRefused)
				ic.log.Warn("no way to a host without a route", zap.String("target", t.hostport()), zap.Error(plainerror.Of(err)))
			}
			_ = upstreamProblem(err, false, true).write(w, r)
		},
		ErrorLog:   zap.NewStdLog(zap.NewNop()),
		BufferPool: copyBuffers{},
	}
}

// Interface guards
var (
	_ caddy.Provisioner           = (*Intercept)(nil)
	_ caddy.CleanerUpper          = (*Intercept)(nil)
	_ caddyhttp.MiddlewareHandler = (*Intercept)(nil)
)
