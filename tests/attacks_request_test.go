package tests

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/caddy-bearer/caddy-bearer/tests/provider"
)

// TestAttack1AuthorizationSpellings writes an app's own credentials in every way that some server along the line might
// take for Authorization. The provider takes any second one for a violation.
func TestAttack1AuthorizationSpellings(t *testing.T) {
	s := launch(t, setup{})
	s.get(t).wantOK(t)
	for _, lines := range [][]string{
		{"Authorization: Bearer mine"},
		{"authorization: Bearer mine"},
		{"AUTHORIZATION: Bearer mine"},
		{"aUTHORIZATION: Basic bWluZQ=="},
		{"Authorization: Bearer mine", "Authorization: Bearer second"},
		{"Authorization: Bearer mine", "authorization: Bearer second"},
		{"Authorization: Bearer mine, Bearer second"},
		{"Authorization:"},
		{"Authorization: Bearer mine\r\n folded"},
		{"Authorization_: Bearer mine"},
		{"Authorization-: Bearer mine"},
		{"_Authorization: Bearer mine"},
		{"-Authorization: Bearer mine"},
		{"AUTHORIZATION_: Bearer mine", "authorization: Bearer mine"},
		{"Proxy-Authorization: Basic bWluZQ=="},
		{"Proxy_Authorization: Basic bWluZQ=="},
		{"proxy-authorization_: Basic bWluZQ=="},
		{"Connection: Authorization"},
		{"Connection: authorization", "Authorization: Bearer mine"},
		{"Connection: close, Authorization", "Authorization: Bearer mine"},
		{"Connection: Authorization, keep-alive", "Connection: authorization"},
		{"Connection: Authorization_, Proxy-Authorization", "Authorization_: Bearer mine"},
		{"Te: trailers", "Trailer: Authorization"},
		{"Connection: Upgrade, Authorization", "Upgrade: websocket"},
	} {
		t.Run(fmt.Sprintf("%q", lines), func(t *testing.T) {
			s.p.Forget()
			c := s.raw(t)
			c.send(t, "GET /things HTTP/1.1\r\nHost: %s\r\n%s\r\n\r\n", s.address, strings.Join(lines, "\r\n"))
			got := c.answer(t)
			if got.status == http.StatusBadRequest && s.p.APICount() == 0 {
				return // not taken for a request at all
			}
			got.wantOK(t)
			wantOneAuthorization(t, s.p)
		})
	}
	t.Run("in the trailer", func(t *testing.T) {
		s.p.Forget()
		c := s.raw(t)
		c.send(t, "POST /things HTTP/1.1\r\nHost: %s\r\nTransfer-Encoding: chunked\r\nTrailer: X-Mine\r\n\r\n"+
			"2\r\nhi\r\n0\r\nAuthorization: Bearer mine\r\nX-Mine: 1\r\n\r\n", s.address)
		c.answer(t).wantOK(t)
		wantOneAuthorization(t, s.p)
	})
}

// wantOneAuthorization fails the test unless each call had the one header, with an issued token. The provider sees to the
// other spellings.
func wantOneAuthorization(t *testing.T, p *provider.Provider) {
	t.Helper()
	calls := p.APICalls()
	if len(calls) == 0 {
		t.Error("no call arrived")
	}
	for _, call := range calls {
		if n := len(call.Header["Authorization"]); n != 1 || call.Serial == 0 {
			t.Errorf("%d Authorization headers, token %d", n, call.Serial)
		}
	}
}

// TestAttack1HTTP2 is the same over HTTP/2, where names are in lower case on the wire and fields may be repeated.
func TestAttack1HTTP2(t *testing.T) {
	s := launch(t, setup{global: "servers {\n\tprotocols h1 h2c\n}"})
	conn := dial(t, s.address)
	write(t, conn, http2.ClientPreface)
	f := http2.NewFramer(conn, bufio.NewReader(conn))
	f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	if err := f.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	var block strings.Builder
	encoder := hpack.NewEncoder(&block)
	for i, name := range []string{"authorization", "authorization_", "proxy-authorization"} {
		block.Reset()
		for _, field := range [][2]string{
			{":method", "GET"},
			{":scheme", "http"},
			{":authority", s.address},
			{":path", "/"},
			{name, "Bearer mine"},
			{name, "Bearer second"},
		} {
			if err := encoder.WriteField(hpack.HeaderField{Name: field[0], Value: field[1]}); err != nil {
				t.Fatal(err)
			}
		}
		stream := uint32(2*i + 1) //nolint:gosec // three of them
		if err := f.WriteHeaders(http2.HeadersFrameParam{
			StreamID: stream, BlockFragment: []byte(block.String()), EndStream: true, EndHeaders: true,
		}); err != nil {
			t.Fatal(err)
		}
		for {
			frame, err := f.ReadFrame()
			if err != nil {
				t.Fatal(err)
			}
			if head, ok := frame.(*http2.MetaHeadersFrame); ok && head.StreamID == stream {
				if got := head.PseudoValue("status"); got != "200" {
					t.Errorf("%s: status %s", name, got)
				}
				break
			}
		}
	}
	wantOneAuthorization(t, s.p)
}

