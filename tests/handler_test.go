package tests

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"testing"

	"github.com/caddy-bearer/caddy-bearer/tests/provider"
)

// throughTheHandler skips nothing: these tests are of the directive bearer, whatever way the others take.
func throughTheHandler(t *testing.T, c setup) *sidecar {
	t.Helper()
	before := *way
	*way = "handler"
	defer func() { *way = before }()
	return launch(t, c)
}

// recording is an API that keeps the last request.
func recording(t *testing.T, last *http.Request) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		*last = *r
		_, _ = io.Copy(io.Discard, r.Body)
	}))
	t.Cleanup(server.Close)
	return server.URL
}

// TestHandlerTarget: the API sees its own Host, the base path and then the request's, and the query as the app wrote it, also
// what Go's url.ParseQuery would refuse.
func TestHandlerTarget(t *testing.T) {
	var last http.Request
	api := recording(t, &last)
	s := throughTheHandler(t, setup{upstream: api + "/v2"})
	for asked, want := range map[string]string{
		"/things":                   "/v2/things",
		"/":                         "/v2/",
		"/a%2Fb//c?x=1;y=2&%zz&z":   "/v2/a%2Fb//c?x=1;y=2&%zz&z",
		"//evil.example/things?q=1": "/v2//evil.example/things?q=1",
	} {
		c := s.raw(t)
		c.send(t, "GET %s HTTP/1.1\r\nHost: %s\r\nX-Forwarded-For: 192.0.2.1\r\nForwarded: for=192.0.2.1\r\nVia: 1.1 app\r\n\r\n", asked, s.address)
		if got := c.answer(t); got.status != http.StatusOK {
			t.Fatalf("%s: status %d: %s", asked, got.status, got.body)
		}
		if last.RequestURI != want || last.Host != hostOf(t, api) {
			t.Errorf("%s: the API got %s with the Host %s, want %s, %s", asked, last.RequestURI, last.Host, want, hostOf(t, api))
		}
		for _, name := range []string{"X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "Forwarded", "Via", "User-Agent"} {
			if values, told := last.Header[name]; told {
				t.Errorf("%s is told: %q", name, values)
			}
		}
	}
	last = http.Request{}
	for _, asked := range []string{"/../admin", "/%2e%2e/admin", "/a/../../admin", "/..%2fadmin", "/./things"} {
		c := s.raw(t)
		c.send(t, "GET %s HTTP/1.1\r\nHost: %s\r\n\r\n", asked, s.address)
		c.answer(t).wantProblem(t, http.StatusBadRequest, "bad-request")
		if last.RequestURI != "" {
			t.Errorf("%s: the API got %s", asked, last.RequestURI)
		}
	}
}

// TestHandlerUpstreamOfTheToken: the provider says with the token where its API is, and another place with the next token. A
// host that is not allowed gets nothing.
func TestHandlerUpstreamOfTheToken(t *testing.T) {
	var first, second http.Request
	places := []string{recording(t, &first) + "/one", recording(t, &second) + "/two", "https://evil.example"}
	p := provider.New(provider.Generic)
	tokens := mangled(t, p, func(w http.ResponseWriter, answer *httptest.ResponseRecorder) {
		var body map[string]any
		if err := json.Unmarshal(answer.Body.Bytes(), &body); err != nil {
			t.Error(err)
		}
		body["instance_url"] = places[0]
		places = places[1:]
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(body)
	})
	hosts := ""
	for _, place := range places {
		if u, err := url.Parse(place); err == nil && u.Hostname() == "127.0.0.1" {
			hosts += " " + u.Host
		}
	}
	before := *way
	*way = "handler"
	defer func() { *way = before }()
	s := newSidecarOf(t, p, setup{
		tokenURL: tokens, upstream: "{token.instance_url}/data", transport: "allow_hosts" + hosts,
		source: "lifetime 1h\nmin_interval 1ms", grant: "response {\n\texpires_in none never\n}",
	})
	s.start(t)
	if got := s.get(t); got.status != http.StatusOK || first.URL == nil || first.URL.Path != "/one/data/things" {
		t.Fatalf("status %d: %s; the first place got %v", got.status, got.body, first.URL)
	}
	s.reset(t)
	if got := s.get(t); got.status != http.StatusOK || second.URL == nil || second.URL.Path != "/two/data/things" {
		t.Fatalf("status %d: %s; the second place got %v", got.status, got.body, second.URL)
	}
	s.reset(t)
	s.get(t).wantProblem(t, http.StatusBadGateway, "token-refused")
}

