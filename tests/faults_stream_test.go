package tests

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"sync"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

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

// TestFault61StreamRefusedAtOnce: the API refuses a stream before the request ends, and the app sends on only when it has
// heard something. It hears it at once: the second sending has what the app sent so far, and what it sends then.
func TestFault61StreamRefusedAtOnce(t *testing.T) {
	for _, revoked := range []bool{true, false} {
		t.Run(fmt.Sprintf("revoked %v", revoked), func(t *testing.T) {
			var refused sync.Map
			refuse := func(r *http.Request) bool {
				_, is := refused.Load(r.Header.Get("Authorization"))
				return is
			}
			echo := echoing(t, "application/grpc")
			c := overH2C(t, func(w http.ResponseWriter, r *http.Request) {
				if r.Method == http.MethodPost && (!revoked || refuse(r)) {
					w.WriteHeader(http.StatusUnauthorized)
					return
				}
				if r.Method == http.MethodGet {
					refused.Store(r.Header.Get("Authorization"), true)
					return
				}
				echo(w, r)
			})
			c.transport += "\nsettle off"
			s := launch(t, c)
			s.useH2C(t)
			if status := s.tryGet(t.Context()); status != http.StatusOK { // this token worked, and is then refused
				t.Fatalf("status %d", status)
			}
			body, out := io.Pipe()
			defer out.Close()
			go fmt.Fprint(out, "message 0\n")
			ctx, cancel := context.WithTimeout(t.Context(), hang)
			defer cancel()
			req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.base+"/service/Method", body)
			if err != nil {
				t.Fatal(err)
			}
			req.Header = http.Header{"Te": {"trailers"}, "Content-Type": {"application/grpc"}}
			resp, err := s.client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if !revoked {
				if why := resp.Header.Get("Proxy-Status"); resp.StatusCode != http.StatusUnauthorized || why == "" {
					t.Errorf("status %d, Proxy-Status %q", resp.StatusCode, why)
				}
				return
			}
			in := bufio.NewReader(resp.Body)
			for i := range 20 {
				if line, err := in.ReadString('\n'); err != nil || line != fmt.Sprintf("echo message %d\n", i) {
					t.Fatalf("%q, %v", line, err)
				}
				fmt.Fprintf(out, "message %d\n", i+1)
			}
		})
	}
}

// goAway is an API over HTTP/2 that takes one request for each connection, as a load balancer does that is drained: what
// comes next is not processed, and GOAWAY says so. It counts what it has processed, by body.
type goAway struct {
	mu        sync.Mutex
	processed map[string]int
	turned    int
	reset     bool // with RST_STREAM (REFUSED_STREAM) instead
}

func (g *goAway) serve(t *testing.T) string {
	t.Helper()
	l := listen(t)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go g.converse(conn)
		}
	}()
	return "http://" + l.Addr().String()
}

func (g *goAway) converse(conn net.Conn) {
	defer conn.Close()
	if _, err := io.ReadFull(conn, make([]byte, len(http2.ClientPreface))); err != nil {
		return
	}
	fr := http2.NewFramer(conn, conn)
	_ = fr.WriteSettings()
	bodies := map[uint32]string{}
	turned := false
	for {
		f, err := fr.ReadFrame()
		if err != nil {
			return
		}
		switch f := f.(type) {
		case *http2.SettingsFrame:
			if !f.IsAck() {
				_ = fr.WriteSettingsAck()
			}
		case *http2.DataFrame:
			bodies[f.StreamID] += string(f.Data())
			switch {
			case !f.StreamEnded():
			case f.StreamID > 1 && !turned: // the whole body was sent
				g.mu.Lock()
				g.turned++
				g.mu.Unlock()
				if turned = true; g.reset {
					_ = fr.WriteRSTStream(f.StreamID, http2.ErrCodeRefusedStream)
				} else {
					_ = fr.WriteGoAway(1, http2.ErrCodeNo, nil)
				}
			default:
				g.mu.Lock()
				g.processed[bodies[f.StreamID]]++
				g.mu.Unlock()
				var block bytes.Buffer
				_ = hpack.NewEncoder(&block).WriteField(hpack.HeaderField{Name: ":status", Value: "200"})
				_ = fr.WriteHeaders(http2.HeadersFrameParam{StreamID: f.StreamID, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: true})
			}
		}
	}
}

// TestFault60NotProcessed: what an API has not processed, and says so, is sent again, also with a body; and what it has
// processed is not.
func TestFault60NotProcessed(t *testing.T) {
	for name, reset := range map[string]bool{"GOAWAY": false, "REFUSED_STREAM": true} {
		t.Run(name, func(t *testing.T) {
			g := &goAway{processed: map[string]int{}, reset: reset}
			s := launch(t, setup{upstream: g.serve(t), transport: "versions h2c"})
			const times = 6
			for n := range times {
				if got := s.post(t, fmt.Sprintf("body %d", n)); got.status != http.StatusOK {
					t.Fatalf("request %d: status %d: %s", n, got.status, got.body)
				}
			}
			g.mu.Lock()
			defer g.mu.Unlock()
			if g.turned == 0 {
				t.Error("nothing was turned away")
			}
			for n := range times {
				if got := g.processed[fmt.Sprintf("body %d", n)]; got != 1 {
					t.Errorf("request %d was processed %d times", n, got)
				}
			}
		})
	}
}

// TestFault60Processed: a POST may have been processed when its connection ends without an answer. It is not sent again.
func TestFault60Processed(t *testing.T) {
	s := launch(t, setup{})
	s.get(t).wantOK(t) // the connection is used again, which is when net/http would
	s.p.ScriptAPI(provider.Function(func(w http.ResponseWriter, r *http.Request) bool {
		_, _ = io.Copy(io.Discard, r.Body)
		if conn, _, err := http.NewResponseController(w).Hijack(); err == nil {
			conn.Close()
		}
		return true
	}))
	s.p.Forget()
	if got := s.post(t, "body"); got.status != http.StatusBadGateway {
		t.Errorf("status %d", got.status)
	}
	if n := s.p.APICount(); n != 1 {
		t.Errorf("it was sent %d times", n)
	}
}
