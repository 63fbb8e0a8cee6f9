package caddymodule

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/pires/go-proxyproto"
)

func mustCallers(t testing.TB, callers, hosts []string) *callerCheck {
	t.Helper()
	c, err := newCallerCheck(callers, hosts)
	if err != nil {
		t.Fatal(err)
	}
	return &c
}

// call is a request as a Caddy server passes it on: the Host has already been
// rewritten for the upstream.
func call(peer, host string) *http.Request {
	original := httptest.NewRequest(http.MethodGet, "http://localhost/", nil)
	original.Host = host
	ctx := context.WithValue(original.Context(), caddy.ReplacerCtxKey, caddyhttp.NewTestReplacer(original))
	ctx = context.WithValue(ctx, http.LocalAddrContextKey, &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 9000})
	req := original.Clone(context.WithValue(ctx, caddyhttp.ServerCtxKey, new(caddyhttp.Server)))
	req.RemoteAddr, req.Host = peer, "api.example"
	return req
}

// overSocket is a call over a unix socket.
func overSocket(host string) *http.Request {
	req := call("@", host)
	return req.WithContext(context.WithValue(req.Context(), caddyhttp.ConnCtxKey, net.Conn(new(net.UnixConn))))
}

func nameOf(p *problem) string {
	if p == nil {
		return ""
	}
	return p.name
}

// TestCallersPeer is attack 2: who may call by the connection's peer.
func TestCallersPeer(t *testing.T) {
	for _, c := range []struct {
		peer    string
		callers []string
		allowed bool
	}{
		{"127.0.0.1:1234", nil, true},
		{"127.8.8.8:1", nil, true},
		{"[::1]:1234", nil, true},
		{"[::ffff:127.0.0.1]:1234", nil, true},
		{"[::1%lo]:1234", nil, true},
		{"@", nil, false}, // told by somebody else: it is no unix socket
		{"", nil, false},
		{"/run/app.sock", nil, false},
		{"10.1.2.3:1234", nil, false},
		{"[::ffff:10.1.2.3]:1234", nil, false},
		{"[fe80::1%eth0]:1234", nil, false},
		{"128.0.0.1:1", nil, false},
		{"0.0.0.0:1", nil, false},
		{"[::]:1", nil, false},
		{"localhost:1234", nil, false},
		{"nonsense", nil, false},
		{"127.0.0.1", nil, false},
		{"10.1.2.3:1234", []string{"10.1.0.0/16"}, true},
		{"[::ffff:10.1.2.3]:1234", []string{"10.1.0.0/16"}, true},
		{"10.1.2.3:1234", []string{"10.1.2.3"}, true},
		{"10.1.2.3:1234", []string{"10.1.9.9/16"}, true},
		{"10.2.2.3:1234", []string{"10.1.0.0/16"}, false},
		{"127.0.0.1:1234", []string{"10.1.0.0/16"}, false}, // who names ranges names loopback's too
		{"[2001:db8::5]:1", []string{"2001:db8::/64"}, true},
		{"[fe80::1%eth0]:1", []string{"fe80::/10"}, true},
		{"[2001:db8:1::5]:1", []string{"2001:db8::/64"}, false},
	} {
		got := nameOf(mustCallers(t, c.callers, nil).check(call(c.peer, "localhost:9000")))
		want := problemCallerRefused
		if c.allowed {
			want = ""
		}
		if got != want {
			t.Errorf("peer %q with callers %v: got %q, want %q", c.peer, c.callers, got, want)
		}
	}
}

// TestCallersMapped: an IPv4 range may be written the IPv6 way.
func TestCallersMapped(t *testing.T) {
	for _, written := range []string{"::ffff:10.1.2.3", "::ffff:10.1.0.0/112"} {
		for _, peer := range []string{"10.1.2.3:1234", "[::ffff:10.1.2.3]:1234"} {
			if p := mustCallers(t, []string{written}, nil).check(call(peer, "localhost")); p != nil {
				t.Errorf("peer %s with callers %s: refused", peer, written)
			}
		}
	}
}

// TestCallersIgnoreForwardedFor: the peer is the connection's.
func TestCallersIgnoreForwardedFor(t *testing.T) {
	req := call("10.1.2.3:1234", "localhost")
	for _, name := range []string{"X-Forwarded-For", "X-Real-Ip", "Forwarded"} {
		req.Header.Set(name, "127.0.0.1")
	}
	if mustCallers(t, nil, nil).check(req) == nil {
		t.Error("allowed")
	}
}

// TestCallersHost: a name that somebody else's DNS points to this host is
// refused, however much it looks like one of this host's.
func TestCallersHost(t *testing.T) {
	hosts := []string{"sidecar.internal", "10.0.0.6"}
	for host, allowed := range map[string]bool{
		"localhost": true, "localhost:9000": true, "LocalHost:9000": true, "localhost.": true, "app.localhost:9000": true,
		"127.0.0.1": true, "127.0.0.1:9000": true, "[::1]": true, "[::1]:9000": true, "": true, "127.8.8.8:9000": true,
		"10.0.0.5:9000": false, "0.0.0.0:9000": false, "[::]:9000": false, "[::ffff:127.0.0.1]:9000": false, "10.0.0.6:9000": true, "[fe80::1]": false,
		"sidecar.internal": true, "Sidecar.Internal:9000": true,
		"evil.example": false, "evil.example:9000": false, "localhost.evil.example": false, "127.0.0.1.evil.example:9000": false,
		"evillocalhost": false, "other.internal": false, "x.sidecar.internal": false, "0x7f000001": false, "localhost:9000:evil": false,
	} {
		got := mustCallers(t, nil, hosts).check(call("127.0.0.1:1234", host)) == nil
		if got != allowed {
			t.Errorf("host %q: allowed %v, want %v", host, got, allowed)
		}
	}
	if p := mustCallers(t, []string{"10.1.0.0/16"}, nil).check(call("10.1.2.3:1", "sidecar.example")); p != nil {
		t.Errorf("a permitted caller on another host: %s", p.detail)
	}
	if p := mustCallers(t, nil, nil).check(overSocket("evil.example")); p != nil {
		t.Errorf("a browser cannot call a unix socket: %s", p.detail)
	}
}