// reset stops Caddy, forgets the stored tokens, and starts it again.
func (s *sidecar) reset(t *testing.T) {
	t.Helper()
	stop(t)
	for _, file := range s.records(t) {
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
	}
	s.load(t, s.config)
}

// TestHandlerAPIAway: whatever keeps the API from answering is a problem with its cause, and no bare status.
func TestHandlerAPIAway(t *testing.T) {
	closed := listen(t)
	closed.Close()
	silent := listen(t)
	notTLS := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(notTLS.Close)
	stranger := httptest.NewTLSServer(http.NotFoundHandler())
	t.Cleanup(stranger.Close)
	hangsUp := hangingUp(t)
	for name, c := range map[string]struct {
		upstream, options, problem, cause string
		status                            int
	}{
		"refused":     {"http://" + closed.Addr().String(), "", "upstream-unreachable", "error=connection_refused", http.StatusBadGateway},
		"no name":     {"https://api.invalid", "", "upstream-unreachable", "error=dns_error", http.StatusBadGateway},
		"silent":      {"http://" + silent.Addr().String(), "timeout 100ms", "upstream-timeout", "error=http_response_timeout", http.StatusGatewayTimeout},
		"late header": {"http://" + silent.Addr().String(), "response_header_timeout 100ms", "upstream-timeout", "error=http_response_timeout", http.StatusGatewayTimeout},
		"not TLS":     {strings.Replace(notTLS.URL, "http", "https", 1), "", "upstream-unreachable", "error=connection_terminated", http.StatusBadGateway},
		"not trusted": {stranger.URL, "", "upstream-unreachable", "error=tls_certificate_error", http.StatusBadGateway},
		"hangs up":    {hangsUp, "", "upstream-unreachable", "error=connection_terminated", http.StatusBadGateway},
	} {
		t.Run(name, func(t *testing.T) {
			s := throughTheHandler(t, setup{
				upstream: c.upstream, transport: c.options,
				site: "log_append problem {http.bearer.problem}\nlog_append state {http.bearer.token_state}",
			})
			got := s.get(t)
			got.wantProblem(t, c.status, c.problem)
			if why := got.header.Get("Proxy-Status"); !strings.Contains(why, c.cause) {
				t.Errorf("Proxy-Status: %s, want %s", why, c.cause)
			}
			if n := s.p.TokenCount(); n != 1 {
				t.Errorf("%d token calls: the API's absence says nothing of the token", n)
			}
			s.wantLogged(t, `"problem":"`+c.problem+`"`)
			if got := s.post(t, "body"); got.problem() != c.problem {
				t.Errorf("POST: status %d: %s", got.status, got.body)
			}
		})
	}
}