// TestAttack2Browser: a page of another origin may not borrow the token, however it names the sidecar.
func TestAttack2Browser(t *testing.T) {
	s := launch(t, setup{})
	port := s.address[strings.LastIndex(s.address, ":")+1:]
	for name, lines := range map[string]string{
		"foreign Origin":          "Origin: https://evil.example",
		"null Origin":             "Origin: null",
		"Origin of another port":  "Origin: http://127.0.0.1:1",
		"Origin by another name":  "Origin: http://localhost:" + port,
		"two Origins":             "Origin: http://" + s.address + "\r\nOrigin: https://evil.example",
		"malformed Origin":        "Origin: http://[",
		"cross-site":              "Sec-Fetch-Site: cross-site",
		"same-site":               "Sec-Fetch-Site: same-site",
		"unheard-of":              "Sec-Fetch-Site: other",
		"two Sec-Fetch-Site":      "Sec-Fetch-Site: none\r\nSec-Fetch-Site: cross-site",
		"lower case":              "sec-fetch-site: cross-site",
		"own Origin, cross-site":  "Origin: http://" + s.address + "\r\nSec-Fetch-Site: cross-site",
		"foreign and forwarded":   "Origin: https://evil.example\r\nX-Forwarded-Host: evil.example",
		"foreign Origin, upgrade": "Origin: https://evil.example\r\nConnection: Upgrade\r\nUpgrade: websocket",
	} {
		t.Run(name, func(t *testing.T) {
			c := s.raw(t)
			c.send(t, "POST /things HTTP/1.1\r\nHost: %s\r\nContent-Length: 0\r\n%s\r\n\r\n", s.address, lines)
			c.answer(t).wantProblem(t, http.StatusForbidden, "caller-refused")
		})
	}
	wantNoCalls(t, s)
	own := http.Header{"Origin": {"http://" + s.address}, "Sec-Fetch-Site": {"same-origin"}}
	s.call(t, http.MethodGet, "/", own, "").wantOK(t)
}

func wantNoCalls(t *testing.T, s *sidecar) {
	t.Helper()
	if n, m := s.p.APICount(), s.p.TokenCount(); n != 0 || m != 0 {
		t.Errorf("%d API calls and %d token calls", n, m)
	}
}

// TestAttack2Rebinding: a name that somebody's DNS points to this host is addressed to a site that takes any.
func TestAttack2Rebinding(t *testing.T) {
	s := newSidecar(t, setup{})
	s.config = []byte(strings.ReplaceAll(string(s.config), `"match":[{"host":["127.0.0.1"]}],`, ""))
	s.start(t)
	if strings.Contains(string(s.config), `"match":[{"host"`) {
		t.Fatal("the site takes only its own name: the test shows nothing")
	}
	for _, host := range []string{"evil.example", "evil.example:80", "127.0.0.1.evil.example", "localhost.evil.example", "127.0.0.1@evil.example"} {
		t.Run(host, func(t *testing.T) {
			c := s.raw(t)
			c.send(t, "GET /things HTTP/1.1\r\nHost: %s\r\nX-Forwarded-Host: 127.0.0.1\r\n\r\n", host)
			got := c.answer(t)
			if got.status != http.StatusBadRequest { // of Caddy, to what is no host at all
				got.wantProblem(t, http.StatusForbidden, "caller-refused")
			}
		})
	}
	wantNoCalls(t, s)
	for _, host := range []string{"localhost", "127.0.0.1", "[::1]:80", "app.localhost", "LOCALHOST:80"} {
		c := s.raw(t)
		c.send(t, "GET /things HTTP/1.1\r\nHost: %s\r\n\r\n", host)
		c.answer(t).wantOK(t)
	}
}

