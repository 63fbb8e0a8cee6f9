package tests

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-bearer/caddy-bearer/tests/provider"
)

// intercepting is a sidecar that intercepts calls to an API on this host.
type intercepting struct {
	*place

	p     *provider.Provider
	proxy string // host:port of the proxy
	api   string // host:port of the API, by the name localhost
	roots *x509.CertPool
}

const interceptFile = `{
	default_bind 127.0.0.1
	skip_install_trust
	metrics
	token_source api {
		%s
		lazy
		%s
	}
	%s
}

http://:%s {
	%s
	bearer_intercept %s {
		localhost:%s api {
			tls_trust_pool file %s
			tls_server_name example.com
		}
		%s
	}
}
`

// interceptSetup is what a test may change.
type interceptSetup struct {
	source, options string       // further lines for these blocks
	global, site    string       // and for these
	matcher         string       // of bearer_intercept
	api             http.Handler // the provider by default
}

// launchIntercept starts it, in front of an API with HTTP/2 that has a certificate of a CA of its own.
func launchIntercept(t *testing.T, c interceptSetup) *intercepting {
	t.Helper()
	s := &intercepting{place: newPlace(t), p: provider.New(provider.Generic)}
	tokens := serve(t, s.p, provider.Whole)
	if c.api == nil {
		c.api = s.p
	}
	api := httptest.NewUnstartedServer(c.api)
	api.EnableHTTP2 = true
	api.StartTLS()
	t.Cleanup(func() {
		api.CloseClientConnections()
		api.Close()
	})
	_, port, err := net.SplitHostPort(api.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	s.api = "localhost:" + port
	ca := filepath.Join(s.dir, "api-ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: api.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	proxyPort := freePort(t)
	s.proxy = "127.0.0.1:" + proxyPort
	setenv(t, secretsOf(s.p))
	text := fmt.Sprintf(interceptFile, grantText(s.p, "", tokens+"/token", ""), c.source, c.global, proxyPort, c.site, c.matcher, port, ca, c.options)
	config := s.contain(t, adapt(t, "intercept.caddyfile", caddyfile.Format([]byte(text))))
	s.load(t, config)
	t.Cleanup(func() { s.searchCanaries(t, s.p, nil) })
	s.roots = x509.NewCertPool()
	if !s.roots.AppendCertsFromPEM(mustRead(t, s.storage(), "pki", "authorities", "local", "root.crt")) {
		t.Fatal("the CA's file has no certificate")
	}
	return s
}

// client is an app with HTTPS_PROXY.
func (s *intercepting) client(t *testing.T, user string) *http.Client {
	t.Helper()
	proxy := &url.URL{Scheme: "http", Host: s.proxy}
	if user != "" {
		proxy.User = url.UserPassword(user, "any")
	}
	transport := &http.Transport{Proxy: http.ProxyURL(proxy), TLSClientConfig: &tls.Config{RootCAs: s.roots}, ForceAttemptHTTP2: true}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: hang}
}

// connect sends a CONNECT, and gives the status line and the connection after it.
func (s *intercepting) connect(t *testing.T, target string, header ...string) (string, *client, *http.Response) {
	t.Helper()
	conn := dial(t, s.proxy)
	c := &client{conn, bufio.NewReader(conn)}
	c.send(t, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n%s\r\n", target, target, strings.Join(append(header, ""), "\r\n"))
	res, err := http.ReadResponse(c.in, &http.Request{Method: http.MethodConnect})
	if err != nil {
		t.Fatalf("CONNECT %s: %v", target, err)
	}
	return res.Status, c, res
}

// secure does the TLS handshake in a tunnel.
func (s *intercepting) secure(t *testing.T, c *client, name string, protocols ...string) (*tls.Conn, error) {
	t.Helper()
	conn := tls.Client(c.Conn, &tls.Config{ServerName: name, RootCAs: s.roots, NextProtos: protocols})
	ctx, cancel := context.WithTimeout(t.Context(), hang)
	defer cancel()
	return conn, conn.HandshakeContext(ctx)
}

// answerOf reads an answer from a connection.
func answerOf(t *testing.T, res *http.Response, err error) answer {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{status: res.StatusCode, header: res.Header, body: string(text)}
}

// TestInterceptClients: however a client comes to the proxy, its call gets a token, and the API sees its own name and nothing of
// the proxy's.
func TestInterceptClients(t *testing.T) {
	s := launchIntercept(t, interceptSetup{})
	absolute := func(scheme string) func(t *testing.T) answer {
		return func(t *testing.T) answer {
			conn := dial(t, s.proxy)
			c := &client{conn, bufio.NewReader(conn)}
			c.send(t, "GET %s://%s/things HTTP/1.1\r\nHost: %s\r\nProxy-Authorization: Basic YTpi\r\nProxy-Connection: keep-alive\r\nAuthorization: Bearer mine\r\n\r\n", scheme, s.api, s.api)
			return c.answer(t)
		}
	}
	inTunnel := func(head string, protocols ...string) func(t *testing.T) answer {
		return func(t *testing.T) answer {
			conn := dial(t, s.proxy)
			c := &client{conn, bufio.NewReader(conn)}
			c.send(t, head, s.api)
			if res, err := http.ReadResponse(c.in, &http.Request{Method: http.MethodConnect}); err != nil || res.StatusCode != http.StatusOK {
				t.Fatalf("%v, %v", res, err)
			}
			over, err := s.secure(t, c, "localhost", protocols...)
			if err != nil {
				t.Fatal(err)
			}
			write(t, over, fmt.Sprintf("GET /things HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer mine\r\nConnection: Authorization\r\n\r\n", s.api))
			res, err := http.ReadResponse(bufio.NewReader(over), nil)
			return answerOf(t, res, err)
		}
	}
	for name, call := range map[string]func(t *testing.T) answer{
		"HTTP/2": func(t *testing.T) answer {
			res, err := s.client(t, "").Get("https://" + s.api + "/things")
			if err == nil && res.ProtoMajor != 2 {
				t.Errorf("the client got %s", res.Proto)
			}
			return answerOf(t, res, err)
		},
		"HTTP/1.1":                  inTunnel("CONNECT %s HTTP/1.1\r\nHost: localhost\r\n\r\n", "http/1.1"), // as Node writes it: without the port
		"without ALPN":              inTunnel("CONNECT %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"),
		"HTTP/1.0, without headers": inTunnel("CONNECT %s HTTP/1.0\r\n\r\n", "http/1.1"), // as urllib of Python 3.11
		"plain text in a tunnel": func(t *testing.T) answer { // as Node for http://
			_, c, _ := s.connect(t, s.api)
			c.send(t, "GET /things HTTP/1.1\r\nHost: %s\r\n\r\n", s.api)
			return c.answer(t)
		},
		"http URL":  absolute("http"),
		"https URL": absolute("https"), // as axios up to 1.16.0
	} {
		t.Run(name, func(t *testing.T) {
			s.p.Forget()
			call(t).wantOK(t)
			calls := s.p.APICalls()
			if len(calls) != 1 || calls[0].Serial == 0 {
				t.Fatalf("the API got %+v", calls)
			}
			for name := range calls[0].Header {
				if strings.HasPrefix(name, "Proxy-") || strings.HasPrefix(name, "X-Forwarded") || name == "Via" || name == "Forwarded" {
					t.Errorf("the API got %s", name)
				}
			}
			if values := calls[0].Header["Authorization"]; len(values) != 1 {
				t.Errorf("%d Authorization headers", len(values))
			}
		})
	}
}

// TestInterceptRefusals: what is refused is refused with a complete response, whose status line says why.
func TestInterceptRefusals(t *testing.T) {
	s := launchIntercept(t, interceptSetup{options: "others 127.0.0.1:1 *.allowed.example"})
	other := strings.TrimPrefix(s.api, "localhost")
	for target, want := range map[string]struct {
		status int
		why    string
	}{
		"localhost:1":                {http.StatusForbidden, "only other ports"},
		"localhost:443":              {http.StatusForbidden, "only other ports"},
		"other.example:443":          {http.StatusForbidden, "not among the hosts"},
		"allowed.example:443":        {http.StatusForbidden, "not among the hosts"},
		"a.b.allowed.example:443":    {http.StatusForbidden, "not among the hosts"},
		"a.allowed.example:8443":     {http.StatusForbidden, "not among the hosts"},
		"169.254.169.254:80":         {http.StatusForbidden, "not among the hosts"},
		"127.0.0.1:1":                {http.StatusBadGateway, "not public"},
		"127.0.0.1" + other:          {http.StatusForbidden, "not among the hosts"},
		"localhost.evil.example:443": {http.StatusForbidden, "not among the hosts"},
		"a_b%41:443":                 {http.StatusBadRequest, ""},
		"localhost":                  {http.StatusBadRequest, "no port"},
		":443":                       {http.StatusBadRequest, ""},
		"user@" + s.api:              {http.StatusBadRequest, ""},
	} {
		t.Run(target, func(t *testing.T) {
			status, _, res := s.connect(t, target)
			if res.StatusCode != want.status || !strings.Contains(status, want.why) {
				t.Errorf("%s, want %d and %q", status, want.status, want.why)
			}
			if want.why != "" && (!res.Close || res.Header.Get("Content-Type") != "application/problem+json" || res.Header.Get("Proxy-Status") == "") {
				t.Errorf("close %v, %v", res.Close, res.Header)
			}
		})
	}
	if n := s.p.APICount() + s.p.TokenCount(); n != 0 {
		t.Errorf("%d calls to the provider", n)
	}
	for request, want := range map[string]int{
		"GET / HTTP/1.1\r\nHost: " + s.proxy:                                                        http.StatusNotFound,
		"GET http://other.example/ HTTP/1.1\r\nHost: other.example":                                 http.StatusForbidden,
		"GET ftp://" + s.api + "/ HTTP/1.1\r\nHost: " + s.api:                                       http.StatusBadRequest,
		"GET http://localhost:1/ HTTP/1.1\r\nHost: " + s.api:                                        http.StatusForbidden,
		"GET http://127.0.0.1:1/ HTTP/1.1\r\nHost: 127.0.0.1:1":                                     http.StatusBadGateway,
		"TRACE http://" + s.api + "/ HTTP/1.1\r\nHost: " + s.api:                                    http.StatusMethodNotAllowed,
		"GET http://" + s.api + "/ HTTP/1.1\r\nHost: " + s.api + "\r\nOrigin: https://evil.example": http.StatusForbidden,
	} {
		conn := dial(t, s.proxy)
		c := &client{conn, bufio.NewReader(conn)}
		c.send(t, "%s\r\n\r\n", request)
		if got := c.answer(t); got.status != want || got.problem() == "" {
			t.Errorf("%q: status %d, %s; want %d and a problem", request, got.status, got.body, want)
		}
	}
}

// TestInterceptCallers: a caller from elsewhere is refused before anything else.
func TestInterceptCallers(t *testing.T) {
	s := launchIntercept(t, interceptSetup{options: "callers 192.0.2.0/24"})
	for _, target := range []string{s.api, "other.example:443"} {
		if status, _, res := s.connect(t, target); res.StatusCode != http.StatusForbidden || !strings.Contains(status, "callers") {
			t.Errorf("%s: %s", target, status)
		}
	}
}

// TestInterceptOtherNames: a connection is for the name of its CONNECT, and for no other.
func TestInterceptOtherNames(t *testing.T) {
	s := launchIntercept(t, interceptSetup{})
	_, c, _ := s.connect(t, s.api)
	if _, err := s.secure(t, c, "other.example"); err == nil {
		t.Error("a handshake for another name succeeded")
	}
	s.wantLogged(t, "another name than CONNECT")
	for _, host := range []string{"other.example", "localhost:1", "localhost.", "LOCALHOST", "localhost", s.api} {
		_, c, _ := s.connect(t, s.api)
		over, err := s.secure(t, c, "localhost", "http/1.1")
		if err != nil {
			t.Fatal(err)
		}
		write(t, over, "GET /things HTTP/1.1\r\nHost: "+host+"\r\n\r\n")
		res, err := http.ReadResponse(bufio.NewReader(over), nil)
		got := answerOf(t, res, err)
		if strings.HasPrefix(strings.ToLower(host), "localhost") && host != "localhost:1" {
			got.wantOK(t)
		} else {
			got.wantProblem(t, http.StatusMisdirectedRequest, "misdirected")
		}
	}
}

// TestInterceptTunnels: other hosts are passed through untouched, with their own certificate and without a token.
func TestInterceptTunnels(t *testing.T) {
	var last http.Request
	other := httptest.NewTLSServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { last = *r }))
	t.Cleanup(other.Close)
	plain := recording(t, &last)
	s := launchIntercept(t, interceptSetup{options: "allow_addresses 127.0.0.1"})
	transport := &http.Transport{
		Proxy:           http.ProxyURL(&url.URL{Scheme: "http", Host: s.proxy}),
		TLSClientConfig: other.Client().Transport.(*http.Transport).TLSClientConfig,
	}
	t.Cleanup(transport.CloseIdleConnections)
	for _, where := range []string{other.URL, plain} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, where+"/mine?a=1;b", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer of-the-app")
		// net/http does not use a proxy for loopback, but for ProxyURL
		res, err := transport.RoundTrip(req)
		if got := answerOf(t, res, err); got.status != http.StatusOK || last.Header.Get("Authorization") != "Bearer of-the-app" || last.RequestURI != "/mine?a=1;b" || last.Host != req.URL.Host {
			t.Errorf("%s: status %d; it got %s of %s with %q", where, got.status, last.RequestURI, last.Host, last.Header["Authorization"])
		}
	}
	if n := s.p.TokenCount(); n != 0 {
		t.Errorf("%d token calls", n)
	}
}