// TestHandlerDynamicAPIAway: where the upstream depends on the key, the problem is the same, and the log does not tell the key.
func TestHandlerDynamicAPIAway(t *testing.T) {
	closed := listen(t)
	closed.Close()
	_, port, err := net.SplitHostPort(closed.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	s := throughTheHandler(t, setup{
		source: "key host {header.X-Host}", upstream: "http://{key.host}:" + port + "/base", transport: "allow_hosts 127.0.0.1:" + port + " localhost:" + port,
	})
	as := http.Header{"X-Host": {"localhost"}}
	const unreachable = `caddy_bearer_requests_total{result="upstream-unreachable",source="api"}`
	before := s.metric(t, unreachable)
	s.call(t, http.MethodGet, "/things", as, "").wantProblem(t, http.StatusBadGateway, "upstream-unreachable")
	s.call(t, http.MethodGet, "/things", http.Header{"X-Host": {"evil.example"}}, "").wantProblem(t, http.StatusBadGateway, "token-refused")
	s.wantLogged(t, `"upstream":"http://{key.host}:`)
	for line := range strings.Lines(s.logged(t)) {
		if strings.Contains(line, `"level":"error"`) && strings.Contains(line, "localhost:"+port) {
			t.Errorf("the log tells the key: %s", line)
		}
	}
	if n := s.metric(t, unreachable); n == before {
		t.Errorf("counted %s times, as before", n)
	}
	c := s.raw(t)
	c.send(t, "GET /../admin HTTP/1.1\r\nHost: %s\r\nX-Host: localhost\r\n\r\n", s.address)
	c.answer(t).wantProblem(t, http.StatusBadRequest, "bad-request")
}

// TestHandlerExpect: an app that strictly waits for 100 (Continue) gets the sidecar's own answers, too.
func TestHandlerExpect(t *testing.T) {
	s := throughTheHandler(t, setup{source: "key user {header.X-User}", upstream: theAPI + "/v2"})
	for name, request := range map[string]string{
		"key-missing":    "POST /things HTTP/1.1\r\nHost: %s",
		"caller-refused": "POST /things HTTP/1.1\r\nHost: %s\r\nX-User: a\r\nOrigin: https://evil.example",
		"bad-request":    "POST /../things HTTP/1.1\r\nHost: %s\r\nX-User: a",
	} {
		t.Run(name, func(t *testing.T) {
			c := s.raw(t)
			c.send(t, request+"\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n", s.address)
			res, err := http.ReadResponse(c.in, nil)
			if err != nil {
				t.Fatal(err)
			}
			if res.StatusCode == http.StatusContinue {
				c.send(t, "hello")
				res, err = http.ReadResponse(c.in, nil)
			}
			if got := answerOf(t, res, err); got.problem() != name {
				t.Errorf("status %d: %s", got.status, got.body)
			}
		})
	}
}

// TestHandlerTimeoutDuringARenewal: the answer is whole, whatever ends the wait.
func TestHandlerTimeoutDuringARenewal(t *testing.T) {
	s := throughTheHandler(t, setup{source: "min_interval 1ms", transport: "timeout 300ms"})
	s.get(t).wantOK(t)
	s.p.ScriptAPI(provider.Status(http.StatusUnauthorized, nil, large))
	s.p.ScriptToken(provider.Hang())
	s.get(t).wantProblem(t, http.StatusServiceUnavailable, "token-unavailable")
}

// TestHandlerBodyOfTheApp: what is wrong with the app's own body is not the API's fault.
func TestHandlerBodyOfTheApp(t *testing.T) {
	s := throughTheHandler(t, setup{site: "request_body {\nmax_size 1KB\n}"})
	for name, body := range map[string]string{"too long": chunked(large), "malformed": "zz\r\nhello\r\n"} {
		t.Run(name, func(t *testing.T) {
			c := s.raw(t)
			c.send(t, "POST /things HTTP/1.1\r\nHost: %s\r\nTransfer-Encoding: chunked\r\n\r\n", s.address)
			_, _ = io.WriteString(c.Conn, body) // it may be refused before its end
			got := c.answer(t)
			want := map[string]int{"too long": http.StatusRequestEntityTooLarge, "malformed": http.StatusBadRequest}[name]
			if got.status != want || got.problem() != "bad-request" {
				t.Errorf("status %d: %s", got.status, got.body)
			}
		})
	}
	if strings.Contains(s.logged(t), "the API ended the connection") {
		t.Error("the log blames the API")
	}
}

// hangingUp is an API that reads a request and ends the connection.
func hangingUp(t *testing.T) string {
	t.Helper()
	l := listen(t)
	serveConns(t, l, func(conn net.Conn) { _, _ = conn.Read(make([]byte, 1024)) })
	return "http://" + l.Addr().String()
}

// TestHandlerTimeoutWithoutAToken: the timeout ends the wait for a token, too, and says so.
func TestHandlerTimeoutWithoutAToken(t *testing.T) {
	s := throughTheHandler(t, setup{transport: "timeout 100ms"})
	s.p.ScriptToken(provider.Hang())
	s.get(t).wantProblem(t, http.StatusServiceUnavailable, "token-unavailable")
}

// TestHandlerTimeoutEndsWithTheHeader: a response may take longer than the timeout, once it has begun.
func TestHandlerTimeoutEndsWithTheHeader(t *testing.T) {
	more := make(chan struct{})
	timedOut := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/silent" {
			<-r.Context().Done()
			close(timedOut)
			return
		}
		w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(w).Flush()
		<-more
		fmt.Fprint(w, "late")
	}))
	t.Cleanup(server.Close)
	s := throughTheHandler(t, setup{upstream: server.URL, transport: "timeout 1s"})
	res, err := s.client.Get(s.base + "/slow")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	s.call(t, http.MethodGet, "/silent", nil, "").wantProblem(t, http.StatusGatewayTimeout, "upstream-timeout")
	<-timedOut // so at least as long has passed since the slow response began
	close(more)
	if text, err := io.ReadAll(res.Body); err != nil || string(text) != "late" {
		t.Errorf("%q, %v", text, err)
	}
}

