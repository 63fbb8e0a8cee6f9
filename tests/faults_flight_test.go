package tests

import (
	"context"
	"errors"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-bearer/caddy-bearer/caddymodule"
	"github.com/caddy-bearer/caddy-bearer/tests/provider"
	"github.com/caddy-bearer/caddy-bearer/tokensource"
	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenendpoint"
)

// TestFault26HangingProbe: the one call that a half-open breaker lets through gets no answer. Its caller gives up, or
// does not: either way another probe is made in time.
func TestFault26HangingProbe(t *testing.T) {
	for name, givesUp := range map[string]bool{"the caller gives up": true, "the caller waits": false} {
		t.Run(name, func(t *testing.T) {
			s := launch(t, setup{transport: "settle off\n\t\t\tbreaker {\n\ttrip_after 2\n\topen_for 200ms\n}"})
			s.get(t).wantOK(t)
			s.p.ScriptAPI(provider.Always(provider.Status(401, nil, "")))
			eventually(t, "the breaker opens", func() bool { return s.get(t).status == http.StatusServiceUnavailable })
			s.p.ClearScripts()
			s.p.ScriptAPI(provider.Hang())
			s.p.Forget()
			ctx, cancel := context.WithCancel(t.Context())
			var probe sync.WaitGroup
			defer probe.Wait()
			defer cancel()
			eventually(t, "a probe is sent", func() bool {
				probe.Go(func() { s.tryGet(ctx) })
				return s.p.APICount() > 0
			})
			if givesUp {
				cancel()
			}
			// with the probe's caller still there, unless it has given up
			eventually(t, "it recovers", func() bool { return s.tryGet(t.Context()) == http.StatusOK })
		})
	}
}

// tryGet makes a GET that may come to nothing, and gives its status.
func (s *sidecar) tryGet(ctx context.Context) int {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.base+"/", nil)
	if err != nil {
		return 0
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	return resp.StatusCode
}

// TestFault39AppGoesAway in the middle of the renewal that it started: the renewal is finished and written.
func TestFault39AppGoesAway(t *testing.T) {
	s := newSidecar(t, setup{})
	s.p.SetTokenDelay(500 * time.Millisecond)
	s.start(t)
	ctx, cancel := context.WithCancel(t.Context())
	var gone sync.WaitGroup
	gone.Go(func() { s.tryGet(ctx) })
	eventually(t, "the token is asked for", func() bool { return s.p.TokenCount() == 1 })
	cancel()
	gone.Wait()
	eventually(t, "the token is stored", func() bool { return len(s.records(t)) == 1 })
	s.get(t).wantOK(t)
	if n := s.p.TokenCount(); n != 1 {
		t.Errorf("%d token calls", n)
	}
}

// TestFault48SlowClients hold nothing up: neither other calls nor a renewal. Some of them are refused while they send, so
// that the sidecar waits for the rest of a body that it would send again.
func TestFault48SlowClients(t *testing.T) {
	s := launch(t, quick)
	s.get(t).wantOK(t)
	s.p.ScriptAPI(provider.EarlyAnswer(http.StatusUnauthorized), provider.EarlyAnswer(http.StatusUnauthorized))
	for range 8 {
		conn := dial(t, s.address) // sends a body that never ends
		write(t, conn, "POST /slow HTTP/1.1\r\nHost: "+s.address+"\r\nContent-Length: 1000\r\n\r\nabc")
	}
	s.p.ScriptAPI(provider.Function(func(w http.ResponseWriter, _ *http.Request) bool {
		_, _ = w.Write(make([]byte, 64<<20))
		return true
	}))
	reader := dial(t, s.address) // reads no answer
	write(t, reader, "GET /large HTTP/1.1\r\nHost: "+s.address+"\r\n\r\n")
	eventually(t, "the slow ones are there", func() bool { return s.p.APICount() >= 9 })
	// the slow ones never end: what waited for one would wait for ever
	for range 5 {
		s.p.RevokeAccessTokens()
		s.get(t).wantOK(t)
	}
}

func write(t *testing.T, conn net.Conn, text string) {
	t.Helper()
	if _, err := conn.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
}

func init() { caddy.RegisterModule(panicking{}) }

// panicking is a grant that a third party might write.
type panicking struct {
	// Secret is what it panics with.
	Secret string `json:"secret,omitempty"`
}

// CaddyModule implements caddy.Module.
func (panicking) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "token_sources.grants.test_panicking", New: func() caddy.Module { return new(panicking) }}
}

// UnmarshalCaddyfile implements caddyfile.Unmarshaler.
func (p *panicking) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	p.Secret = "{env.TEST_CLIENT_SECRET}"
	return nil
}

// TokenGrant implements caddymodule.Grant.
func (p *panicking) TokenGrant(*caddymodule.GrantContext) (tokensource.Grant, error) {
	return panickingGrant{caddy.NewReplacer().ReplaceAll(p.Secret, "")}, nil
}

type panickingGrant struct{ secret string }

func (panickingGrant) Info() tokensource.GrantInfo {
	return tokensource.GrantInfo{Type: "test_panicking", SameEndpoint: true}
}

func (g panickingGrant) Token(context.Context, tokensource.Vars) (*tokenendpoint.Response, error) {
	panic(errors.New("it happened with " + g.secret))
}

func (g panickingGrant) Refresh(context.Context, tokensource.Vars, tokenendpoint.Secret) (*tokenendpoint.Response, error) {
	panic(g.secret)
}

// TestFault49PanicInAGrant releases those who wait and is reported, without what it was that panicked.
func TestFault49PanicInAGrant(t *testing.T) {
	p := provider.New(provider.Generic)
	w := newPlace(t)
	setenv(t, secretsOf(p))
	s := &sidecar{place: w, p: p, api: serve(t, p, provider.Whole), address: "127.0.0.1:" + freePort(t)}
	s.app = newApp(t, "http://"+s.address)
	text := "{\ndefault_bind 127.0.0.1\ntoken_source api {\ngrant test_panicking\n" + answersAtOnce + "\n}\n}\nhttp://" + s.address +
		" {\nreverse_proxy " + s.api + " {\ntransport bearer api\n}\n}\n"
	s.config = w.contain(t, adapt(t, "panic.caddyfile", caddyfile.Format([]byte(text))))
	s.start(t)
	// how soon they are released TestPanicInAGrant shows, in tokensource
	if statuses := s.together(t, 10, nil); statuses[http.StatusServiceUnavailable] != 10 {
		t.Errorf("answers: %v", statuses)
	}
	s.wantLogged(t, "panicked")
	if n := s.p.APICount(); n != 0 || strings.Contains(s.logged(t), "it happened") {
		t.Errorf("%d API calls, or the panic's own words in the log", n)
	}
}

// answersAtOnce has a request without a token not wait for another attempt.
const answersAtOnce = "max_wait 1ms"