// TestInterceptProxyUser: the user in the proxy's URL picks the token, so that one sidecar serves many.
func TestInterceptProxyUser(t *testing.T) {
	s := launchIntercept(t, interceptSetup{source: "key app {http.bearer.proxy_user}"})
	seen := map[int]bool{}
	for _, user := range []string{"alice", "bob"} {
		for range 2 {
			res, err := s.client(t, user).Get("https://" + s.api + "/things")
			seen[answerOf(t, res, err).wantOK(t).Serial] = true
		}
	}
	if len(seen) != 2 {
		t.Errorf("%d tokens for 2 users", len(seen))
	}
	res, err := s.client(t, "").Get("https://" + s.api + "/things")
	answerOf(t, res, err).wantProblem(t, http.StatusBadRequest, "key-missing")
	conn := dial(t, s.proxy) // a request inside cannot name a user
	c := &client{conn, bufio.NewReader(conn)}
	c.send(t, "CONNECT %s HTTP/1.1\r\n\r\nGET /things HTTP/1.1\r\nHost: %s\r\nProxy-Authorization: Basic YWxpY2U6cHc=\r\n\r\n", s.api, s.api) // at one go
	if _, err := http.ReadResponse(c.in, &http.Request{Method: http.MethodConnect}); err != nil {
		t.Fatal(err)
	}
	c.answer(t).wantProblem(t, http.StatusBadRequest, "key-missing")
}