// TestHandlerPlaceholders tell the access log how each request got its token.
func TestHandlerPlaceholders(t *testing.T) {
	s := throughTheHandler(t, setup{
		source: "min_interval 1ms\nkey user {header.X-User}",
		site: "log_append state {http.bearer.token_state}\nlog_append replayed {http.bearer.replayed}\nlog_append replay {http.bearer.replay}\n" +
			"log_append source {http.bearer.source}\nlog_append key {http.bearer.key}\nlog_append host {http.bearer.upstream.hostport}\n" +
			"log_append latency {http.bearer.upstream.latency_ms}\nlog_append problem {http.bearer.problem}",
	})
	as := http.Header{"X-User": {"alice"}}
	for i, want := range []string{"awaited", "fresh", "renewed", "none"} {
		switch want {
		case "renewed":
			s.p.ScriptAPI(s.p.Unauthorized())
		case "none":
			as = nil
		}
		s.call(t, http.MethodGet, fmt.Sprintf("/things/%d", i), as, "")
		line := s.accessLog(t, fmt.Sprintf("/things/%d", i))
		if line["state"] != want || fmt.Sprint(line["replayed"]) != fmt.Sprint(want == "renewed") || line["source"] != "api" {
			t.Errorf("%s: %v", want, line)
		}
		if (line["replay"] == "ok") != (want == "renewed") || (line["problem"] == "key-missing") != (want == "none") {
			t.Errorf("%s: replay %v, problem %v", want, line["replay"], line["problem"])
		}
		if want != "none" && (line["host"] != hostOf(t, s.api) || line["key"] == "" || strings.Contains(fmt.Sprint(line["key"]), "alice") || line["latency"] == float64(0)) {
			t.Errorf("%s: %v", want, line)
		}
	}
}

// accessLog waits for the line of a request, and reads it.
func (w *place) accessLog(t *testing.T, uri string) map[string]any {
	t.Helper()
	var found map[string]any
	eventually(t, "the access log has "+uri, func() bool {
		for line := range strings.Lines(w.logged(t)) {
			var entry map[string]any
			if json.Unmarshal([]byte(line), &entry) != nil || !strings.HasPrefix(fmt.Sprint(entry["logger"]), "http.log.access") {
				continue
			}
			if request, _ := entry["request"].(map[string]any); request["uri"] == uri {
				found = entry
				return true
			}
		}
		return false
	})
	return found
}

