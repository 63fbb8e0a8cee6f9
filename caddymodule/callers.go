package caddymodule

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"reflect"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-bearer/caddy-bearer/internal/plainhttp"
)

// callerCheck decides who may call. Two kinds of callers could misuse the token.
// Other hosts: a Caddy site with the address http://127.0.0.1:9000 listens on every
// interface unless it is bound. And web pages: a page in a browser on this host can
// call any local port.
type callerCheck struct {
	ranges []netip.Prefix
	hosts  []string
	// anyName: the request's host is not this one's, because it is a proxy's.
	anyName bool
}

var loopbackRanges = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}

func newCallerCheck(callers, hosts []string) (callerCheck, error) {
	c := callerCheck{hosts: hosts}
	for _, text := range callers {
		prefix, err := parseRange(text)
		if err != nil {
			return c, err
		}
		c.ranges = append(c.ranges, prefix)
	}
	if len(callers) == 0 {
		c.ranges = loopbackRanges
	}
	return c, nil
}

// provisionCallers is newCallerCheck for a handler with these options, in its
// Provision. It warns of callers that are everyone.
func provisionCallers(ctx caddy.Context, o *Origin, callers, hosts []string) (callerCheck, error) {
	c, err := newCallerCheck(callers, hosts)
	if err != nil {
		return c, err
	}
	keepConn(ctx)
	c.warnEveryone(ctx, o)
	return c, nil
}

func parseRange(text string) (netip.Prefix, error) {
	if prefix, err := netip.ParsePrefix(text); err == nil {
		if addr := prefix.Addr(); addr.Is4In6() && prefix.Bits() >= 96 {
			prefix = netip.PrefixFrom(addr.Unmap(), prefix.Bits()-96)
		}
		return prefix.Masked(), nil
	}
	addr, err := netip.ParseAddr(text)
	addr = addr.Unmap()
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("%q: expected an address or a range such as 10.1.0.0/16", text)
	}
	return netip.PrefixFrom(addr, addr.BitLen()), nil
}

// check returns the problem with a request that may not be made, or nil.
func (c *callerCheck) check(req *http.Request) *problem {
	if isHealthCheck(req) {
		return nil
	}
	if req.Method == http.MethodTrace || req.Method == http.MethodConnect {
		return &problem{
			name: problemMethodRefused, status: http.StatusMethodNotAllowed,
			detail: req.Method + " could show the token to the caller",
		}
	}
	return c.checkPeer(req)
}

// checkPeer checks the connection's peer, the name that it addresses, and whether it
// is a web page. It looks at the connection and not at X-Forwarded-For, which any
// caller can write.
func (c *callerCheck) checkPeer(req *http.Request) *problem {
	refused := func(detail string) *problem {
		return &problem{name: problemCallerRefused, status: http.StatusForbidden, detail: detail}
	}
	peer, err := netip.ParseAddrPort(req.RemoteAddr)
	addr := peer.Addr().Unmap().WithZone("")
	known := err == nil && slices.ContainsFunc(c.ranges, func(p netip.Prefix) bool { return p.Contains(addr) })
	switch {
	case !known && !overUnixSocket(req):
		return refused("the caller's address is not among `callers`")
	// DNS rebinding: see docs/decisions/0006-host-names.md.
	case !c.anyName && known && addr.IsLoopback() && !c.localName(hostOf(req)):
		return refused("the request is addressed to a name that is not this host's: expected localhost, 127.0.0.1, [::1], or the name in `hosts`")
	}
	return c.checkBrowser(req, refused)
}

// overUnixSocket reports whether a request came over a unix socket. The connection
// that the listener has accepted tells. The addresses do not: a PROXY header can make
// them anything.
func overUnixSocket(req *http.Request) bool {
	conn, _ := req.Context().Value(caddyhttp.ConnCtxKey).(net.Conn) // none over HTTP/3
	for range 10 {
		switch c := conn.(type) {
		case nil:
			return false
		case *net.UnixConn:
			return true
		case interface{ NetConn() net.Conn }: // TLS
			conn = c.NetConn()
		case interface{ Raw() net.Conn }: // PROXY protocol
			conn = c.Raw()
		default:
			conn = embeddedConn(conn)
		}
	}
	return false
}

// keepConn has a server put each connection into its requests' context, for
// overUnixSocket. ctx is that of a handler's Provision.
func keepConn(ctx caddy.Context) {
	server, ok := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if !ok {
		return
	}
	server.RegisterConnContext(func(ctx context.Context, conn net.Conn) context.Context {
		if ctx.Value(caddyhttp.ConnCtxKey) != nil { // another handler has done it
			return ctx
		}
		return context.WithValue(ctx, caddyhttp.ConnCtxKey, conn)
	})
}

// embeddedConn returns the connection in a wrapper of Caddy's, or of a listener wrapper,
// that embeds it; nil: there is none.
func embeddedConn(conn net.Conn) net.Conn {
	v := reflect.ValueOf(conn)
	if v.Kind() == reflect.Pointer {
		v = v.Elem()
	}
	if v.Kind() != reflect.Struct {
		return nil
	}
	field := v.FieldByName("Conn")
	if !field.IsValid() || !field.CanInterface() {
		return nil
	}
	inner, _ := field.Interface().(net.Conn)
	return inner
}

// checkBrowser refuses pages of other origins (Fetch Metadata, and Origin).
func (c *callerCheck) checkBrowser(req *http.Request, refused func(string) *problem) *problem {
	if site := req.Header["Sec-Fetch-Site"]; len(site) > 0 && (len(site) > 1 || (site[0] != "same-origin" && site[0] != "none")) {
		return refused("a web page of another site calls")
	}
	for _, origin := range req.Header["Origin"] {
		u, err := url.Parse(origin)
		if err != nil || u.Host == "" || !strings.EqualFold(withoutPort(u.Host, u.Scheme), withoutPort(hostOf(req), u.Scheme)) {
			return refused("a web page of another origin calls")
		}
	}
	return nil
}

// withoutPort removes a scheme's own port from a host.
func withoutPort(host, scheme string) string {
	switch scheme {
	case "https":
		return strings.TrimSuffix(host, ":443")
	case "http":
		return strings.TrimSuffix(host, ":80")
	}
	return host
}

// hostOf returns the host that the caller has addressed. By now req.Host may be the
// upstream's, because reverse_proxy can change it (header_up Host).
func hostOf(req *http.Request) string {
	if repl, ok := req.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
		if host, ok := repl.GetString("http.request.hostport"); ok {
			return host
		}
	}
	return req.Host
}

// localName reports whether the name surely is loopback's, or one of `hosts`. An
// attacker's DNS can point any other name at this host. Other addresses of this host
// are no better: browsers let a page call 0.0.0.0 and mapped addresses without a word
// about its origin.
func (c *callerCheck) localName(hostport string) bool {
	if hostport == "" || strings.HasPrefix(hostport, "127.0.0.1:") {
		return true
	}
	host := hostport
	if h, _, err := net.SplitHostPort(hostport); err == nil {
		host = h
	}
	if addr, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil {
		return (addr.IsLoopback() && !addr.Is4In6()) || slices.Contains(c.hosts, host)
	}
	return plainhttp.Loopback(host) || underLocalhost(host) || slices.ContainsFunc(c.hosts, func(h string) bool { return strings.EqualFold(h, host) })
}

// underLocalhost reports whether a name is under localhost. Browsers resolve such
// names to loopback without DNS (RFC 6761, section 6.3).
func underLocalhost(host string) bool {
	return strings.HasSuffix(strings.ToLower(strings.TrimSuffix(host, ".")), ".localhost")
}
