package tests

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-bearer/caddy-bearer/tests/provider"
)

// What an operator sees: readiness, metrics, events, log lines.

func init() { caddy.RegisterModule(new(eventRecorder)) }

// eventRecorder is an event handler as a third party might write it. It keeps what came since the last test looked.
type eventRecorder struct{}

var recorded struct {
	sync.Mutex
	events []string
}

// CaddyModule implements caddy.Module.
func (*eventRecorder) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "events.handlers.test_recorder", New: func() caddy.Module { return new(eventRecorder) }}
}

// Handle implements caddyevents.Handler.
func (*eventRecorder) Handle(_ context.Context, e caddy.Event) error {
	data, err := json.Marshal(e.Data)
	recorded.Lock()
	defer recorded.Unlock()
	recorded.events = append(recorded.events, fmt.Sprintf("%s %s %s", e.Origin().CaddyModule().ID, e.Name(), data))
	return err
}

// UnmarshalCaddyfile implements caddyfile.Unmarshaler.
func (*eventRecorder) UnmarshalCaddyfile(*caddyfile.Dispenser) error { return nil }

// takeEvents gives the events since it was last called.
func takeEvents() []string {
	recorded.Lock()
	defer recorded.Unlock()
	events := recorded.events
	recorded.events = nil
	return events
}

// events has the recorder see ours.
const events = "events {\non token_source.lost test_recorder\non token_source.store_down test_recorder\non token_source.store_up test_recorder\n}"

// watched is a sidecar that an operator looks at.
type watched struct {
	*sidecar
	probe string // a site of its own, with token_readiness
	seen  strings.Builder
}

// watch adds the operator's part to a setup, with a probe.
func watch(t *testing.T, p *provider.Provider, c setup) *watched {
	t.Helper()
	probe := freePort(t)
	c.global += "\n" + events
	c.rest += "\nhttp://127.0.0.1:" + probe + " {\ntoken_readiness\n}\n"
	takeEvents()
	return &watched{sidecar: newSidecarOf(t, p, c), probe: "http://127.0.0.1:" + probe + "/"}
}

// codes is a setup whose tokens need a person. One person's, without a key.
func codes(p *provider.Provider, port string) setup {
	p.RedirectURI = "http://127.0.0.1:" + port + "/tokens/callback"
	return setup{
		port: port, grantType: "authorization_code",
		grant: "redirect_uri " + p.RedirectURI,
		site:  "handle /tokens/* {\ntoken_login api\n}",
	}
}

func (s *watched) handOver(t *testing.T) {
	t.Helper()
	form := http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}
	got := s.call(t, http.MethodPost, "/tokens/code", form, url.Values{"code": {s.p.NewCode("ann")}}.Encode())
	if got.status != http.StatusOK {
		t.Fatalf("handing over a code: %d %s", got.status, got.body)
	}
}

// ready asks the probe.
func (s *watched) ready(t *testing.T) (status int, r struct {
	Status  string
	Sources map[string]struct {
		Status, Breaker, Store string
		Reasons                []string
		Tokens, Unstored       int
		NeedsPerson            int `json:"needs_person"`
	}
},
) {
	t.Helper()
	code, body := s.look(s.probe)
	s.seen.WriteString(body)
	if err := json.Unmarshal([]byte(body), &r); err != nil {
		t.Fatalf("%v in %d %s", err, code, body)
	}
	return code, r
}

// wantReady waits until the probe says a status, of all and of the source, and the reasons.
func (s *watched) wantReady(t *testing.T, want string, reasons ...string) {
	t.Helper()
	said := ""
	defer func() {
		if t.Failed() {
			t.Logf("readiness was last %s", said)
		}
	}()
	eventually(t, fmt.Sprintf("it is %s %v", want, reasons), func() bool {
		holds := false
		holds, said = s.isReady(t, want, reasons)
		return holds
	})
}

// wantReadyNow is wantReady for what must be so at once.
func (s *watched) wantReadyNow(t *testing.T, want string, reasons ...string) {
	t.Helper()
	if holds, said := s.isReady(t, want, reasons); !holds {
		t.Fatalf("it is not %s %v: readiness is %s", want, reasons, said)
	}
}

func (s *watched) isReady(t *testing.T, want string, reasons []string) (holds bool, said string) {
	t.Helper()
	code, r := s.ready(t)
	wantCode := http.StatusOK
	if want == "unavailable" {
		wantCode = http.StatusServiceUnavailable
	}
	holds = code == wantCode && r.Status == want && r.Sources["api"].Status == want && slices.Equal(r.Sources["api"].Reasons, append([]string{}, reasons...))
	return holds, fmt.Sprint(code, r)
}