// TestInterceptDistrust: a client that does not trust the CA is told of in the log, with the variables that would help, however
// it ends the handshake.
func TestInterceptDistrust(t *testing.T) {
	s := launchIntercept(t, interceptSetup{})
	for name, leave := range map[string]func(c *client){
		"alert": func(c *client) {
			_ = tls.Client(c.Conn, &tls.Config{ServerName: "localhost", RootCAs: x509.NewCertPool()}).HandshakeContext(t.Context())
		},
		"silent": func(c *client) {
			over, err := s.secure(t, c, "localhost")
			if err != nil {
				t.Fatal(err)
			}
			over.Close()
		},
		"cut": func(c *client) { write(t, c.Conn, "\x16\x03\x01\x02\x00\x01") },
	} {
		t.Run(name, func(t *testing.T) {
			before := countLines(s.logged(t), "may not trust")
			_, c, _ := s.connect(t, s.api)
			leave(c)
			c.Close()
			eventually(t, "the log tells", func() bool { return countLines(s.logged(t), "may not trust") == before+1 })
		})
	}
	s.wantLogged(t, "NODE_EXTRA_CA_CERTS")
	if n := s.metric(t, `caddy_bearer_intercepted_total{event="distrusted",route="`+s.api+`"}`); n == "" || n == "0" {
		t.Errorf("the metric is %q", n)
	}
}

