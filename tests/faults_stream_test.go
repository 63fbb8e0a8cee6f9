package tests

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"sync"
	"testing"

	"github.com/caddy-bearer/caddy-bearer/tests/provider"
)

// lookingInside has the transport read JSON answers for a matcher: no stream may be held back by it.
const lookingInside = "auth_failure {\n\tstatus 401\n\tjson error.code 190\n}"

// overH2C is a setup with HTTP/2 in the clear on both sides, towards an API of the test's own.
func overH2C(t *testing.T, handler http.HandlerFunc) setup {
	t.Helper()
	server := httptest.NewUnstartedServer(handler)
	server.Config.Protocols = new(http.Protocols)
	server.Config.Protocols.SetHTTP1(true)
	server.Config.Protocols.SetUnencryptedHTTP2(true)
	server.Start()
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	return setup{
		global:    "servers {\n\tprotocols h1 h2c\n}",
		upstream:  server.URL,
		transport: lookingInside + "\nversions h2c",
	}
}

// useH2C has the app speak HTTP/2 in the clear, over as many connections as there are clients.
func (a *app) useH2C(t *testing.T) {
	t.Helper()
	a.client = h2cClient(t)
}

func h2cClient(t *testing.T) *http.Client {
	t.Helper()
	transport := &http.Transport{Protocols: new(http.Protocols)}
	transport.Protocols.SetUnencryptedHTTP2(true)
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: hang}
}

// TestFault25Trailers go both ways, over HTTP/1.1 and HTTP/2.
func TestFault25Trailers(t *testing.T) {
	handler := func(w http.ResponseWriter, r *http.Request) {
		text, _ := io.ReadAll(r.Body)
		w.Header().Set("Trailer", "X-Sum")
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"got":%q,"trailer":%q}`, text, r.Trailer.Get("X-Mine"))
		w.Header().Set("X-Sum", "42")
		w.Header().Set(http.TrailerPrefix+"X-Unannounced", "43")
	}
	for _, h2 := range []bool{false, true} {
		t.Run(fmt.Sprintf("h2 %v", h2), func(t *testing.T) {
			c := overH2C(t, handler)
			if !h2 {
				c.global, c.transport = "", lookingInside
			}
			s := launch(t, c)
			if h2 {
				s.useH2C(t)
			}
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.base+"/", io.NopCloser(strings.NewReader("body")))
			if err != nil {
				t.Fatal(err)
			}
			req.Trailer = http.Header{"X-Mine": {"41"}}
			resp, err := s.client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			text, err := io.ReadAll(resp.Body)
			if err != nil || string(text) != `{"got":"body","trailer":"41"}` {
				t.Errorf("%s, %v", text, err)
			}
			if resp.Trailer.Get("X-Sum") != "42" || resp.Trailer.Get("X-Unannounced") != "43" {
				t.Errorf("trailers: %v", resp.Trailer)
			}
		})
	}
}

// TestFault25ServerSentEvents arrive one by one: the first before the second is sent.
func TestFault25ServerSentEvents(t *testing.T) {
	for name, contentType := range map[string]string{"events": "text/event-stream", "lines of JSON": "application/x-ndjson"} {
		t.Run(name, func(t *testing.T) {
			s := launch(t, setup{transport: lookingInside, proxy: "flush_interval -1"})
			more := make(chan struct{})
			s.p.ScriptAPI(provider.Function(func(w http.ResponseWriter, r *http.Request) bool {
				w.Header().Set("Content-Type", contentType)
				for i := range 3 {
					fmt.Fprintf(w, "data: %d\n", i)
					_ = http.NewResponseController(w).Flush()
					select {
					case <-more:
					case <-r.Context().Done():
					}
				}
				return true
			}))
			resp, err := s.client.Get(s.base + "/events")
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			lines := bufio.NewReader(resp.Body)
			for i := range 3 {
				if line, err := lines.ReadString('\n'); err != nil || line != fmt.Sprintf("data: %d\n", i) {
					t.Fatalf("event %d: %q, %v", i, line, err)
				}
				more <- struct{}{}
			}
		})
	}
}

// TestFault25InterimAnswers: 103 arrives before the answer, also when the first sending was refused.
func TestFault25InterimAnswers(t *testing.T) {
	s := launch(t, setup{source: "min_interval 1ms", transport: lookingInside})
	s.get(t).wantOK(t)
	hints := provider.Function(func(w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("Link", "</style.css>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		return false
	})
	for name, steps := range map[string][]provider.Step{"at once": {hints}, "after a renewal": {s.p.Unauthorized(), hints}} {
		t.Run(name, func(t *testing.T) {
			s.p.ScriptAPI(steps...)
			var mu sync.Mutex
			var links []string
			ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
				Got1xxResponse: func(code int, header textproto.MIMEHeader) error {
					mu.Lock()
					defer mu.Unlock()
					links = append(links, fmt.Sprint(code, " ", header.Get("Link")))
					return nil
				},
			})
			if status := s.tryGet(ctx); status != http.StatusOK {
				t.Errorf("status %d", status)
			}
			mu.Lock()
			defer mu.Unlock()
			if len(links) != 1 || links[0] != "103 </style.css>; rel=preload" {
				t.Errorf("interim answers: %q", links)
			}
		})
	}
}

// TestFault25BothWaysAtOnce is a call as gRPC makes it: each side speaks in its turn on one stream, and the status is in
// the trailers. The grpc-status for a dead token is no business of HTTP's.
func TestFault25BothWaysAtOnce(t *testing.T) {
	for _, contentType := range []string{"application/grpc", "application/grpc+proto", "application/grpc+json"} {
		t.Run(contentType, func(t *testing.T) { speakInTurn(t, contentType) })
	}
}

// echoing answers each line of a body as it comes.
func echoing(t *testing.T, contentType string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", contentType)
		w.Header().Set("Trailer", "Grpc-Status")
		if r.Header.Get("Te") != "trailers" || !strings.HasPrefix(r.Header.Get("Authorization"), "Bearer ") {
			t.Errorf("headers: %v", r.Header["Te"])
		}
		control := http.NewResponseController(w)
		_ = control.Flush()
		in := bufio.NewReader(r.Body)
		for {
			line, err := in.ReadString('\n')
			if err != nil {
				break
			}
			fmt.Fprint(w, "echo "+line)
			_ = control.Flush()
		}
		w.Header().Set("Grpc-Status", "16")
	}
}

func speakInTurn(t *testing.T, contentType string) {
	s := launch(t, overH2C(t, echoing(t, contentType)))
	s.useH2C(t)
	body, out := io.Pipe()
	ctx, cancel := context.WithTimeout(t.Context(), hang)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.base+"/service/Method", body)
	if err != nil {
		t.Fatal(err)
	}
	req.Header = http.Header{"Te": {"trailers"}, "Content-Type": {contentType}}
	resp, err := s.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	in := bufio.NewReader(resp.Body)
	for i := range 20 {
		fmt.Fprintf(out, "message %d\n", i)
		if line, err := in.ReadString('\n'); err != nil || line != fmt.Sprintf("echo message %d\n", i) {
			t.Fatalf("%q, %v", line, err)
		}
	}
	out.Close()
	if rest, err := io.ReadAll(in); err != nil || len(rest) > 0 {
		t.Errorf("%q, %v", rest, err)
	}
	if resp.Trailer.Get("Grpc-Status") != "16" {
		t.Errorf("trailers: %v", resp.Trailer)
	}
	if n := s.p.TokenCount(); n != 1 {
		t.Errorf("%d token calls", n)
	}
}
