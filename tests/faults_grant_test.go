package tests

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"testing"
	"time"

	"github.com/caddy-bearer/caddy-bearer/tests/provider"
)

// issued is what the provider gives to somebody else: another process with the same client.
type issued struct {
	Access  string `json:"access_token"`
	Refresh string `json:"refresh_token"`
}

// elsewhere asks the provider for a token, as another process would.
func elsewhere(t *testing.T, api string, p *provider.Provider) issued {
	form := url.Values{
		"grant_type": {"password"}, "username": {p.Username}, "password": {p.Password},
		"client_id": {p.ClientID}, "client_secret": {p.ClientSecret},
	}
	resp, err := http.PostForm(api+"/token", form)
	if err != nil {
		t.Error(err)
		return issued{}
	}
	defer resp.Body.Close()
	var got issued
	if err := json.NewDecoder(resp.Body).Decode(&got); err != nil || got.Refresh == "" {
		t.Errorf("the provider gave nothing: %v", err)
	}
	return got
}

// putRecord writes a newer generation over the one stored record, as another process would, of an older release: its
// records have no checksum.
func (w *place) putRecord(t *testing.T, got issued, expiry time.Time) {
	files := w.records(t)
	if len(files) != 1 {
		t.Errorf("%d records, want 1", len(files))
		return
	}
	text, err := os.ReadFile(files[0])
	if err != nil {
		t.Error(err)
		return
	}
	var stored struct {
		Record struct {
			Generation int `json:"generation"`
		} `json:"record"`
	}
	if err := json.Unmarshal(text, &stored); err != nil {
		t.Error(err)
		return
	}
	record := map[string]any{
		"version": 1, "generation": stored.Record.Generation + 1,
		"access_token": got.Access, "refresh_token": got.Refresh,
		"issued": time.Now().UTC(), "expiry": expiry.UTC(),
	}
	text, err = json.Marshal(record)
	if err == nil {
		err = os.WriteFile(files[0], text, 0o600)
	}
	if err != nil {
		t.Error(err)
	}
}

// fromRefreshToken is a sidecar whose grant is a refresh token from elsewhere: nothing but that one can renew.
func fromRefreshToken(t *testing.T, c setup) *sidecar {
	t.Helper()
	p := provider.New(provider.Generic)
	first := elsewhere(t, serve(t, p, provider.Whole), p)
	t.Setenv("TEST_REFRESH_TOKEN", first.Refresh)
	p.SetRotate(true)
	p.Forget()
	c.grantType = "refresh_token"
	s := newSidecarOf(t, p, c)
	s.start(t)
	return s
}

// TestFault6LostAnswer loses the answer to a refresh, by which the provider has rotated the refresh token. While that
// happens another process stores a newer one: the lost one's predecessor must not be sent again.
func TestFault6LostAnswer(t *testing.T) {
	for name, step := range map[string]func(w http.ResponseWriter){
		"cut": func(w http.ResponseWriter) {
			w.Header().Set("Content-Length", "1000")
			_, _ = w.Write([]byte(`{"access_token":"abc`))
			panic(http.ErrAbortHandler)
		},
		"reset": func(http.ResponseWriter) { panic(http.ErrAbortHandler) },
	} {
		t.Run(name, func(t *testing.T) {
			s := fromRefreshToken(t, setup{source: "min_interval 10ms", transport: "breaker {\n\ttrip_after 10000\n}"})
			s.get(t).wantOK(t)
			var theirs issued
			s.p.ScriptToken(provider.Committed(provider.Function(func(w http.ResponseWriter, _ *http.Request) bool {
				theirs = elsewhere(t, s.api, s.p)
				s.putRecord(t, theirs, time.Now().Add(time.Hour))
				step(w)
				return true
			})))
			s.p.RevokeAccessTokens()
			s.p.Forget()
			eventually(t, "the newer token is used", func() bool {
				return s.get(t).status == http.StatusOK
			})
			if n := s.p.ReuseAlarms(); n != 0 {
				t.Errorf("%d reuse alarms", n)
			}
		})
	}
}