// TestInterceptCertificates are kept in the storage, and sessions are resumed.
func TestInterceptCertificates(t *testing.T) {
	s := launchIntercept(t, interceptSetup{options: "*.provider.example api\n127.0.0.1 api"})
	sessions := tls.NewLRUClientSessionCache(10)
	handshake := func(name string) tls.ConnectionState {
		t.Helper()
		_, c, _ := s.connect(t, name+":443")
		over := tls.Client(c.Conn, &tls.Config{ServerName: name, RootCAs: s.roots, ClientSessionCache: sessions, NextProtos: []string{"http/1.1"}})
		if err := over.HandshakeContext(t.Context()); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		write(t, over, "TRACE / HTTP/1.1\r\nHost: "+name+"\r\n\r\n") // a refusal of our own, after which the tickets have come
		res, err := http.ReadResponse(bufio.NewReader(over), nil)
		answerOf(t, res, err).wantProblem(t, http.StatusMethodNotAllowed, "method-refused")
		return over.ConnectionState()
	}
	first := handshake("a.provider.example")
	if again := handshake("a.provider.example"); !again.DidResume {
		t.Error("the second handshake resumes no session")
	}
	handshake("b.provider.example")
	handshake("127.0.0.1")
	serial := first.PeerCertificates[0].SerialNumber
	config := s.configs.String()
	s.load(t, []byte(strings.SplitN(config, "\n", 2)[0]))
	sessions = tls.NewLRUClientSessionCache(10)
	if now := handshake("a.provider.example").PeerCertificates[0].SerialNumber; now.Cmp(serial) != 0 {
		t.Errorf("after a reload the certificate is another: %v, was %v", now, serial)
	}
	if names := first.PeerCertificates[0].DNSNames; len(names) != 1 || names[0] != "*.provider.example" {
		t.Errorf("the certificate is for %q", names)
	}
	if kept, err := filepath.Glob(filepath.Join(s.storage(), "certificates", "local", "[ab].provider.example")); err != nil || len(kept) > 0 {
		t.Errorf("%v, %v: an app can fill the storage with names that it makes up", kept, err)
	}
}

