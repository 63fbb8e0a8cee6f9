package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"golang.org/x/net/http/httpproxy"
)

// guardedDialer connects to hosts that an app has named. It does not connect to
// addresses of this host or its networks, whatever the name: through such a name, an
// app could reach what only the sidecar can, such as a cloud's metadata service, and a
// foreign DNS could lead a token there.
type guardedDialer struct {
	allowed []netip.Prefix // besides public addresses
	proxies []string       // host:port of the environment's proxies, where a transport uses these
	dialer  net.Dialer
}

// errProhibited says that an address is not public, and not allowed.
var errProhibited = errors.New("not a public address")

const (
	defaultDialTimeout = 3 * time.Second // as in Caddy's http transport
	proxyVariables     = "HTTPS_PROXY or HTTP_PROXY"
)

// newGuardedDialer makes a dialer. proxies are addresses that may be connected to, too: a
// transport dials them in the place of the host. For an app's own targets there are none.
// Zero durations are Caddy's defaults. The transport's other settings for connections are
// not supported; see unsupportedByGuard.
func newGuardedDialer(allowed []netip.Prefix, proxies []string, timeout, fallbackDelay time.Duration) *guardedDialer {
	if timeout == 0 {
		timeout = defaultDialTimeout
	}
	return &guardedDialer{
		allowed: allowed, proxies: proxies,
		dialer: net.Dialer{Timeout: timeout, FallbackDelay: fallbackDelay},
	}
}

// environmentProxies returns the host and port of each proxy that the environment names
// for the sidecar's own calls. They are often at private addresses.
func environmentProxies() []string {
	var list []string
	config := httpproxy.FromEnvironment()
	for _, text := range []string{config.HTTPProxy, config.HTTPSProxy} {
		if text == "" {
			continue
		}
		if !strings.Contains(text, "://") {
			text = "http://" + text
		}
		u, err := url.Parse(text)
		if err != nil {
			continue
		}
		port := u.Port()
		if port == "" {
			port = map[string]string{"http": "80", "https": "443", "socks5": "1080", "socks5h": "1080"}[u.Scheme]
		}
		list = append(list, net.JoinHostPort(u.Hostname(), port))
	}
	return list
}

// DialContext connects to an address, which may have a name. Each address that the name
// has is checked at the moment when it is connected to, so that a second answer of the
// DNS cannot replace the one that was checked. Its errors are reverseproxy.DialError.
func (g *guardedDialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	d := g.dialer
	if !slices.Contains(g.proxies, address) {
		d.ControlContext = func(_ context.Context, _, resolved string, _ syscall.RawConn) error { return g.check(resolved) }
	}
	conn, err := d.DialContext(ctx, network, address)
	if err != nil {
		return nil, reverseproxy.NewDialError(err)
	}
	return conn, nil
}

func (g *guardedDialer) check(resolved string) error {
	ap, err := netip.ParseAddrPort(resolved)
	if err != nil {
		return fmt.Errorf("%w: %s", errProhibited, resolved)
	}
	addr := ap.Addr().WithZone("")
	contains := func(p netip.Prefix) bool { return p.Contains(addr.Unmap()) }
	if slices.ContainsFunc(g.allowed, contains) {
		return nil
	}
	if !public(addr) {
		return fmt.Errorf("%w: %s", errProhibited, addr)
	}
	return nil
}

// notPublic are the ranges of the IANA special-purpose registries (RFC 6890) that are
// not globally reachable, besides those that package netip knows.
var notPublic = func() (list []netip.Prefix) {
	for _, text := range []string{
		"0.0.0.0/8", "100.64.0.0/10", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "198.18.0.0/15", "198.51.100.0/24",
		"203.0.113.0/24", "240.0.0.0/4", "64:ff9b:1::/48", "100::/64", "2001::/23", "2001:db8::/32", "3fff::/20", "5f00::/16", "fec0::/10",
	} {
		list = append(list, netip.MustParsePrefix(text))
	}
	return list
}()

// public reports whether an address is one of the public internet. An IPv4 address that
// an IPv6 address carries (mapped, NAT64, 6to4) must be public, too.
func public(addr netip.Addr) bool {
	addr = addr.Unmap()
	if addr.Is6() {
		b := addr.As16()
		switch {
		case netip.MustParsePrefix("64:ff9b::/96").Contains(addr):
			return public(netip.AddrFrom4([4]byte(b[12:16])))
		case netip.MustParsePrefix("2002::/16").Contains(addr):
			return public(netip.AddrFrom4([4]byte(b[2:6])))
		case netip.MustParsePrefix("::/96").Contains(addr):
			return false
		}
	}
	return addr.IsGlobalUnicast() && !addr.IsPrivate() && !slices.ContainsFunc(notPublic, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// errLoop says that a name leads back to the server that calls it.
var errLoop = errors.New("the name leads to this sidecar itself")

// notItself makes dial refuse connections from a server to itself for a request that was
// for the upstream's own name. So it is where a client's DNS, or a hosts file, leads a
// provider's name to the sidecar, and the sidecar resolves it in the same way: it would
// call itself until it has no descriptors left.
func notItself(server *caddyhttp.Server, dial dialFunc) dialFunc {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		if err != nil || !sameRequestHost(ctx, address) || !connectsTo(server, conn) {
			return conn, err
		}
		_ = conn.Close()
		return nil, reverseproxy.NewDialError(fmt.Errorf("%w: %s", errLoop, address))
	}
}

// sameRequestHost reports whether the request that wants a connection was for the host
// of an address.
func sameRequestHost(ctx context.Context, address string) bool {
	repl, ok := ctx.Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	if !ok {
		return false
	}
	asked, _ := repl.GetString("http.request.host")
	host, _, err := net.SplitHostPort(address)
	return err == nil && strings.EqualFold(strings.TrimSuffix(asked, "."), strings.TrimSuffix(host, "."))
}

// connectsTo reports whether a connection leads to a server in this process. One to the
// same host has the same address at both ends.
func connectsTo(server *caddyhttp.Server, conn net.Conn) bool {
	local, ok := conn.LocalAddr().(*net.TCPAddr)
	remote, ok2 := conn.RemoteAddr().(*net.TCPAddr)
	return ok && ok2 && local.IP.Equal(remote.IP) && listensAt(server, fmt.Sprint(remote.Port))
}

// listensAt reports whether a server listens at a port.
func listensAt(server *caddyhttp.Server, port string) bool {
	return slices.ContainsFunc(server.Listen, func(listen string) bool {
		addr, err := caddy.ParseNetworkAddress(listen)
		return err == nil && !addr.IsUnixNetwork() && fmt.Sprint(addr.StartPort) == port
	})
}

// unsupportedByGuard names the options of transport http that decide how to connect,
// and that a guarded dialer does not have; empty: none is set.
func unsupportedByGuard(h *reverseproxy.HTTPTransport) string {
	switch {
	case h.Resolver != nil:
		return "resolvers"
	case h.LocalAddress != "":
		return "local_address"
	case h.ProxyProtocol != "":
		return "proxy_protocol"
	case h.ReadTimeout != 0:
		return "read_timeout"
	case h.WriteTimeout != 0:
		return "write_timeout"
	case h.TLS != nil && hasPlaceholder(h.TLS.ServerName):
		return "tls_server_name"
	case slices.Contains(h.Versions, "3"):
		return "versions 3"
	}
	return ""
}
