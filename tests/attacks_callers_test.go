package tests

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/caddyserver/caddy/v2"
)

// TestAttack17Addresses: a page's plain GET to another address of this host carries neither Origin nor Fetch Metadata. It is
// refused by the address.
func TestAttack17Addresses(t *testing.T) {
	s := newSidecar(t, setup{})
	s.config = bytes.ReplaceAll(s.config, []byte(`"host":["127.0.0.1"]`), []byte(`"path":["*"]`)) // a site for every name
	s.start(t)
	_, port, _ := strings.Cut(s.address, ":")
	for _, host := range []string{
		"0.0.0.0", "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::ffff:0.0.0.0]", "[::7f00:1]", "10.0.0.5", "169.254.169.254", "[fe80::1]",
		"0", "127.1", "2130706433", "0x7f000001", "evil.example", "127.0.0.1.evil.example",
	} {
		c := s.raw(t)
		c.send(t, "GET /things HTTP/1.1\r\nHost: %s:%s\r\n\r\n", host, port)
		c.answer(t).wantProblem(t, http.StatusForbidden, "caller-refused")
	}
	wantNoCalls(t, s)
	for _, host := range []string{"127.0.0.1", "127.9.9.9", "[::1]", "localhost", "app.localhost"} {
		c := s.raw(t)
		c.send(t, "GET /things HTTP/1.1\r\nHost: %s:%s\r\n\r\n", host, port)
		c.answer(t).wantOK(t)
	}
}

// TestAttack17PROXYProtocol: a PROXY header says that its sender came over a unix socket. The listener knows better.
func TestAttack17PROXYProtocol(t *testing.T) {
	s := launch(t, setup{global: "servers {\nlistener_wrappers {\nproxy_protocol {\nallow 127.0.0.0/8\n}\n}\n}"})
	unix := "\r\n\r\n\x00\r\nQUIT\n\x21\x31\x00\xd8" + "/run/app.sock" + strings.Repeat("\x00", 216-len("/run/app.sock"))
	for name, header := range map[string]string{
		"a path":          unix,
		"another network": "PROXY TCP4 10.1.2.3 127.0.0.1 1234 80\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			c := s.raw(t)
			c.send(t, "%sGET /things HTTP/1.1\r\nHost: %s\r\n\r\n", header, s.address)
			c.answer(t).wantProblem(t, http.StatusForbidden, "caller-refused")
		})
	}
	wantNoCalls(t, s)
	c := s.raw(t)
	c.send(t, "PROXY TCP4 127.0.0.1 127.0.0.1 1234 80\r\nGET /things HTTP/1.1\r\nHost: %s\r\n\r\n", s.address)
	c.answer(t).wantOK(t)
}

// TestAttack15HealthChecks: a health check takes the token only to where requests take it.
func TestAttack15HealthChecks(t *testing.T) {
	for name, tt := range map[string]struct{ proxy, says string }{
		"redirects":            {"health_uri /health\nhealth_follow_redirects", "health_follow_redirects: a redirect of a health check could take the token to another host"},
		"another host, plain":  {"health_uri /health\nhealth_upstream 192.0.2.1:80", "health_upstream 192.0.2.1:80: the token would go to a host that requests do not go to"},
		"a name, plain":        {"health_uri /health\nhealth_upstream api.example:80", "health_upstream api.example:80: the token would go to a host that requests do not go to"},
		"its own port is fine": {"health_uri /health\nhealth_port 1\nhealth_interval 1h", ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSidecar(t, setup{onlyTransport: true, proxy: tt.proxy})
			err := caddy.Load(s.config, true)
			t.Cleanup(func() { stop(t) })
			if (err == nil) != (tt.says == "") || (err != nil && !strings.Contains(err.Error(), tt.says)) {
				t.Errorf("got %v; want %q", err, tt.says)
			}
			if err != nil && !strings.Contains(err.Error(), "sidecar.caddyfile:") {
				t.Errorf("no place in %v", err)
			}
		})
	}
}

// TestAttack15HealthCheckRedirected: the redirect that a health check gets is not followed.
func TestAttack15HealthCheckRedirected(t *testing.T) {
	var hits, checks atomic.Int32
	elsewhere := counting(t, func(*http.Request) { hits.Add(1) })
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		checks.Add(1)
		http.Redirect(w, r, elsewhere, http.StatusTemporaryRedirect)
	}))
	t.Cleanup(api.Close)
	launch(t, setup{onlyTransport: true, upstream: api.URL, proxy: "health_uri /health\nhealth_interval 10ms"})
	eventually(t, "some health checks", func() bool { return checks.Load() >= 3 })
	if n := hits.Load(); n != 0 {
		t.Errorf("%d calls to where it points", n)
	}
}

// TestHealthChecksAreAuthorized: an active health check brings the token, and so an API that wants one is up.
func TestHealthChecksAreAuthorized(t *testing.T) {
	s := launch(t, setup{onlyTransport: true, proxy: "health_uri /health\nhealth_interval 10ms\nhealth_fails 1"})
	eventually(t, "some health checks", func() bool { return s.p.APICount() >= 5 })
	s.get(t).wantOK(t)
	for _, call := range s.p.APICalls() {
		if call.Serial == 0 || (call.Status != 0 && call.Status != http.StatusOK) { // 0: under way
			t.Errorf("%v", call)
		}
	}
}