// TestCallersBrowser: pages of other origins are refused, by what browsers say
// of them.
func TestCallersBrowser(t *testing.T) {
	for _, c := range []struct {
		header  http.Header
		allowed bool
	}{
		{nil, true},
		{http.Header{"Sec-Fetch-Site": {"none"}}, true},
		{http.Header{"Sec-Fetch-Site": {"same-origin"}}, true},
		{http.Header{"Sec-Fetch-Site": {"same-site"}}, false},
		{http.Header{"Sec-Fetch-Site": {"cross-site"}}, false},
		{http.Header{"Sec-Fetch-Site": {"none", "cross-site"}}, false},
		{http.Header{"Sec-Fetch-Site": {""}}, false},
		{http.Header{"Origin": {"http://localhost:9000"}}, true},
		{http.Header{"Origin": {"HTTP://LOCALHOST:9000"}}, true},
		{http.Header{"Origin": {"http://localhost:9001"}}, false},
		{http.Header{"Origin": {"http://localhost"}}, false},
		{http.Header{"Origin": {"https://evil.example"}}, false},
		{http.Header{"Origin": {"http://localhost:9000.evil.example"}}, false},
		{http.Header{"Origin": {"null"}}, false},
		{http.Header{"Origin": {""}}, false},
		{http.Header{"Origin": {"http://localhost:9000", "https://evil.example"}}, false},
		{http.Header{"Origin": {"http://localhost:9000"}, "Sec-Fetch-Site": {"cross-site"}}, false},
	} {
		for peer, req := range map[string]*http.Request{
			"loopback": call("127.0.0.1:1234", "localhost:9000"), "socket": overSocket("localhost:9000"), "another": call("10.1.2.3:1234", "localhost:9000"),
		} {
			req.Header = c.header
			got := mustCallers(t, []string{"127.0.0.1", "10.1.2.3"}, nil).check(req) == nil
			if got != c.allowed {
				t.Errorf("%s with %v: allowed %v, want %v", peer, c.header, got, c.allowed)
			}
		}
	}
}

func TestCallersMethod(t *testing.T) {
	for method, want := range map[string]string{
		http.MethodTrace: problemMethodRefused, http.MethodConnect: problemMethodRefused,
		http.MethodGet: "", http.MethodOptions: "", http.MethodDelete: "", "PURGE": "",
	} {
		for peer, req := range map[string]*http.Request{"loopback": call("127.0.0.1:1", "localhost"), "socket": overSocket("localhost")} {
			req.Method = method
			if got := nameOf(mustCallers(t, nil, nil).check(req)); got != want {
				t.Errorf("%s from %s: got %q, want %q", method, peer, got, want)
			}
		}
	}
}

// TestAttack17UnixSocket: what came over a unix socket is known by the listener or the
// connection, whatever the peer's address says.
func TestAttack17UnixSocket(t *testing.T) {
	unix, tcp := net.Conn(new(net.UnixConn)), net.Conn(new(net.TCPConn))
	for name, c := range map[string]struct {
		conn    net.Conn
		allowed bool
	}{
		"unix":                    {unix, true},
		"TLS over unix":           {tls.Server(unix, nil), true},
		"PROXY over unix":         {proxyproto.NewConn(unix), true},
		"wrapped unix":            {&struct{ net.Conn }{unix}, true},
		"wrapped PROXY over tcp":  {&struct{ net.Conn }{proxyproto.NewConn(tcp)}, false},
		"TLS over PROXY over tcp": {tls.Server(proxyproto.NewConn(tcp), nil), false},
		"tcp":                     {tcp, false},
		"nothing":                 {nil, false},
	} {
		for _, peer := range []string{"@", "", "/run/app.sock"} {
			req := call(peer, "localhost")
			req = req.WithContext(context.WithValue(req.Context(), caddyhttp.ConnCtxKey, c.conn))
			if got := mustCallers(t, nil, nil).check(req) == nil; got != c.allowed {
				t.Errorf("%s as %q: allowed %v, want %v", name, peer, got, c.allowed)
			}
		}
	}
}

// TestCallersHealthCheck: Caddy's active health checks come from no
// connection. What does come from one is no health check, whatever it says.
func TestCallersHealthCheck(t *testing.T) {
	check := httptest.NewRequest(http.MethodGet, "http://api.example/health", nil)
	check = check.WithContext(context.WithValue(check.Context(), caddyhttp.ServerCtxKey, new(caddyhttp.Server)))
	check.RemoteAddr = ""
	if p := mustCallers(t, nil, nil).check(check); p != nil {
		t.Errorf("refused: %s", p.detail)
	}
	req := call("10.1.2.3:1", "localhost")
	req.Header.Set("User-Agent", "Caddy")
	if mustCallers(t, nil, nil).check(req) == nil {
		t.Error("a caller passed for a health check")
	}
}
