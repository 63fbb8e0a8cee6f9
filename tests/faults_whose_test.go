package tests

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-bearer/caddy-bearer/tests/provider"
)

// Whose fault a failure is, from outside. How long things take is asked in tokensource, of a clock that tests hold.

// TestFault53Gateway: what a gateway says in the token endpoint's place, HTML or nothing, passes, whatever its status.
func TestFault53Gateway(t *testing.T) {
	for status, body := range map[int]string{401: "", 403: "<html>Request blocked</html>", 404: "<html>Not here</html>"} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			s := launch(t, setup{source: "max_wait 1ms"})
			s.p.ScriptToken(provider.Status(status, http.Header{"Content-Type": {"text/html"}}, body))
			s.get(t).wantProblem(t, http.StatusServiceUnavailable, "token-unavailable")
			s.wantLogged(t, `"fault":"endpoint"`)
			eventually(t, "it works again by itself", func() bool { return s.get(t).status == http.StatusOK })
			s.wantLogged(t, "tokens are obtained again")
		})
	}
}

// TestFault54WrongSecretIsNotTheUsers: the endpoint answers a wrong client secret in words that others use of dead refresh
// tokens. Nobody's consent is lost, and nobody is told to authorize again once it is known whose fault it is.
func TestFault54WrongSecretIsNotTheUsers(t *testing.T) {
	p := provider.New(provider.Generic)
	c := codes(p, freePort(t))
	c.source = "key user {header.X-User}"
	s := watch(t, p, c)
	s.load(t, s.config)
	users := []string{"ann", "bob", "eve", "joe", "kim"}
	for _, user := range users {
		header := http.Header{"Content-Type": {"application/x-www-form-urlencoded"}, "X-User": {user}}
		if got := s.call(t, http.MethodPost, "/tokens/code", header, url.Values{"code": {p.NewCode(user)}}.Encode()); got.status != http.StatusOK {
			t.Fatalf("handing over a code: %d %s", got.status, got.body)
		}
		s.as(t, user).wantOK(t)
	}
	wrong := provider.Always(provider.Status(401, nil, `{"error":"access_denied","error_description":"secret expired"}`))
	s.p.ScriptToken(wrong)
	s.p.RevokeAccessTokens()
	eventually(t, "it is known to be the client's fault", func() bool {
		for _, user := range users {
			s.as(t, user)
		}
		_, body := s.look(s.probe)
		return strings.Contains(body, `"client_refused"`)
	})
	s.p.ClearScripts()
	s.load(t, s.config) // by itself it would take up to a minute
	eventually(t, "all are served again", func() bool {
		for _, user := range users {
			if s.as(t, user).status != http.StatusOK {
				return false
			}
		}
		return true
	})
	if n := s.metric(t, needsPerson); n != "0" {
		t.Errorf("needs_person is %q", n)
	}
}

// TestFault55RefreshFailsForEver: where the grant works, it is made.
func TestFault55RefreshFailsForEver(t *testing.T) {
	for name, fail := range map[string]http.HandlerFunc{
		"500": func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "<html>Server Error</html>", 500) },
		"silence": func(_ http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body) // or the end of the request is not noticed
			<-r.Context().Done()
		},
	} {
		t.Run(name, func(t *testing.T) {
			broken := httptest.NewServer(fail)
			defer broken.Close()
			p := provider.New(provider.Generic)
			p.SetLifetime(time.Second)
			s := newSidecarOf(t, p, setup{source: "refresh {\ntoken_url " + broken.URL + "/token\ntimeout 300ms\n}"})
			s.start(t)
			first := s.get(t).wantOK(t)
			eventually(t, "the grant brings other tokens", func() bool {
				got := s.get(t)
				return got.status == http.StatusOK && got.wantOK(t).Serial > first.Serial+1
			})
		})
	}
}

// TestFault56OneKeyIsRefused: others do not notice, the caller is told whose key it is, and it is asked again.
func TestFault56OneKeyIsRefused(t *testing.T) {
	s := launch(t, setup{source: "key user {header.X-User}", grant: "header X-For {key.user}"})
	s.as(t, "ann").wantOK(t)
	refuse := provider.Always(provider.Function(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Header.Get("X-For") != "mallory" {
			return false
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusBadRequest)
		_, _ = w.Write([]byte(`{"error":"access_denied"}`))
		return true
	}))
	s.p.ScriptToken(refuse)
	got := s.as(t, "mallory")
	got.wantProblem(t, http.StatusBadGateway, "token-refused")
	if !strings.Contains(got.body, `"fault":"user"`) || !strings.Contains(got.body, `"key":"`) {
		t.Errorf("it is not said whose fault it is: %s", got.body)
	}
	for i := range 20 {
		s.as(t, fmt.Sprint("user-", i)).wantOK(t)
		s.as(t, "mallory").wantProblem(t, http.StatusBadGateway, "token-refused")
	}
	if state := s.metric(t, `caddy_bearer_breaker_state{breaker="token_endpoint",source="api"}`); state != "0" {
		t.Errorf("the breaker is %q", state)
	}
	s.p.ClearScripts()
	eventually(t, "the provider has changed its mind", func() bool { return s.as(t, "mallory").status == http.StatusOK })
}

// projected is a folder of files that are replaced together, as Kubernetes does it: by a link to another folder.
type projected struct {
	dir      string
	versions int
}

