package tests

import (
	"bytes"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/caddy-bearer/caddy-bearer/tests/provider"
)

// large is a body that an app would send, of the size that is promised to be replayed.
var large = strings.Repeat("0123456789abcdef", 4<<10)

// TestRevokedInUse: the app never sees a refusal that a new token cures, and its body arrives whole both times.
func TestRevokedInUse(t *testing.T) {
	each(t, renewable, func(t *testing.T, c contract) {
		s := start(t, c)
		first := s.get(t).wantOK(t)
		s.p.RevokeUserTokens()
		s.p.Forget()
		e := s.post(t, large).wantOK(t)
		if e.Serial == first.Serial || e.Holder != s.holder {
			t.Errorf("token %d of %q", e.Serial, e.Holder)
		}
		calls := s.p.APICalls()
		if len(calls) != 2 || calls[0].Status != http.StatusUnauthorized || calls[1].Status != http.StatusOK {
			t.Fatalf("API calls: %+v", calls)
		}
		for i, call := range calls {
			if call.BodyLength != int64(len(large)) || call.BodySHA256 != sum(large) {
				t.Errorf("sending %d: %d bytes of %d", i+1, call.BodyLength, len(large))
			}
		}
		if renewals := s.p.TokenCalls(); len(renewals) != 1 || renewals[0].GrantType != "refresh_token" {
			t.Errorf("renewals: %+v", renewals)
		}
	})
}

// TestRevokedForAPerson: a token that only a person can replace is not thrown away over a refusal.
func TestRevokedForAPerson(t *testing.T) {
	each(t, personal, func(t *testing.T, c contract) {
		s := start(t, c)
		s.authorize(t)
		first := s.get(t).wantOK(t)
		s.p.RevokeUserTokens()
		s.p.Forget()
		got := s.post(t, large)
		if got.status != http.StatusUnauthorized || got.problem() != "" || got.body != s.unauthorized(t) {
			t.Fatalf("not the provider's own answer: status %d: %s", got.status, got.body)
		}
		if calls := s.p.APICalls(); len(calls) != 1 || calls[0].BodySHA256 != sum(large) {
			t.Errorf("API calls: %+v", calls)
		}
		eventually(t, "the breaker opens", func() bool {
			got = s.get(t)
			return got.status != http.StatusUnauthorized
		})
		got.wantProblem(t, http.StatusForbidden, "authorization-required")
		for _, call := range s.p.APICalls() {
			if call.Serial != first.Serial {
				t.Errorf("token %d, want %d: it was thrown away", call.Serial, first.Serial)
			}
		}
		if n := s.p.TokenCount(); n != 0 {
			t.Errorf("%d token calls", n)
		}
		before := s.p.APICount()
		s.get(t).wantProblem(t, http.StatusForbidden, "authorization-required")
		if n := s.p.APICount(); n != before {
			t.Errorf("%d API calls while the breaker is open", n-before)
		}
		s.authorize(t)
		if e := s.get(t).wantOK(t); e.Serial == first.Serial {
			t.Error("the new code's token is not used")
		}
	})
}

// unauthorized is the body of the provider's own refusal.
func (s *stack) unauthorized(t *testing.T) string {
	t.Helper()
	calls := provider.New(s.kind)
	api := newApp(t, serve(t, calls, provider.GatewayPart))
	header := http.Header{"Authorization": {"Bearer unknown"}}
	return api.call(t, http.MethodGet, s.path, header, "").body
}