// TestHandlerKeepsHeadersOfOthers: an informational response loses no header that another handler has set, and the API's
// own Server is told.
func TestHandlerKeepsHeadersOfOthers(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/hints" {
			w.Header().Set("Link", "</a.css>")
			w.WriteHeader(http.StatusEarlyHints)
		}
		w.Header().Set("Server", "acme")
	}))
	t.Cleanup(server.Close)
	s := throughTheHandler(t, setup{upstream: server.URL, site: "header X-Mine 1"})
	for _, path := range []string{"/hints", "/none"} {
		got := s.call(t, http.MethodGet, path, nil, "")
		if got.status != http.StatusOK || got.header.Get("X-Mine") != "1" || len(got.header["Server"]) != 1 || got.header.Get("Server") != "acme" {
			t.Errorf("%s: status %d, %v", path, got.status, got.header)
		}
	}
}

// TestHandlerCutResponse: a response that the API cuts off is cut off at the app, too, after what there was of it.
func TestHandlerCutResponse(t *testing.T) {
	l := listen(t)
	serveConns(t, l, func(conn net.Conn) {
		_, _ = conn.Read(make([]byte, 1024))
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
	})
	s := throughTheHandler(t, setup{upstream: "http://" + l.Addr().String()})
	res, err := s.client.Get(s.base + "/")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if text, err := io.ReadAll(res.Body); err == nil || string(text) != "half" {
		t.Errorf("%q, %v; want half, and an error", text, err)
	}
	s.wantLogged(t, "aborting with incomplete response")
}

// TestHandlerClientGone is logged as reverse_proxy logs it, and is no problem of the API's.
func TestHandlerClientGone(t *testing.T) {
	silent := listen(t)
	s := throughTheHandler(t, setup{upstream: "http://" + silent.Addr().String()})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		if conn, err := silent.Accept(); err == nil {
			_, _ = conn.Read(make([]byte, 1))
			cancel()
		}
	}()
	if status := s.tryGet(ctx); status != 0 {
		t.Errorf("status %d", status)
	}
	s.wantLogged(t, `"status":499`)
	if strings.Contains(s.logged(t), "upstream-unreachable") {
		t.Error("the client's leaving is logged as the API's absence")
	}
}

// TestHandlerWebSocketOutlivesAReload: reverse_proxy closes such connections at a reload. Here the app notices nothing.
func TestHandlerWebSocketOutlivesAReload(t *testing.T) {
	l := listen(t)
	serveConns(t, l, echoSocket)
	s := throughTheHandler(t, setup{upstream: "http://" + l.Addr().String()})
	c := s.raw(t)
	c.send(t, "GET /socket HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", s.address)
	if got := c.answer(t); got.status != http.StatusSwitchingProtocols {
		t.Fatalf("status %d: %s", got.status, got.body)
	}
	for i := range 3 {
		c.send(t, "ping\n")
		if line, err := c.in.ReadString('\n'); err != nil || line != "ping\n" {
			t.Fatalf("after %d reloads: %q, %v", i, line, err)
		}
		s.load(t, s.config)
	}
}

// echoSocket takes an upgrade, whose headers must be spelled as RFC 6455 spells them, and repeats what comes.
func echoSocket(conn net.Conn) {
	head := make([]byte, 4096)
	n, _ := conn.Read(head)
	if text := string(head[:n]); !strings.Contains(text, "Sec-WebSocket-Key: ") || !strings.Contains(text, "Authorization: Bearer ") {
		_, _ = io.WriteString(conn, "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
		return
	}
	_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
	_, _ = io.Copy(conn, conn)
}
