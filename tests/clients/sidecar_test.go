//go:build clients

package clients

import (
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/caddy-bearer/caddy-bearer/tests/fleet/rig"
	"github.com/caddy-bearer/caddy-bearer/tests/provider"
	"github.com/caddy-bearer/caddy-bearer/tests/redistest"
)

// The hosts that clients call. Their names lead nowhere: a client that does not ask the proxy gets nothing. Nor are they
// loopback's, which Go's net/http and the variable NO_PROXY keep from a proxy.
const (
	intercepted = "api.acme.example"
	refused     = "other.example"
)

const caddyfile = `{
	admin "unix/THE_HOME/admin"
	persist_config off
	skip_install_trust
	storage file_system "THE_HOME/storage"
	log {
		output stdout
		format json
	}
	token_source acme {
		grant client_credentials {
			token_url %s/token
			client_id %s
			client_secret {env.ACME_CLIENT_SECRET}
		}
	}
}

http://:%s {
	bind 127.0.0.1 "unix/THE_HOME/site"
	bearer_intercept {
		%s acme {
			tls_trust_pool file "%s"
			tls_server_name example.com
		}
		others refuse
	}
}
`

// sidecar is a Caddy with bearer_intercept, in front of an API.
type sidecar struct {
	*rig.Replica
	api *api

	program, home, proxy string
}

// launch starts a sidecar that ends with the test.
func launch(t *testing.T) *sidecar {
	t.Helper()
	p := provider.New(provider.Generic)
	tokens, err := provider.Start(p)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(tokens.Close)
	s := &sidecar{api: &api{Provider: p, answer: fmt.Sprintf("%x", sha1.Sum([]byte(p.ClientSecret)))}}
	server := httptest.NewUnstartedServer(s.api)
	server.EnableHTTP2 = true
	server.StartTLS()
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	if s.home, err = os.MkdirTemp("", "clients-"); err != nil { // a test's own is too long for the names of sockets
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(s.home) })
	if s.program, err = rig.Build(t.Context(), s.home); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", s.home, "./programs/nethttp", "./programs/grpcgo").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	ca := filepath.Join(s.home, "api-ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	port := redistest.FreePort(t)
	s.proxy = "http://127.0.0.1:" + port
	text := fmt.Sprintf(caddyfile, tokens.URL, p.ClientID, port, intercepted, ca)
	env := []string{"ACME_CLIENT_SECRET=" + p.ClientSecret, "HTTPS_PROXY=" + internet(t, server.Listener.Addr().String())}
	if s.Replica, err = rig.NewReplica(s.program, s.home, "sidecar", env, text); err != nil {
		t.Fatal(err)
	}
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Kill() })
	return s
}

// internet is the sidecar's own way out: a proxy that knows the API by its name.
func internet(t *testing.T, api string) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodConnect || r.Host != intercepted+":443" {
			http.Error(w, "only CONNECT, and only for the API", http.StatusForbidden)
			return
		}
		there, err := net.Dial("tcp", api)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		defer there.Close()
		here, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer here.Close()
		if _, err := io.WriteString(here, "HTTP/1.1 200 OK\r\n\r\n"); err != nil {
			return
		}
		var both sync.WaitGroup
		for _, ends := range [][2]net.Conn{{here, there}, {there, here}} {
			both.Go(func() {
				_, _ = io.Copy(ends[0], ends[1])
				_ = ends[0].(*net.TCPConn).CloseWrite()
			})
		}
		both.Wait()
	}))
	t.Cleanup(server.Close)
	return server.URL
}

// api is a provider's API. A call with a valid token gets one text for an answer, in the form that its client wants.
type api struct {
	*provider.Provider
	answer string // 40 hexadecimal digits, as of a commit in git
}

func (a *api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	verdict := httptest.NewRecorder()
	a.Provider.ServeHTTP(verdict, r)
	switch {
	case verdict.Code != http.StatusOK:
		w.WriteHeader(verdict.Code)
		_, _ = verdict.Body.WriteTo(w)
	case r.Header.Get("Upgrade") == "websocket":
		a.serveWebSocket(w, r)
	case strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc"):
		a.serveGRPC(w)
	case strings.HasSuffix(r.URL.Path, "/info/refs"):
		fmt.Fprintf(w, "%s\trefs/heads/main\n", a.answer) // git's protocol for plain file servers
	default:
		fmt.Fprintln(w, a.answer)
	}
}

// serveWebSocket accepts a connection and sends one text message (RFC 6455).
func (a *api) serveWebSocket(w http.ResponseWriter, r *http.Request) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	proof := sha1.Sum([]byte(r.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: %s\r\n\r\n",
		base64.StdEncoding.EncodeToString(proof[:]))
	_, _ = conn.Write(append([]byte{0x81, byte(len(a.answer))}, a.answer...))
	_, _ = io.Copy(io.Discard, conn) // until the client goes
}

// serveGRPC answers a unary call with one message.
func (a *api) serveGRPC(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "application/grpc")
	w.Header().Set("Trailer", "Grpc-Status")
	message := binary.BigEndian.AppendUint32([]byte{0}, uint32(len(a.answer)))
	_, _ = w.Write(append(message, a.answer...))
	w.Header().Set("Grpc-Status", "0")
}

// wantTokens: each call that came to the API had one valid token, and there was at least one.
func (a *api) wantTokens(t *testing.T) {
	t.Helper()
	calls := a.APICalls()
	if len(calls) == 0 {
		t.Error("no call came to the API")
	}
	for _, c := range calls {
		if n := len(c.Header["Authorization"]); n != 1 || c.Serial == 0 || c.Refused != "" {
			t.Errorf("%s %s came with %d Authorization headers: %s", c.Method, c.Path, n, c.Refused)
		}
		if c.Host != intercepted && c.Host != intercepted+":443" {
			t.Errorf("%s %s came for %s", c.Method, c.Path, c.Host)
		}
		for name := range c.Header {
			if strings.HasPrefix(name, "Proxy-") || slices.Contains([]string{"Via", "Forwarded"}, name) {
				t.Errorf("%s %s came with %s", c.Method, c.Path, name)
			}
		}
	}
}