// wantEvents waits for the events since the last look. A key's hash is left out of them.
func (s *watched) wantEvents(t *testing.T, want ...string) {
	t.Helper()
	var got []string
	eventually(t, fmt.Sprintf("the events %v", want), func() bool {
		got = append(got, takeEvents()...)
		return len(got) >= len(want)
	})
	for i, e := range got {
		s.seen.WriteString(e + "\n")
		name, data, _ := strings.Cut(strings.TrimPrefix(e, "token_sources "), " ")
		var d map[string]string
		if err := json.Unmarshal([]byte(data), &d); err != nil {
			t.Fatal(err)
		}
		delete(d, "key")
		got[i] = name + " " + strings.TrimPrefix(fmt.Sprint(d), "map")
	}
	if !slices.Equal(got, want) {
		t.Errorf("events %q, want %q", got, want)
	}
}

// searchAtEnd has the canaries looked for in what the operator saw, too.
func (s *watched) searchAtEnd(t *testing.T) {
	t.Helper()
	t.Cleanup(func() {
		if s.seen.Len() == 0 {
			t.Error("nothing was seen")
		}
		s.searchCanaries(t, s.p, map[string]string{"problem answers": s.problems.String(), "readiness and events": s.seen.String()})
	})
}

const (
	needsPerson = `caddy_token_source_needs_person{source="api"}`
	unstored    = `caddy_token_source_unstored_tokens{source="api"}`
	storeUp     = `caddy_token_source_store_up{source="api"}`
	lostLine    = `"a person must authorize again: the refresh token is refused for good"`
)

// TestLostIsNoticed: a refresh token that is refused for good is told in every way there is, while the access token still
// serves; once that is expired too, the source is unavailable; a new code clears it all.
func TestLostIsNoticed(t *testing.T) {
	p := provider.New(provider.Generic)
	c := codes(p, freePort(t))
	c.source = "refresh_ahead 90%" // soon due, and still good for long: there is time to look
	s := watch(t, p, c)
	s.p.SetRotate(true)
	s.p.SetLifetime(8 * time.Second)
	s.load(t, s.config)
	s.searchAtEnd(t)
	s.wantReadyNow(t, "ready")
	s.handOver(t)
	s.get(t).wantOK(t)
	s.wantReadyNow(t, "ready")
	if n := s.metric(t, needsPerson); n != "0" {
		t.Errorf("needs_person is %q", n)
	}
	s.p.RevokeRefreshTokens()
	s.wantReady(t, "degraded", "consent_lost") // it is due 7.2 s before its end
	s.get(t).wantOK(t)
	if n := s.metric(t, needsPerson); n != "1" {
		t.Errorf("needs_person is %q", n)
	}
	s.wantEvents(t, "token_source.lost [error_code:invalid_grant source:api]")
	s.wantReady(t, "unavailable", "consent_lost")
	s.get(t).wantProblem(t, http.StatusForbidden, "authorization-required")
	if n := countLines(s.logged(t), lostLine); n != 1 || !strings.Contains(s.logged(t), `"level":"error"`) {
		t.Errorf("%d log lines", n)
	}
	calls := s.p.TokenCount()

	s.p.SetLifetime(time.Hour)
	s.handOver(t)
	s.get(t).wantOK(t)
	s.wantReadyNow(t, "ready")
	if n := s.metric(t, needsPerson); n != "0" {
		t.Errorf("needs_person is %q", n)
	}
	if n := s.p.TokenCount(); n != calls+1 {
		t.Errorf("%d token calls for one code", n-calls)
	}
	if left := takeEvents(); len(left) > 0 {
		t.Errorf("further events: %v", left)
	}
}

// TestLostIsRemembered: a restart does not make it forgotten, and sends nothing to find it out again.
func TestLostIsRemembered(t *testing.T) {
	p := provider.New(provider.Generic)
	s := watch(t, p, codes(p, freePort(t)))
	s.p.SetRotate(true)
	s.p.SetLifetime(2 * time.Second)
	s.load(t, s.config)
	s.searchAtEnd(t)
	s.handOver(t)
	s.p.RevokeRefreshTokens()
	s.wantEvents(t, "token_source.lost [error_code:invalid_grant source:api]")
	stop(t)
	calls := s.p.TokenCount()
	s.load(t, s.config)
	s.wantEvents(t, "token_source.lost [error_code: source:api]")
	s.wantReady(t, "unavailable", "consent_lost")
	if n := s.p.TokenCount(); n != calls {
		t.Errorf("%d token calls after the restart", n-calls)
	}
}
