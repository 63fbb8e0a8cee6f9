package tests

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/textproto"
	"strings"
	"testing"

	"github.com/caddy-bearer/caddy-bearer/tests/provider"
)

// quick renews as often as it is asked to.
var quick = setup{source: "min_interval 1ms"}

// client is an app that writes its requests byte by byte.
type client struct {
	net.Conn
	in *bufio.Reader
}

func (s *sidecar) raw(t *testing.T) *client {
	t.Helper()
	conn := dial(t, s.address)
	return &client{conn, bufio.NewReader(conn)}
}

// send writes text as it stands.
func (c *client) send(t *testing.T, format string, args ...any) {
	t.Helper()
	write(t, c.Conn, fmt.Sprintf(format, args...))
}

// answer reads one answer, interim ones left out.
func (c *client) answer(t *testing.T) answer {
	t.Helper()
	for {
		resp, err := http.ReadResponse(c.in, nil)
		if err != nil {
			t.Fatalf("reading an answer: %v", err)
		}
		if resp.StatusCode < 200 && resp.StatusCode != http.StatusSwitchingProtocols {
			continue
		}
		if resp.StatusCode == http.StatusSwitchingProtocols {
			return answer{status: resp.StatusCode, header: resp.Header}
		}
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatalf("reading an answer's body: %v", err)
		}
		return answer{status: resp.StatusCode, header: resp.Header, body: string(text)}
	}
}

// chunked writes a body in chunks.
func chunked(body string) string {
	var b strings.Builder
	for len(body) > 0 {
		n := min(len(body), 5000)
		fmt.Fprintf(&b, "%x\r\n%s\r\n", n, body[:n])
		body = body[n:]
	}
	return b.String() + "0\r\n\r\n"
}

// wantWhole fails the test unless an accepted call had this very body: a cut or an empty one must never look whole.
func (s *sidecar) wantWhole(t *testing.T, body string) {
	t.Helper()
	for i, call := range s.p.APICalls() {
		if call.Status == http.StatusOK && call.BodySHA256 != sum(body) {
			t.Errorf("API call %d was accepted with %d bytes of %d", i+1, call.BodyLength, len(body))
		}
	}
}

// TestFault22EarlyRefusal: the API refuses while the body is still on its way, or before it was begun.
func TestFault22EarlyRefusal(t *testing.T) {
	body := large[:60000]
	for name, sent := range map[string]int{"before the body": 0, "in the body": 20000} {
		for form, head := range map[string]string{"length": "Content-Length: 60000", "chunked": "Transfer-Encoding: chunked"} {
			t.Run(name+" by "+form, func(t *testing.T) {
				s := launch(t, quick)
				s.get(t).wantOK(t)
				s.p.ScriptAPI(provider.EarlyAnswer(http.StatusUnauthorized))
				s.p.Forget()
				c := s.raw(t)
				wire := body
				if form == "chunked" {
					wire = chunked(body)
				}
				c.send(t, "POST /things HTTP/1.1\r\nHost: %s\r\n%s\r\n\r\n%s", s.address, head, wire[:sent])
				eventually(t, "the API refuses and the token is renewed", func() bool { return s.p.TokenCount() == 1 })
				c.send(t, "%s", wire[sent:])
				if e := c.answer(t).wantOK(t); e.SHA256 != sum(body) {
					t.Errorf("%d bytes of %d arrived", e.Length, len(body))
				}
				s.wantWhole(t, body)
			})
		}
	}
}

// TestFault22ClientGoes while the rest of its body is wanted for the replay: nothing cut may look whole.
func TestFault22ClientGoes(t *testing.T) {
	for form, head := range map[string]string{"length": "Content-Length: 60000", "chunked": "Transfer-Encoding: chunked"} {
		t.Run(form, func(t *testing.T) {
			s := launch(t, quick)
			s.get(t).wantOK(t)
			s.p.ScriptAPI(provider.EarlyAnswer(http.StatusUnauthorized))
			s.p.Forget()
			c := s.raw(t)
			c.send(t, "POST /cut HTTP/1.1\r\nHost: %s\r\n%s\r\n\r\n", s.address, head)
			if form == "chunked" {
				c.send(t, "5\r\nhello\r\n")
			} else {
				c.send(t, "hello")
			}
			eventually(t, "the token is renewed", func() bool { return s.p.TokenCount() == 1 })
			c.Close()
			s.get(t).wantOK(t)
			for _, call := range s.p.APICalls() {
				if call.Path == "/cut" && call.Status == http.StatusOK {
					t.Errorf("%d bytes were taken for the whole body", call.BodyLength)
				}
			}
		})
	}
}

// wantContinue reads the answer 100 (Continue).
func (c *client) wantContinue(t *testing.T) {
	t.Helper()
	interim := textproto.NewReader(c.in)
	line, err := interim.ReadLine()
	if err != nil || !strings.HasPrefix(line, "HTTP/1.1 100") {
		t.Fatalf("no interim answer: %q, %v", line, err)
	}
	// Caddy's own 100 has no header, one of the API's that it passes on has: which comes first is chance
	if _, err := interim.ReadMIMEHeader(); err != nil {
		t.Fatalf("the interim answer does not end: %v", err)
	}
}

