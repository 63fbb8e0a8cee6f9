package caddymodule

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-bearer/caddy-bearer/internal/plainhttp"
)

// callerCheck decides who may call. A Caddy site on http://127.0.0.1:9000
// listens on every interface unless bound, and a page in a browser on this
// host can call any local port: either would borrow the token.
type callerCheck struct {
	ranges []netip.Prefix
	hosts  []string
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

// checkPeer looks at who calls, and through what.
func (c *callerCheck) checkPeer(req *http.Request) *problem {
	refused := func(detail string) *problem {
		return &problem{name: problemCallerRefused, status: http.StatusForbidden, detail: detail}
	}
	peer, err := netip.ParseAddrPort(req.RemoteAddr)
	unixSocket := req.RemoteAddr == "@" || req.RemoteAddr == "" || strings.HasPrefix(req.RemoteAddr, "/")
	addr := peer.Addr().Unmap().WithZone("")
	switch {
	case unixSocket:
	case err != nil || !slices.ContainsFunc(c.ranges, func(p netip.Prefix) bool { return p.Contains(addr) }):
		return refused("the caller's address is not among `callers`")
	case addr.IsLoopback() && !c.localName(hostOf(req)):
		return refused("the request is addressed to a name that is not this host's: expected a loopback address, or the name in `hosts`")
	}
	return c.checkBrowser(req, refused)
}

// checkBrowser refuses pages of other origins (Fetch Metadata, and Origin).
func (c *callerCheck) checkBrowser(req *http.Request, refused func(string) *problem) *problem {
	if site := req.Header["Sec-Fetch-Site"]; len(site) > 0 && (len(site) > 1 || (site[0] != "same-origin" && site[0] != "none")) {
		return refused("a web page of another site calls")
	}
	for _, origin := range req.Header["Origin"] {
		u, err := url.Parse(origin)
		if err != nil || u.Host == "" || !strings.EqualFold(u.Host, hostOf(req)) {
			return refused("a web page of another origin calls")
		}
	}
	return nil
}

// hostOf returns the host that the caller addressed, which is not always the
// one that the upstream will see.
func hostOf(req *http.Request) string {
	if repl, ok := req.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
		if host, ok := repl.GetString("http.request.hostport"); ok {
			return host
		}
	}
	return req.Host
}

// localName reports whether a name cannot have been rebound to this host by
// somebody else's DNS: addresses cannot, nor can loopback's names.
func (c *callerCheck) localName(hostport string) bool {
	if hostport == "" || strings.HasPrefix(hostport, "127.0.0.1:") {
		return true
	}
	host := hostport
	if h, _, err := net.SplitHostPort(hostport); err == nil {
		host = h
	}
	if _, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil {
		return true
	}
	return plainhttp.Loopback(host) || underLocalhost(host) || slices.ContainsFunc(c.hosts, func(h string) bool { return strings.EqualFold(h, host) })
}

// underLocalhost reports whether a name is one that browsers keep to the
// loopback by themselves (RFC 6761, section 6.3): no web site's can be.
func underLocalhost(host string) bool {
	return strings.HasSuffix(strings.ToLower(strings.TrimSuffix(host, ".")), ".localhost")
}