// TestInterceptAPIAway: an API that is away is counted once, and by its problem.
func TestInterceptAPIAway(t *testing.T) {
	closed := listen(t)
	closed.Close()
	away := closed.Addr().String()
	s := launchIntercept(t, interceptSetup{options: away + " api"})
	const failed, unreachable = `caddy_bearer_requests_total{result="error",source="api"}`, `caddy_bearer_requests_total{result="upstream-unreachable",source="api"}`
	errorsBefore, before := s.metric(t, failed), s.metric(t, unreachable)
	res, err := s.client(t, "").Get("https://" + away + "/things")
	answerOf(t, res, err).wantProblem(t, http.StatusBadGateway, "upstream-unreachable")
	if now := s.metric(t, unreachable); now == before {
		t.Errorf("counted %s times, as before", now)
	}
	if now := s.metric(t, failed); now != errorsBefore {
		t.Errorf("%s errors, %s before: it is counted twice", now, errorsBefore)
	}
}

// TestInterceptOpenedAhead: a tunnel that a client has opened ahead of need, and not used, ends with the config, so that the
// client notices.
func TestInterceptOpenedAhead(t *testing.T) {
	s := launchIntercept(t, interceptSetup{})
	_, c, _ := s.connect(t, s.api)
	s.load(t, []byte(strings.SplitN(s.configs.String(), "\n", 2)[0]))
	if _, err := c.in.ReadByte(); err == nil {
		t.Error("a byte came")
	}
}