// TestFault22Continue: an app that asks before it sends its body.
func TestFault22Continue(t *testing.T) {
	body := large[:30000]
	for name, step := range map[string]func(s *sidecar) provider.Step{
		"refused before 100": func(*sidecar) provider.Step { return provider.EarlyAnswer(http.StatusUnauthorized) },
		"refused after 100":  func(s *sidecar) provider.Step { return s.p.Unauthorized() },
		"accepted":           func(*sidecar) provider.Step { return provider.Normal() },
	} {
		t.Run(name, func(t *testing.T) {
			s := launch(t, quick)
			s.get(t).wantOK(t)
			s.p.ScriptAPI(step(s))
			s.p.Forget()
			c := s.raw(t)
			c.send(t, "POST /things HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\nExpect: 100-continue\r\n\r\n", s.address, len(body))
			c.wantContinue(t)
			c.send(t, "%s", body)
			if e := c.answer(t).wantOK(t); e.SHA256 != sum(body) {
				t.Errorf("%d bytes of %d arrived", e.Length, len(body))
			}
			s.wantWhole(t, body)
		})
	}
}

// TestFault22ContinueLong: the API refuses by the headers what is too long to be remembered. The app has not sent any of it
// yet, so it is sent again; and where that is of no use either, the app hears the refusal.
func TestFault22ContinueLong(t *testing.T) {
	body := large + large[:30000]
	for _, again := range []bool{true, false} {
		t.Run(fmt.Sprintf("of use %v", again), func(t *testing.T) {
			s := launch(t, setup{source: "min_interval 1ms", transport: "settle off"})
			s.get(t).wantOK(t)
			refusal := provider.EarlyAnswer(http.StatusUnauthorized)
			s.p.ScriptAPI(refusal)
			if !again {
				s.p.ScriptAPI(refusal, refusal)
			}
			s.p.Forget()
			c := s.raw(t)
			c.send(t, "POST /things HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\nExpect: 100-continue\r\n\r\n", s.address, len(body))
			c.wantContinue(t)
			if !again {
				c.send(t, "%s", body)
				if got := c.answer(t); got.status != http.StatusUnauthorized {
					t.Errorf("status %d", got.status)
				}
				return
			}
			c.send(t, "%s", body)
			if e := c.answer(t).wantOK(t); e.SHA256 != sum(body) {
				t.Errorf("%d bytes of %d arrived", e.Length, len(body))
			}
			s.wantWhole(t, body)
		})
	}
}

// TestFault22Boundary: what is longer than the limit by one byte is passed on, with the reason; and the next call has a
// new token all the same.
func TestFault22Boundary(t *testing.T) {
	exact := large[:64<<10]
	for form, head := range map[string]func(string) (string, string){
		"length":  func(b string) (string, string) { return fmt.Sprintf("Content-Length: %d", len(b)), b },
		"chunked": func(b string) (string, string) { return "Transfer-Encoding: chunked", chunked(b) },
	} {
		for name, body := range map[string]string{"64 KiB": exact, "64 KiB and a byte": exact + "x", "empty": ""} {
			t.Run(name+" by "+form, func(t *testing.T) {
				s := launch(t, quick)
				s.get(t).wantOK(t)
				s.p.RevokeAccessTokens()
				s.p.Forget()
				c := s.raw(t)
				field, wire := head(body)
				c.send(t, "POST /things HTTP/1.1\r\nHost: %s\r\n%s\r\n\r\n%s", s.address, field, wire)
				got := c.answer(t)
				s.wantWhole(t, body)
				if len(body) <= 64<<10 {
					if e := got.wantOK(t); e.SHA256 != sum(body) {
						t.Errorf("%d bytes of %d arrived", e.Length, len(body))
					}
					return
				}
				if got.status != http.StatusUnauthorized || !strings.Contains(got.header.Get("Proxy-Status"), "body") {
					t.Errorf("status %d, Proxy-Status %q", got.status, got.header.Get("Proxy-Status"))
				}
				if n := s.p.APICount(); n != 1 {
					t.Errorf("it was sent %d times", n)
				}
				// an app whose every body is too long would otherwise be refused for ever
				eventually(t, "the token is renewed", func() bool { return s.p.TokenCount() == 1 })
				eventually(t, "the next one is accepted", func() bool { return s.post(t, body).status == http.StatusOK })
				if n := s.p.TokenCount(); n != 1 {
					t.Errorf("%d renewals", n)
				}
			})
		}
	}
}

// TestFault23WebSocket: a refused handshake is made once more, and the connection is then the app's own.
func TestFault23WebSocket(t *testing.T) {
	s := launch(t, quick)
	s.get(t).wantOK(t)
	s.p.RevokeAccessTokens()
	s.p.ScriptAPI(provider.Normal(), provider.Function(func(w http.ResponseWriter, r *http.Request) bool {
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return true
		}
		defer conn.Close()
		if r.Header.Get("Upgrade") != "websocket" || r.Header.Get("Sec-Websocket-Key") != "dGhlIHNhbXBsZSBub25jZQ==" {
			t.Errorf("the handshake has lost something: %v", r.Header)
		}
		write(t, conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
			"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n")
		_, _ = io.Copy(conn, rw)
		return true
	}))
	s.p.Forget()
	c := s.raw(t)
	c.send(t, "GET /socket HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"+
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", s.address)
	got := c.answer(t)
	if got.status != http.StatusSwitchingProtocols || got.header.Get("Sec-Websocket-Accept") == "" {
		t.Fatalf("status %d, %v", got.status, got.header)
	}
	for _, message := range []string{"\x81\x05hello", "\x81\x05world"} {
		c.send(t, "%s", message)
		back := make([]byte, len(message))
		if _, err := io.ReadFull(c.in, back); err != nil || string(back) != message {
			t.Fatalf("%q came back: %v", back, err)
		}
	}
	if n, m := s.p.APICount(), s.p.TokenCount(); n != 2 || m != 1 {
		t.Errorf("%d handshakes and %d renewals", n, m)
	}
}