// TestAttack2Outsiders: the connection's peer counts, and not what a header says of it.
func TestAttack2Outsiders(t *testing.T) {
	s := launch(t, setup{global: "servers {\n\ttrusted_proxies static private_ranges\n}", transport: "callers 127.0.0.2/32"})
	forged := http.Header{"X-Forwarded-For": {"127.0.0.2"}, "X-Real-Ip": {"127.0.0.2"}, "Forwarded": {"for=127.0.0.2"}}
	s.call(t, http.MethodGet, "/", forged, "").wantProblem(t, http.StatusForbidden, "caller-refused")
	wantNoCalls(t, s)
	transport := &http.Transport{DialContext: (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}).DialContext}
	t.Cleanup(transport.CloseIdleConnections)
	s.client = &http.Client{Transport: transport}
	s.get(t).wantOK(t)
}

// TestAttack2Methods that show a request to its sender, or open a tunnel, are refused.
func TestAttack2Methods(t *testing.T) {
	s := launch(t, setup{})
	for _, line := range []string{"TRACE /", "CONNECT /", "TRACE *"} {
		c := s.raw(t)
		c.send(t, "%s HTTP/1.1\r\nHost: %s\r\n\r\n", line, s.address)
		c.answer(t).wantProblem(t, http.StatusMethodNotAllowed, "method-refused")
	}
	wantNoCalls(t, s)
}

// TestAttack3OtherTargets: whatever host a request names, the token goes to the configured upstream and nowhere else.
func TestAttack3OtherTargets(t *testing.T) {
	var hits atomic.Int32
	evil := hostOf(t, counting(t, func(*http.Request) { hits.Add(1) }))
	s := launch(t, setup{})
	want := strings.TrimPrefix(s.api, "http://")
	for _, request := range []string{
		"GET http://" + evil + "/things HTTP/1.1\r\nHost: " + s.address,
		"GET http://" + s.address + "@" + evil + "/things HTTP/1.1\r\nHost: " + s.address,
		"GET //" + evil + "/things HTTP/1.1\r\nHost: " + s.address,
		"GET ///" + evil + " HTTP/1.1\r\nHost: " + s.address,
		"GET /@" + evil + "/ HTTP/1.1\r\nHost: " + s.address,
		"GET @" + evil + "/ HTTP/1.1\r\nHost: " + s.address,
		"GET /\\" + evil + "/ HTTP/1.1\r\nHost: " + s.address,
		"GET / HTTP/1.1\r\nHost: " + evil,
		"GET / HTTP/1.1\r\nHost: " + s.address + "\r\nHost: " + evil,
		"GET / HTTP/1.1\r\nHost: " + s.address + "@" + evil,
		"GET / HTTP/1.1\r\nHost: " + s.address + "\r\nX-Forwarded-Host: " + evil + "\r\nForwarded: host=" + evil,
		"GET / HTTP/1.1\r\nHost: " + s.address + "\r\nX-Original-URL: http://" + evil + "/",
	} {
		t.Run(request, func(t *testing.T) {
			s.p.Forget()
			c := s.raw(t)
			c.send(t, "%s\r\n\r\n", request)
			c.answer(t)
			for _, call := range s.p.APICalls() {
				if call.Serial == 0 {
					t.Errorf("a call without a token: %+v", call)
				}
			}
		})
	}
	if n := hits.Load(); n != 0 {
		t.Errorf("%d calls to another host than %s", n, want)
	}
	s.get(t).wantOK(t)
}

// TestAttack3PlainHTTP: where a request decides the upstream, whether the token would go out in the clear is known only
// then. Nobody is called.
func TestAttack3PlainHTTP(t *testing.T) {
	s := launch(t, setup{onlyTransport: true, upstream: "{header.X-Upstream}", transport: "dial_timeout 1s"})
	to := func(upstream string) answer {
		return s.call(t, http.MethodGet, "/", http.Header{"X-Upstream": {upstream}}, "")
	}
	to("192.0.2.1:80").wantProblem(t, http.StatusBadGateway, "upstream-insecure")
	to("api.example:80").wantProblem(t, http.StatusBadGateway, "upstream-insecure")
	to("api.localhost:80").wantProblem(t, http.StatusBadGateway, "upstream-insecure")
	wantNoCalls(t, s)
	to(hostOf(t, s.api)).wantOK(t)
}

// TestAttack3Redirect of the API is the app's to follow, or not: without the token.
func TestAttack3Redirect(t *testing.T) {
	var hits atomic.Int32
	evil := counting(t, func(*http.Request) { hits.Add(1) })
	s := launch(t, setup{})
	s.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	for _, status := range []int{301, 302, 303, 307, 308} {
		s.p.ScriptAPI(provider.Redirect(status, evil))
		if got := s.get(t); got.status != status || got.header.Get("Location") != evil {
			t.Errorf("status %d, %v; want %d", got.status, got.header, status)
		}
	}
	if n := hits.Load(); n != 0 {
		t.Errorf("%d calls to where it points", n)
	}
}