// TestInterceptMatcher: a site whose matcher keeps the requests inside of a tunnel away says so. Caddy's own empty 200 would look
// like the API's.
func TestInterceptMatcher(t *testing.T) {
	s := launchIntercept(t, interceptSetup{site: "@connect method CONNECT", matcher: "@connect"})
	res, err := s.client(t, "").Get("https://" + s.api + "/things")
	answerOf(t, res, err).wantProblem(t, http.StatusNotFound, "not-found")
}

// TestInterceptMostSpecific: a name itself is before all names of its domain, whatever their order.
func TestInterceptMostSpecific(t *testing.T) {
	s := launchIntercept(t, interceptSetup{
		options: "*.provider.example api\napi.provider.example keyed",
		global:  "token_source keyed {\nkey user {http.bearer.proxy_user}\ngrant client_credentials {\ntoken_url https://login.example/token\n}\n}",
	})
	_, c, _ := s.connect(t, "api.provider.example:443")
	over, err := s.secure(t, c, "api.provider.example", "http/1.1")
	if err != nil {
		t.Fatal(err)
	}
	write(t, over, "GET / HTTP/1.1\r\nHost: api.provider.example\r\n\r\n")
	res, err := http.ReadResponse(bufio.NewReader(over), nil)
	answerOf(t, res, err).wantProblem(t, http.StatusBadRequest, "key-missing") // of the keyed source
}

// TestInterceptOwnProxy: a proxy that the sidecar itself has to use, often at a private address, is none of an app's targets.
func TestInterceptOwnProxy(t *testing.T) {
	own := listen(t)
	t.Setenv("HTTPS_PROXY", "http://"+own.Addr().String())
	t.Setenv("HTTP_PROXY", "http://"+own.Addr().String())
	s := launchIntercept(t, interceptSetup{})
	if status, _, res := s.connect(t, own.Addr().String()); res.StatusCode != http.StatusBadGateway || !strings.Contains(status, "not public") {
		t.Errorf("CONNECT to the proxy: %s", status)
	}
	for _, host := range []string{"169.254.169.254", "10.0.0.1", own.Addr().String()} {
		c := &client{dial(t, s.proxy), nil}
		c.in = bufio.NewReader(c.Conn)
		c.send(t, "GET http://%s/ HTTP/1.1\r\nHost: %s\r\n\r\n", host, host)
		c.answer(t).wantProblem(t, http.StatusBadGateway, "upstream-unreachable")
	}
}

// TestInterceptReload: a request in an intercepted connection is answered whatever happens to the config.
func TestInterceptReload(t *testing.T) {
	more := make(chan struct{})
	s := launchIntercept(t, interceptSetup{api: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			_ = http.NewResponseController(w).Flush()
			<-more
		}
		fmt.Fprint(w, "done")
	})})
	c := s.client(t, "")
	res, err := c.Get("https://" + s.api + "/slow")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	config := []byte(strings.SplitN(s.configs.String(), "\n", 2)[0])
	s.load(t, config)
	close(more)
	if text, err := io.ReadAll(res.Body); err != nil || string(text) != "done" {
		t.Errorf("%q, %v", text, err)
	}
	for range 3 { // net/http repeats a GET on a connection that has just been ended
		next, err := c.Get("https://" + s.api + "/fast")
		if got := answerOf(t, next, err); got.body != "done" {
			t.Errorf("status %d: %s", got.status, got.body)
		}
		s.load(t, config)
	}
}