// put replaces the files by those that write makes in a folder.
func (p *projected) put(t *testing.T, write func(dir string)) {
	t.Helper()
	p.versions++
	version := fmt.Sprint("..", p.versions)
	folder := filepath.Join(p.dir, version)
	if err := os.Mkdir(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	write(folder)
	link := filepath.Join(p.dir, "..tmp")
	if err := os.Symlink(version, link); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(link, filepath.Join(p.dir, "..data")); err != nil {
		t.Fatal(err)
	}
}

// file is a file's lasting name.
func (p *projected) file(name string) string { return filepath.Join(p.dir, "..data", name) }

// TestFault58SecretFileReplaced: a secret in a file is replaced. It is used without a reload, also while the old one is
// refused; a token that serves is not asked for again.
func TestFault58SecretFileReplaced(t *testing.T) {
	p := provider.New(provider.Generic)
	files := &projected{dir: t.TempDir()}
	put := func(secret string) {
		t.Helper()
		files.put(t, func(dir string) {
			if err := os.WriteFile(filepath.Join(dir, "secret"), []byte(secret+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		})
	}
	put("of another client")
	link := filepath.Join(files.dir, "secret")
	if err := os.Symlink(filepath.Join("..data", "secret"), link); err != nil {
		t.Fatal(err)
	}
	s := newSidecarOf(t, p, setup{})
	s.config = []byte(strings.ReplaceAll(string(s.config), "{env.TEST_CLIENT_SECRET}", "{file."+link+"}"))
	s.start(t)
	s.get(t).wantProblem(t, http.StatusBadGateway, "client-refused")
	p.TakeViolations()
	put(p.ClientSecret)
	eventually(t, "the new secret is used", func() bool { return s.get(t).status == http.StatusOK })
	s.wantLogged(t, "files were replaced")
	p.Forget()
	put("of another client again")
	eventually(t, "the next one is noticed", func() bool { return countLines(s.logged(t), "files were replaced") == 2 })
	s.get(t).wantOK(t)
	if n := p.TokenCount(); n != 0 {
		t.Errorf("%d token calls while the token is valid", n)
	}
}

// TestFault58TLSFilesReplaced: the provider changes the authority that signs its certificate and its clients'. What it
// takes now is put into the files, and is used without a reload, for the API and for the token endpoint.
func TestFault58TLSFilesReplaced(t *testing.T) {
	p := provider.New(provider.Generic)
	var wants atomic.Pointer[tls.Config]
	server := httptest.NewUnstartedServer(p)
	server.EnableHTTP2 = true
	server.TLS = &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return wants.Load(), nil }}
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	rule := func(a *authority) {
		t.Helper()
		clients := x509.NewCertPool()
		clients.AddCert(a.certificate)
		wants.Store(&tls.Config{
			Certificates: []tls.Certificate{a.sign(t, "127.0.0.1", time.Now().Add(time.Hour))}, NextProtos: []string{"h2", "http/1.1"},
			ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: clients,
		})
	}
	files := &projected{dir: t.TempDir()}
	before, after := newAuthority(t), newAuthority(t)
	rule(before)
	files.put(t, func(dir string) { before.write(t, dir) })
	server.StartTLS()
	t.Cleanup(server.Close)
	options := fmt.Sprintf("tls_trust_pool file %s\ntls_client_auth %s %s", files.file("ca.pem"), files.file("tls.crt"), files.file("tls.key"))
	s := newSidecarOf(t, p, setup{
		tokenURL: server.URL + "/token", grant: "transport {\n" + options + "\n}", source: answersAtOnce,
		upstream: server.URL, transport: options,
	})
	s.start(t)
	s.get(t).wantOK(t)

	rule(after)
	server.CloseClientConnections()
	eventually(t, "an unknown authority is refused", func() bool {
		return s.get(t).status == http.StatusBadGateway && strings.Contains(s.logged(t), "certificate signed by unknown authority")
	})
	files.put(t, func(dir string) { after.write(t, dir) })
	eventually(t, "the API's new authority is known, and knows us", func() bool { return s.get(t).status == http.StatusOK })
	p.RevokeEverything()
	eventually(t, "so with the token endpoint", func() bool { return s.get(t).status == http.StatusOK })
	if calls := p.TokenCalls(); len(calls) < 2 {
		t.Errorf("%d token calls", len(calls))
	}
	s.wantLogged(t, "TLS files were replaced")
}

// TestFirstTokenAtTheStart: without any traffic a source obtains its token, and readiness says whether it could.
func TestFirstTokenAtTheStart(t *testing.T) {
	s := watch(t, provider.New(provider.Generic), setup{eager: true})
	s.load(t, s.config)
	s.wantReady(t, "ready")
	if n := s.p.TokenCount(); n != 1 {
		t.Errorf("%d token calls", n)
	}
	stop(t)
	refused := watch(t, provider.New(provider.Generic), setup{eager: true})
	refused.p.ScriptToken(provider.Always(provider.Status(401, nil, `{"error":"invalid_client"}`)))
	refused.load(t, refused.config)
	refused.wantReady(t, "unavailable", "client_refused")
}

// TestNothingIsToldOfTheCaller: what reverse_proxy says of the app and of this host is not the provider's business, unless
// the settings say so.
func TestNothingIsToldOfTheCaller(t *testing.T) {
	for option, forwarded := range map[string]bool{"": false, "forwarded": true} {
		t.Run(option, func(t *testing.T) {
			s := launch(t, setup{transport: option})
			s.get(t).wantOK(t)
			calls := s.p.APICalls()
			names := []string{"X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"}
			if *way == "transport" || !forwarded {
				names = append(names, "Via") // the handler never adds it
			}
			for _, name := range names {
				if _, told := calls[0].Header[name]; told != forwarded {
					t.Errorf("%s is told: %v, want %v", name, told, forwarded)
				}
			}
		})
	}
}
