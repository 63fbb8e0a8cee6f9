package tests

import (
	"net/http"
	"testing"
	"time"

	"github.com/caddy-bearer/caddy-bearer/tests/provider"
)

// TestExpiry lets tokens live for two seconds and calls throughout: renewals must happen, by refresh token, and no call
// may notice.
func TestExpiry(t *testing.T) {
	each(t, renewable, func(t *testing.T, c contract) {
		s := newStack(t, c)
		s.p.SetLifetime(2 * time.Second)
		if c.kind == provider.Mondia {
			s.p.SetClientLifetime(time.Hour)
		}
		s.load(t, s.config)
		s.searchAtEnd(t)
		first := s.get(t).wantOK(t)
		eventually(t, "two renewals", func() bool {
			return s.get(t).wantOK(t).Serial >= first.Serial+2
		})
		calls := s.p.TokenCalls()
		for _, call := range calls[s.firstCalls():] {
			if call.GrantType != "refresh_token" || call.Status != http.StatusOK {
				t.Errorf("renewal by %q: status %d", call.GrantType, call.Status)
			}
		}
		for _, call := range s.p.APICalls() {
			if call.Status != http.StatusOK {
				t.Errorf("a call got through with a dead token: %s", call.Refused)
			}
		}
	})
}

// TestRotationThroughExpiry is TestExpiry with refresh tokens that are good for one use.
func TestRotationThroughExpiry(t *testing.T) {
	each(t, renewable, func(t *testing.T, c contract) {
		s := newStack(t, c)
		s.p.SetRotate(true)
		s.p.SetLifetime(time.Second)
		s.load(t, s.config)
		s.searchAtEnd(t)
		first := s.get(t).wantOK(t)
		eventually(t, "three renewals", func() bool {
			return s.get(t).wantOK(t).Serial >= first.Serial+3
		})
		if n := s.p.ReuseAlarms(); n != 0 {
			t.Errorf("%d reuse alarms", n)
		}
	})
}

// TestRefreshRefused has the grant made again where it needs nobody.
func TestRefreshRefused(t *testing.T) {
	each(t, renewable, func(t *testing.T, c contract) {
		s := start(t, c)
		s.get(t).wantOK(t)
		s.p.RevokeEverything()
		e := s.get(t).wantOK(t)
		if e.Holder != s.holder {
			t.Errorf("the token of %q", e.Holder)
		}
	})
}

// TestCodeTokenExpires: what nothing can renew ends with a person being asked for, not with a call that is bound to
// fail.
func TestCodeTokenExpires(t *testing.T) {
	s := newStack(t, mondiaPay)
	s.p.SetExpiresIn(" 1 ") // the provider itself goes on taking the token: it is the sidecar that is to judge
	s.load(t, s.config)
	s.searchAtEnd(t)
	s.authorize(t)
	s.get(t).wantOK(t)
	var got answer
	eventually(t, "the token expires", func() bool {
		got = s.get(t)
		return got.status != http.StatusOK
	})
	got.wantProblem(t, http.StatusForbidden, "authorization-required")
	s.p.Forget()
	s.get(t).wantProblem(t, http.StatusForbidden, "authorization-required")
	if n, m := s.p.APICount(), s.p.TokenCount(); n != 0 || m != 0 {
		t.Errorf("%d API calls and %d token calls with nothing to call with", n, m)
	}
	s.p.SetExpiresIn(" 43200 ")
	s.authorize(t)
	s.get(t).wantOK(t)
}

// TestUnknownLifetimeOfACode: the file's `lifetime` holds where the answer says nothing of use.
func TestUnknownLifetimeOfACode(t *testing.T) {
	for name, expires := range map[string]any{
		"absent": provider.Absent, "null": nil, "empty": "", "text": "soon", "list": []any{1},
	} {
		t.Run(name, func(t *testing.T) {
			each(t, personal, func(t *testing.T, c contract) {
				s := newStack(t, c)
				s.p.SetExpiresIn(expires)
				s.load(t, s.config)
				s.searchAtEnd(t)
				s.authorize(t)
				s.get(t).wantOK(t)
				s.get(t).wantOK(t)
				if n := s.p.TokenCount(); n != 1 {
					t.Errorf("%d token calls", n)
				}
			})
		})
	}
}
