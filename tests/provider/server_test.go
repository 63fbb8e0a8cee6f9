package provider_test

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/caddy-bearer/caddy-bearer/tests/provider"
)

func TestServerRefusesConnectionsForAWhile(t *testing.T) {
	s, err := provider.Start(provider.New(provider.Generic))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	send := func() int {
		status, _, err := post(t.Context(), s.Provider, http.DefaultClient, s.URL)
		if err != nil {
			return 0
		}
		return status
	}
	for _, step := range []struct {
		do   func() error
		want int
	}{
		{func() error { return nil }, 200},
		{func() error { s.Refuse(); return nil }, 0},
		{func() error { s.Refuse(); return nil }, 0},
		{s.Resume, 200},
		{s.Resume, 200},
	} {
		if err := step.do(); err != nil {
			t.Fatal(err)
		}
		if got := send(); got != step.want {
			t.Errorf("status %d, want %d", got, step.want)
		}
	}
}

func TestFastLooksAtTheToken(t *testing.T) {
	p := provider.New(provider.Generic)
	fast := p.Fast([]byte(`{"id":1}`))
	call := func(token string) (int, string) {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/things", nil)
		r.Header.Set("Authorization", "Bearer "+token)
		w := httptest.NewRecorder()
		fast.ServeHTTP(w, r)
		return w.Code, w.Body.String()
	}
	client := tokenFor(t, p)
	lasting := p.NewAccessToken("alice", 0)
	if status, body := call(client); status != http.StatusOK || body != `{"id":1}` {
		t.Errorf("live token: %d %s", status, body)
	}
	p.RevokeClientTokens()
	for name, tt := range map[string]struct {
		token string
		want  int
	}{
		"revoked": {client, 401},
		"unknown": {"x", 401},
		"expired": {p.NewAccessToken("alice", time.Nanosecond), 401},
		"lasting": {lasting, 200},
	} {
		if status, _ := call(tt.token); status != tt.want {
			t.Errorf("%s token: %d, want %d", name, status, tt.want)
		}
	}
	if c := p.Counts(); c.API != 5 || c.Unauthorized != 3 || len(p.APICalls()) != 0 {
		t.Errorf("counted %+v, listed %d", c, len(p.APICalls()))
	}
}