// TestAPIAlwaysRefuses: each request is sent five times at the most, and then there is a breaker in place of a storm.
func TestAPIAlwaysRefuses(t *testing.T) {
	each(t, renewable, func(t *testing.T, c contract) {
		s := newStack(t, c)
		// with the default of 5s the breaker would take a quarter of a minute to open
		s.config = bytes.ReplaceAll(s.config, []byte(`"protocol":"bearer"`), []byte(`"protocol":"bearer","settle":500000000`))
		s.load(t, s.config)
		s.searchAtEnd(t)
		s.get(t).wantOK(t)
		s.p.ScriptAPI(provider.Always(s.p.Unauthorized()))
		s.p.Forget()
		began := time.Now()
		asked := 0
		var got answer
		eventually(t, "the breaker opens", func() bool {
			before := s.p.APICount()
			got = s.post(t, large)
			asked++
			if sent := s.p.APICount() - before; sent > 5 {
				t.Errorf("request %d was sent %d times", asked, sent)
			}
			return got.status != http.StatusUnauthorized
		})
		got.wantProblem(t, http.StatusServiceUnavailable, "breaker-open")
		if got.header.Get("Retry-After") == "" {
			t.Error("no Retry-After")
		}
		if asked < 3 {
			t.Errorf("the breaker opened with request %d", asked)
		}
		// renewals that a refusal forces are a second apart
		if most := 1 + int(time.Since(began)/time.Second); s.p.TokenCount() > most {
			t.Errorf("%d renewals in %v", s.p.TokenCount(), time.Since(began))
		}
		for i, call := range s.p.APICalls() {
			if call.BodySHA256 != sum(large) {
				t.Errorf("API call %d: %d bytes of %d", i+1, call.BodyLength, len(large))
			}
		}
		before := s.p.APICount()
		s.get(t).wantProblem(t, http.StatusServiceUnavailable, "breaker-open")
		if n := s.p.APICount(); n != before {
			t.Error("the API was called while the breaker was open")
		}
	})
}

// TestBusinessRefusals: some refusals have nothing to do with the token. They pass, as often as they come.
func TestBusinessRefusals(t *testing.T) {
	for _, tt := range []struct {
		name   string
		setup  contract
		status int
		step   provider.Step
		text   string
	}{
		{"second factor", mbanq, 403, provider.Restricted(403), `"errorCode":"RESTRICTED"`},
		{"second factor as 401", mbanq, 401, provider.Restricted(401), `"errorCode":"RESTRICTED"`},
		{"wrong one-time password", mondiaPay, 401, provider.Business(401, "INCORRECT_OTP"), `"error":"INCORRECT_OTP"`},
		{"blocked user", mondiaPay, 403, provider.Business(403, "USER_IS_BLOCKED"), `"error":"USER_IS_BLOCKED"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := start(t, tt.setup)
			s.authorize(t)
			s.get(t).wantOK(t)
			s.p.Forget()
			const times = 12 // more than a breaker takes
			s.p.ScriptAPI(provider.Always(tt.step))
			for range times {
				got := s.post(t, large)
				if got.status != tt.status || got.problem() != "" || !strings.Contains(got.body, tt.text) {
					t.Fatalf("not the provider's own answer: status %d: %s", got.status, got.body)
				}
			}
			if n, m := s.p.APICount(), s.p.TokenCount(); n != times || m != 0 {
				t.Errorf("%d API calls for %d requests, %d renewals", n, times, m)
			}
			s.p.ClearScripts()
			s.get(t).wantOK(t)
		})
	}
}

// TestMondiaClientTokenRevoked: the user's token is bought with the client's, which can be the one that is refused.
func TestMondiaClientTokenRevoked(t *testing.T) {
	s := start(t, mondia)
	s.get(t).wantOK(t)
	s.p.RevokeClientTokens()
	s.p.Forget()
	other := s.header.Clone()
	other.Set("X-Identity-Value", "491700000043")
	if e := s.call(t, http.MethodGet, s.path, other, "").wantOK(t); e.Holder != "MSISDN:491700000043" {
		t.Errorf("the token of %q", e.Holder)
	}
	var statuses []int
	for _, call := range s.p.TokenCalls() {
		statuses = append(statuses, call.Status)
	}
	if len(statuses) != 3 || statuses[0] != 401 || statuses[1] != 200 || statuses[2] != 200 {
		t.Errorf("token calls were answered %v; want user refused, client renewed, user created", statuses)
	}
}
