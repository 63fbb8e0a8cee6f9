package caddymodule_test

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-bearer/caddy-bearer/internal/reloadtest"
)

// fakeAPI issues tokens under /token, one after the other, and answers the
// rest with the credentials that it was sent.
type fakeAPI struct {
	*httptest.Server
	mu     sync.Mutex
	grants []string // the grant_type of every token call
	refuse map[string]bool
}

func newFakeAPI(t *testing.T, start func(http.Handler) *httptest.Server) *fakeAPI {
	t.Helper()
	f := &fakeAPI{refuse: map[string]bool{}}
	f.Server = start(f)
	t.Cleanup(f.Close)
	return f
}

func (f *fakeAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if r.URL.Path == "/token" {
		f.grants = append(f.grants, r.FormValue("grant_type"))
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"access_token": "t%d", "refresh_token": "r%d", "expires_in": 3600}`, len(f.grants), len(f.grants))
		return
	}
	if f.refuse[r.Header.Get("Authorization")] {
		w.WriteHeader(http.StatusUnauthorized)
	}
	_, _ = io.WriteString(w, r.Header.Get("Authorization"))
}

func (f *fakeAPI) calls() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]string{}, f.grants...)
}

// sidecar is a Caddy in this process, on a unix socket.
type sidecar struct {
	socket  string
	storage string
	client  *http.Client
	after   *reloadtest.Client // the client's transport
	started bool
}

func newSidecar(t *testing.T) *sidecar {
	t.Helper()
	dir, err := os.MkdirTemp("", "sidecar") // t.TempDir may be too long for a socket's path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	s := &sidecar{socket: filepath.Join(dir, "s"), storage: filepath.Join(dir, "storage")}
	s.after = &reloadtest.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", s.socket)
		},
	}}
	s.client = &http.Client{Timeout: 2 * time.Minute, Transport: s.after}
	return s
}

// load loads a Caddyfile, in which SOCKET is where to listen.
func (s *sidecar) load(t *testing.T, text string) error {
	t.Helper()
	c := contained(t, mustAdapt(t, strings.ReplaceAll(text, "SOCKET", "unix/"+s.socket)))
	c["storage"] = map[string]any{"module": "file_system", "root": s.storage}
	config, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	if !s.started {
		s.started = true
		t.Cleanup(func() { _ = caddy.Stop() })
	} else {
		s.after.Reloaded()
	}
	return caddy.Load(config, true)
}

func (s *sidecar) mustLoad(t *testing.T, text string) {
	t.Helper()
	if err := s.load(t, text); err != nil {
		t.Fatal(err)
	}
}

func (s *sidecar) get(t *testing.T) string {
	t.Helper()
	res, err := s.client.Get("http://localhost/")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%d %s", res.StatusCode, body)
}

const reloaded = `{
	auto_https off
	token_source api {
		grant client_credentials {
			token_url URL/token
			client_id id
			client_secret secret
			scope read
		}
	}
	MORE
}

http://localhost {
	bind SOCKET
	reverse_proxy URL {
		transport bearer api
	}
	SITE
}
`

func reload(f *fakeAPI, more, site string) string {
	return strings.NewReplacer("URL", f.URL, "MORE", more, "SITE", site).Replace(reloaded)
}

// TestBadReload: what a config takes over is given back when it fails, at
// whatever point.
func TestBadReload(t *testing.T) {
	f := newFakeAPI(t, httptest.NewServer)
	s := newSidecar(t)
	s.mustLoad(t, reload(f, "", ""))
	if got := s.get(t); got != "200 Bearer t1" {
		t.Fatalf("got %s", got)
	}
	const other = "token_source zz {\n\t\tgrant client_credentials {\n\t\t\ttoken_url https://idp.example\n\t\t\tclient_secret %s\n\t\t}\n\t}"
	for name, text := range map[string]string{
		"another source fails": reload(f, fmt.Sprintf(other, "{env.EMPTY}"), ""),
		"a site fails":         reload(f, "", "handle /x {\n\t\treverse_proxy 127.0.0.1:1 {\n\t\t\ttransport bearer nobody\n\t\t}\n\t}"),
		"the source fails":     strings.Replace(reload(f, "", ""), "client_secret secret", "client_secret {env.EMPTY}", 1),
		"another app fails":    strings.Replace(reload(f, "", ""), "bind SOCKET", "bind unix//nowhere/at/all", 1),
	} {
		if err := s.load(t, text); err == nil {
			t.Fatalf("%s: loaded", name)
		}
		if got := s.get(t); got != "200 Bearer t1" {
			t.Errorf("%s: got %s", name, got)
		}
	}
	if got := f.calls(); len(got) != 1 {
		t.Errorf("token calls: %v", got)
	}
}

// TestReloadKeepsTokens: a source whose settings stay keeps its token; one
// whose scope changes asks again.
func TestReloadKeepsTokens(t *testing.T) {
	f := newFakeAPI(t, httptest.NewServer)
	s := newSidecar(t)
	first := reload(f, "", "")
	s.mustLoad(t, first)
	s.get(t)
	s.mustLoad(t, strings.Replace(first, "token_source", "# moved\n\n\ttoken_source", 1))
	if got := s.get(t); got != "200 Bearer t1" {
		t.Errorf("after a reload: got %s", got)
	}
	s.mustLoad(t, strings.Replace(first, "client_id id", "client_id other", 1))
	if got := s.get(t); got != "200 Bearer t2" {
		t.Errorf("with another client_id: got %s, want a token of that client", got)
	}
}

// TestEndpointCA: the refresh trusts whom the grant trusts.
func TestEndpointCA(t *testing.T) {
	f := newFakeAPI(t, httptest.NewTLSServer)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: f.Certificate().Raw})
	if err := os.WriteFile(ca, certificate, 0o600); err != nil {
		t.Fatal(err)
	}
	text := strings.Replace(reload(f, "", ""), "scope read", "transport {\n\t\t\t\ttls_trust_pool file "+ca+"\n\t\t\t}", 1)
	text = strings.Replace(text, "transport bearer api", "transport bearer api {\n\t\t\ttls_insecure_skip_verify\n\t\t}", 1)
	s := newSidecar(t)
	s.mustLoad(t, text)
	if got := s.get(t); got != "200 Bearer t1" {
		t.Fatalf("got %s", got)
	}
	f.mu.Lock()
	f.refuse["Bearer t1"] = true
	f.mu.Unlock()
	if got := s.get(t); got != "200 Bearer t2" {
		t.Errorf("after the API refused the token: got %s, token calls %v", got, f.calls())
	}
}

// TestEndpointTransportDialsTheEndpoint: Caddy's http transport dials what a
// request's variables say, and a renewal carries those of the request that
// started it. The secret went to the API instead.
func TestEndpointTransportDialsTheEndpoint(t *testing.T) {
	api, idp := newFakeAPI(t, httptest.NewServer), newFakeAPI(t, httptest.NewServer)
	text := strings.Replace(reload(api, "", ""), api.URL+"/token", idp.URL+"/token", 1)
	text = strings.Replace(text, "scope read", "transport {\n\t\t\t\tdial_timeout 2s\n\t\t\t}", 1)
	s := newSidecar(t)
	s.mustLoad(t, text)
	got := s.get(t)
	if calls := api.calls(); len(calls) != 0 {
		t.Errorf("the API got the token calls %v", calls)
	}
	if calls := idp.calls(); len(calls) != 1 || got != "200 Bearer t1" {
		t.Errorf("got %s; token calls: %v", got, calls)
	}
}

// TestEndpointTransportKeepsNoConnection: net/http sends a GET again by itself
// when a connection that it kept breaks, and so a one-time code.
func TestEndpointTransportKeepsNoConnection(t *testing.T) {
	var opened atomic.Int32
	api := newFakeAPI(t, httptest.NewServer)
	idp := newFakeAPI(t, func(h http.Handler) *httptest.Server {
		server := httptest.NewUnstartedServer(h)
		server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
			if state == http.StateNew {
				opened.Add(1)
			}
		}
		server.Start()
		return server
	})
	text := strings.Replace(reload(api, "", ""), api.URL+"/token", idp.URL+"/token", 1)
	text = strings.Replace(text, "scope read", "transport {\n\t\t\t\tdial_timeout 2s\n\t\t\t}", 1)
	s := newSidecar(t)
	s.mustLoad(t, text)
	// the grant, and then two refreshes, which have a transport of their own
	for i := 1; i <= 3; i++ {
		if got, want := s.get(t), fmt.Sprintf("200 Bearer t%d", i); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		api.mu.Lock()
		api.refuse[fmt.Sprintf("Bearer t%d", i)] = true
		api.mu.Unlock()
	}
	if calls := idp.calls(); len(calls) != 3 || opened.Load() != 3 {
		t.Errorf("%d connections for the token calls %v", opened.Load(), calls)
	}
}