// TestInterceptBothWaysAtOnce: streams work in both directions, as gRPC uses them.
func TestInterceptBothWaysAtOnce(t *testing.T) {
	s := launchIntercept(t, interceptSetup{api: echoing(t, "application/grpc")})
	body, out := io.Pipe()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+s.api+"/service/Method", body)
	if err != nil {
		t.Fatal(err)
	}
	req.Header = http.Header{"Te": {"trailers"}, "Content-Type": {"application/grpc"}}
	res, err := s.client(t, "").Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	in := bufio.NewReader(res.Body)
	for i := range 20 {
		fmt.Fprintf(out, "message %d\n", i)
		if line, err := in.ReadString('\n'); err != nil || line != fmt.Sprintf("echo message %d\n", i) {
			t.Fatalf("%q, %v", line, err)
		}
	}
	out.Close()
	if _, err := io.ReadAll(in); err != nil || res.Trailer.Get("Grpc-Status") != "16" {
		t.Errorf("%v, trailers %v", err, res.Trailer)
	}
}

// TestInterceptWebSocket: the upgrade works inside a tunnel.
func TestInterceptWebSocket(t *testing.T) {
	s := launchIntercept(t, interceptSetup{api: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasPrefix(r.Header.Get("Authorization"), "Bearer ") {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		conn, in, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		write(t, conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
		_, _ = io.Copy(conn, in)
	})})
	_, c, _ := s.connect(t, s.api)
	over, err := s.secure(t, c, "localhost", "http/1.1")
	if err != nil {
		t.Fatal(err)
	}
	write(t, over, "GET /socket HTTP/1.1\r\nHost: "+s.api+"\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
	in := bufio.NewReader(over)
	res, err := http.ReadResponse(in, nil)
	if err != nil || res.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("%v, %v", res, err)
	}
	for range 3 {
		write(t, over, "ping\n")
		if line, err := in.ReadString('\n'); err != nil || line != "ping\n" {
			t.Fatalf("%q, %v", line, err)
		}
	}
}

// TestInterceptLogs: each request inside a connection is in the access log, with its own line.
func TestInterceptLogs(t *testing.T) {
	s := launchIntercept(t, interceptSetup{})
	res, err := s.client(t, "").Get("https://" + s.api + "/things?inside")
	answerOf(t, res, err).wantOK(t)
	line := s.accessLog(t, "/things?inside")
	if request, _ := line["request"].(map[string]any); fmt.Sprint(line["status"]) != "200" || request["host"] != s.api || request["tls"] == nil {
		t.Errorf("%v", line)
	}
}

// TestHandlerDoesNotCallItself: a site that has the API's own name, and resolves it to itself, notices that.
func TestHandlerDoesNotCallItself(t *testing.T) {
	port := freePort(t)
	s := throughTheHandler(t, setup{port: port, upstream: "http://127.0.0.1:" + port})
	got := s.get(t)
	got.wantProblem(t, http.StatusBadGateway, "upstream-unreachable")
	if !strings.Contains(got.header.Get("Proxy-Status"), "proxy_loop_detected") {
		t.Errorf("Proxy-Status: %s", got.header.Get("Proxy-Status"))
	}
}