// TestFault14NewerInTheStore: another process has renewed, and so the refresh token in memory is dead.
func TestFault14NewerInTheStore(t *testing.T) {
	for name, expiry := range map[string]time.Duration{"fresh": time.Hour, "expired": -time.Hour} {
		t.Run(name, func(t *testing.T) {
			s := fromRefreshToken(t, setup{source: "min_interval 10ms"})
			s.get(t).wantOK(t)
			s.p.RevokeEverything()
			s.putRecord(t, elsewhere(t, s.api, s.p), time.Now().Add(expiry))
			s.p.Forget()
			s.get(t).wantOK(t)
			if n := s.p.TokenCount(); (expiry > 0 && n != 0) || n > 1 {
				t.Errorf("%d token calls", n)
			}
		})
	}
}

// TestFault14NewerMeanwhile: both processes send the same refresh token, and the other one wins. The loser hears
// invalid_grant with a newer record in the store by then.
func TestFault14NewerMeanwhile(t *testing.T) {
	s := fromRefreshToken(t, setup{source: "min_interval 10ms"})
	s.get(t).wantOK(t)
	s.p.ScriptToken(provider.Function(func(w http.ResponseWriter, _ *http.Request) bool {
		s.putRecord(t, elsewhere(t, s.api, s.p), time.Now().Add(time.Hour))
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusBadRequest)
		_, _ = w.Write([]byte(`{"error":"invalid_grant"}`))
		return true
	}))
	s.p.RevokeAccessTokens()
	s.p.Forget()
	s.get(t).wantOK(t)
	if state := s.metric(t, `caddy_bearer_breaker_state{breaker="api",source="api"}`); state != "0" {
		t.Errorf("the breaker's state is %s", state)
	}
}

// TestFault15InvalidGrantForGood is told, and not asked again.
func TestFault15InvalidGrantForGood(t *testing.T) {
	s := fromRefreshToken(t, setup{source: alwaysDue})
	s.p.RevokeRefreshTokens()
	s.p.Forget()
	began := time.Now()
	eventually(t, "time passes", func() bool {
		s.get(t).wantProblem(t, http.StatusForbidden, "authorization-required")
		return time.Since(began) > 2500*time.Millisecond // more than a look into the store takes
	})
	if n := s.p.TokenCount(); n != 1 {
		t.Errorf("%d token calls", n)
	}
	s.wantLogged(t, "invalid_grant")
	if n := s.p.APICount(); n != 0 {
		t.Errorf("%d API calls", n)
	}
}

// TestFault16InvalidClient is remembered: no request asks again, and a probe does only after 5 s.
func TestFault16InvalidClient(t *testing.T) {
	s := newSidecar(t, setup{})
	t.Setenv("TEST_CLIENT_SECRET", "of another client")
	s.start(t)
	began := time.Now()
	eventually(t, "time passes", func() bool {
		s.get(t).wantProblem(t, http.StatusBadGateway, "client-refused")
		return time.Since(began) > 2500*time.Millisecond
	})
	if n := s.p.TokenCount(); n != 1 {
		t.Errorf("%d token calls", n)
	}
	s.wantLogged(t, "invalid_client")
	if violations := s.p.TakeViolations(); len(violations) != 1 {
		t.Errorf("violations: %v", violations)
	}
}

// TestFault16ManyUsers: what one user's call found out about the client holds for all.
func TestFault16ManyUsers(t *testing.T) {
	s := newSidecar(t, setup{source: "key user {header.X-User}"})
	t.Setenv("TEST_CLIENT_SECRET", "of another client")
	s.start(t)
	for i := range 30 {
		got := s.call(t, http.MethodGet, "/", http.Header{"X-User": {fmt.Sprint(i)}}, "")
		if problem := got.problem(); got.status < 500 || problem != "client-refused" {
			t.Errorf("status %d: %s", got.status, got.body)
		}
	}
	if n := s.p.TokenCount(); n != 1 {
		t.Errorf("%d token calls, want 1", n)
	}
	s.p.TakeViolations()
}
