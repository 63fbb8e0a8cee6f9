package caddymodule_test

import (
	"compress/gzip"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// counted is an API that counts the connections opened to it.
func counted(t *testing.T, h http.HandlerFunc) (api *httptest.Server, opened *atomic.Int32) {
	t.Helper()
	opened = new(atomic.Int32)
	api = httptest.NewUnstartedServer(h)
	api.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			opened.Add(1)
		}
	}
	api.Start()
	t.Cleanup(api.Close)
	return api, opened
}

// refusesEachOnce answers a token's first request with a refusal, and its
// further ones well: every request of an app is sent twice.
func refusesEachOnce(refuse, accept http.HandlerFunc) http.HandlerFunc {
	var mu sync.Mutex
	last := ""
	return func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		token := r.Header.Get("Authorization")
		mu.Lock()
		replayed := last != "" && token != last
		last = token
		if replayed {
			last = ""
		}
		mu.Unlock()
		if replayed {
			accept(w, r)
			return
		}
		refuse(w, r)
	}
}

// TestRefusedConnectionIsUsedAgain: the answer that is thrown away does not
// cost its connection. Over TLS that would cost more than the request.
func TestRefusedConnectionIsUsedAgain(t *testing.T) {
	tokens := newFakeAPI(t, httptest.NewServer)
	api, opened := counted(t, refusesEachOnce(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(8<<10))
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = io.WriteString(w, strings.Repeat("x", 8<<10))
	}, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "answer")
	}))
	s := newSidecar(t)
	s.mustLoad(t, proxied(tokens, api.URL, ""))
	for range 5 {
		if got := s.get(t); got != "200 answer" {
			t.Fatalf("got %s", got)
		}
		if res := s.post(t, "whole", false); res.StatusCode != http.StatusOK {
			t.Fatalf("POST: %d", res.StatusCode)
		}
	}
	if n := len(tokens.calls()); n != 11 {
		t.Errorf("%d token calls: the requests were not sent twice", n)
	}
	if n := opened.Load(); n != 1 {
		t.Errorf("%d connections for 20 requests, one after the other", n)
	}
}

// TestLongRefusalIsNotWaitedFor: of an answer that may go on for long the rest
// is not read, and its connection is closed before the second sending ends.
func TestLongRefusalIsNotWaitedFor(t *testing.T) {
	for name, length := range map[string]string{"without end": "", "of a long file": "1000000"} {
		t.Run(name, func(t *testing.T) {
			tokens := newFakeAPI(t, httptest.NewServer)
			gone := make(chan struct{})
			api, _ := counted(t, refusesEachOnce(func(w http.ResponseWriter, r *http.Request) {
				if length != "" {
					w.Header().Set("Content-Length", length)
				}
				w.WriteHeader(http.StatusUnauthorized)
				_, _ = io.WriteString(w, "begins")
				_ = http.NewResponseController(w).Flush()
				select {
				case <-r.Context().Done():
					close(gone)
				case <-t.Context().Done():
				}
			}, func(w http.ResponseWriter, r *http.Request) {
				select {
				case <-gone:
					_, _ = io.WriteString(w, "answer")
				case <-r.Context().Done(): // the app has waited long enough
				}
			}))
			s := newSidecar(t)
			s.client.Timeout = 2 * time.Minute // a hang, and not a busy machine
			s.mustLoad(t, proxied(tokens, api.URL, ""))
			if got := s.get(t); got != "200 answer" {
				t.Errorf("got %s", got)
			}
		})
	}
}

// TestIdleConnections: as many stay for an upstream as there may be clients at
// once; with Caddy's 32 the others would be closed and opened for nothing.
func TestIdleConnections(t *testing.T) {
	const clients = 100
	tokens := newFakeAPI(t, httptest.NewServer)
	var round sync.WaitGroup
	api, opened := counted(t, func(http.ResponseWriter, *http.Request) {
		round.Done()
		round.Wait() // all are here at once
	})
	s := newSidecar(t)
	s.mustLoad(t, proxied(tokens, api.URL, ""))
	for range 3 {
		round.Add(clients)
		var wg sync.WaitGroup
		for range clients {
			wg.Go(func() {
				res, err := s.client.Get("http://localhost/")
				if err != nil {
					t.Error(err)
					return
				}
				_ = res.Body.Close()
			})
		}
		wg.Wait()
	}
	// a connection is idle a moment after its answer is through
	if n := opened.Load(); n > clients+clients/2 {
		t.Errorf("%d connections for %d clients, three times", n, clients)
	}
}

// TestNoCompressionUnasked: net/http would ask for gzip where the app does not,
// and hand over what it unpacked. What the app asks for passes.
func TestNoCompressionUnasked(t *testing.T) {
	tokens := newFakeAPI(t, httptest.NewServer)
	api, _ := counted(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Asked", r.Header.Get("Accept-Encoding"))
		if strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
			w.Header().Set("Content-Encoding", "gzip")
			z := gzip.NewWriter(w)
			_, _ = io.WriteString(z, "answer")
			_ = z.Close()
		}
	})
	s := newSidecar(t)
	s.after.DisableCompression = true // the app's own net/http
	s.mustLoad(t, proxied(tokens, api.URL, ""))
	for _, asked := range []string{"", "gzip", "br"} {
		req, err := http.NewRequest(http.MethodGet, "http://localhost/", nil)
		if err != nil {
			t.Fatal(err)
		}
		if asked != "" {
			req.Header.Set("Accept-Encoding", asked)
		}
		res, err := s.client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		packed := res.Header.Get("Content-Encoding") == "gzip"
		if got := res.Header.Get("X-Asked"); got != asked || packed != (asked == "gzip") {
			t.Errorf("the app asks for %q, the API is asked for %q; the answer is packed: %v", asked, got, packed)
		}
	}
}

const codes = `{
	auto_https off
	token_source api {
		grant authorization_code {
			token_url URL/token
			client_id id
			client_secret secret
			transport {
				dial_timeout 2s
			}
		}
	}
}

http://localhost {
	bind SOCKET
	token_login api
}
`

// TestCodeThatNeverLeft: a code is sent once. With an endpoint that has a
// transport of its own too it is known that none was sent where nobody took the
// call, and it is good for another try.
func TestCodeThatNeverLeft(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	_ = l.Close()
	s := newSidecar(t)
	s.mustLoad(t, strings.ReplaceAll(codes, "URL", "http://"+address))
	handOver := func() int {
		res, err := s.client.PostForm("http://localhost/tokens/code", url.Values{"code": {"a-code"}})
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		return res.StatusCode
	}
	if got := handOver(); got != http.StatusServiceUnavailable {
		t.Fatalf("nobody listens: status %d", got)
	}
	tokens := newFakeAPI(t, func(h http.Handler) *httptest.Server {
		server := httptest.NewUnstartedServer(h)
		_ = server.Listener.Close()
		if server.Listener, err = net.Listen("tcp", address); err != nil {
			t.Fatal(err)
		}
		server.Start()
		return server
	})
	if got := handOver(); got != http.StatusOK || len(tokens.calls()) != 1 {
		t.Errorf("the same code again: status %d, token calls %v", got, tokens.calls())
	}
}