// TestTokenCommands: `caddy token env` and `run` lead a command's calls through the proxy, and `intercepted` tells of it.
func TestTokenCommands(t *testing.T) {
	s := launchIntercept(t, interceptSetup{})
	binary, err := buildCaddy()
	if err != nil {
		t.Fatal(err)
	}
	command := func(args ...string) (string, error) {
		cmd := commandIn(t, s.dir, binary, args...)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	ca := filepath.Join(s.storage(), "pki", "authorities", "local", "root.crt")
	common := []string{"--proxy", "http://" + s.proxy, "--ca-file", ca, "--dir", filepath.Join(s.dir, "certificates")}
	out, err := command(append([]string{"token", "env", "--user", "alice"}, common...)...)
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, want := range []string{"export HTTPS_PROXY='http://alice:any@" + s.proxy + "'", "export NODE_EXTRA_CA_CERTS='", "export SSL_CERT_FILE='"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %s in %s", want, out)
		}
	}
	bundle := string(mustRead(t, s.dir, "certificates", "bundle.pem"))
	if ours := string(mustRead(t, ca)); !strings.HasSuffix(bundle, ours) || strings.Count(bundle, "BEGIN CERTIFICATE") < 50 {
		t.Error("the bundle has not our certificate, or not the system's roots")
	}
	args := append([]string{"token", "run"}, common...)
	out, err = command(append(args, "--", "sh", "-c", "exit 7")...)
	if err == nil || !strings.Contains(err.Error(), "7") {
		t.Errorf("exit 7: %v: %s", err, out)
	}
	args = append(args, "--", "env", "no_proxy=", "NO_PROXY=", "curl", "--silent", "--show-error", "https://"+s.api+"/things")
	if out, err = command(args...); err != nil || !strings.Contains(out, `"serial"`) {
		t.Errorf("curl: %v: %s", err, out)
	}
	for _, wrong := range [][]string{
		{"token", "env", "--proxy", "127.0.0.1:3128", "--ca-file", ca},
		{"token", "env", "--proxy", "http://" + s.proxy, "--ca-file", filepath.Join(s.dir, "none")},
		{"token", "env", "--address", "unix/" + filepath.Join(s.dir, "none.sock")},
		{"token", "intercepted", "--address", "unix/" + filepath.Join(s.dir, "none.sock")},
		{"token", "nothing"},
		{"token", "run"},
	} {
		if out, err := command(wrong...); err == nil || strings.Contains(out, "panic") || !strings.Contains(out, "expected") && !strings.Contains(out, "no such file") && !strings.Contains(out, "requires") {
			t.Errorf("%q: %v: %s", wrong, err, out)
		}
	}
}

// TestInterceptedOverAdmin: the admin API lists whose calls came, and by what name.
func TestInterceptedOverAdmin(t *testing.T) {
	s := launchIntercept(t, interceptSetup{})
	socket := filepath.Join(s.dir, "admin.sock")
	var config map[string]any
	if err := json.Unmarshal([]byte(strings.SplitN(s.configs.String(), "\n", 2)[0]), &config); err != nil {
		t.Fatal(err)
	}
	config["admin"] = map[string]any{"listen": "unix/" + socket + "|0600", "config": map[string]any{"persist": false}}
	text, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	s.load(t, text)
	res, err := s.client(t, "carol").Get("https://" + s.api + "/things")
	answerOf(t, res, err).wantOK(t)
	binary, err := buildCaddy()
	if err != nil {
		t.Fatal(err)
	}
	out, err := commandIn(t, s.dir, binary, "token", "intercepted", "--address", "unix/"+socket).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	found := false
	for line := range strings.Lines(string(out)) {
		fields := strings.Fields(line)
		found = found || len(fields) > 5 && fields[0] == s.api && fields[1] == s.api && fields[2] == "127.0.0.1" && fields[3] == "carol" && fields[4] == "1" && fields[5] == "1"
	}
	if !found {
		t.Errorf("no line for carol in\n%s", out)
	}
	out, err = commandIn(t, s.dir, binary, "token", "env", "--address", "unix/"+socket, "--dir", filepath.Join(s.dir, "certificates")).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "export HTTPS_PROXY='http://"+s.proxy+"'") {
		t.Errorf("%v: %s", err, out)
	}
}
