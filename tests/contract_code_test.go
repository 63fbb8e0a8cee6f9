package tests

import (
	"net/http"
	"testing"

	"github.com/caddy-bearer/caddy-bearer/tests/provider"
)

func TestNoCodeYet(t *testing.T) {
	each(t, personal, func(t *testing.T, c contract) {
		s := start(t, c)
		s.get(t).wantProblem(t, http.StatusForbidden, "authorization-required")
		if n, m := s.p.APICount(), s.p.TokenCount(); n != 0 || m != 0 {
			t.Errorf("%d API calls and %d token calls before there was a code", n, m)
		}
	})
}

// TestCodeRefused: a code is good for one use, so it is sent once whatever comes of it.
func TestCodeRefused(t *testing.T) {
	each(t, personal, func(t *testing.T, c contract) {
		s := start(t, c)
		s.handOver(t, "A"+s.p.Canary()+"-unknown").wantProblem(t, http.StatusUnprocessableEntity, "code-refused")
		if n := s.p.TokenCount(); n != 1 {
			t.Errorf("the code was sent %d times", n)
		}
		s.get(t).wantProblem(t, http.StatusForbidden, "authorization-required")
		if n, m := s.p.APICount(), s.p.TokenCount(); n != 0 || m != 1 {
			t.Errorf("%d API calls and %d token calls", n, m)
		}
		s.authorize(t)
		s.get(t).wantOK(t)
	})
}

// TestRefusedCodeLeavesTheTokenAlone: a page that hands over a stale code does not log its user out.
func TestRefusedCodeLeavesTheTokenAlone(t *testing.T) {
	each(t, personal, func(t *testing.T, c contract) {
		s := start(t, c)
		s.authorize(t)
		first := s.get(t).wantOK(t)
		s.handOver(t, "Aunknown").wantProblem(t, http.StatusUnprocessableEntity, "code-refused")
		if e := s.get(t).wantOK(t); e.Serial != first.Serial {
			t.Errorf("token %d, was %d", e.Serial, first.Serial)
		}
	})
}

// TestCodeIsNotSentAgain: also an answer that was lost, or a server in trouble, may have used the code up.
func TestCodeIsNotSentAgain(t *testing.T) {
	for name, step := range map[string]provider.Step{
		"server error": provider.Status(505, nil, `{"error":"server_error"}`),
		"unavailable":  provider.Status(503, nil, ""),
		"dropped":      provider.Drop(),
		"cut":          provider.CutBody(),
		"reset":        provider.Reset(),
		"malformed":    provider.Malformed(),
		"page":         provider.HTML200(),
		"redirect":     provider.Redirect(307, "https://other.example/"),
	} {
		t.Run(name, func(t *testing.T) {
			each(t, personal, func(t *testing.T, c contract) {
				s := start(t, c)
				s.p.ScriptToken(step)
				got := s.handOver(t, s.p.NewCode(s.holder))
				if got.status < 400 || got.problem() == "" {
					t.Errorf("status %d: %s", got.status, got.body)
				}
				s.get(t).wantProblem(t, http.StatusForbidden, "authorization-required")
				if n := s.p.TokenCount(); n != 1 {
					t.Errorf("%d token calls", n)
				}
			})
		})
	}
}

// TestCodeWithoutAKey belongs to nobody.
func TestCodeWithoutAKey(t *testing.T) {
	each(t, personal, func(t *testing.T, c contract) {
		s := start(t, c)
		code := s.p.NewCode(s.holder)
		form := http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}
		s.call(t, http.MethodPost, "/tokens/code", form, "code="+code).
			wantProblem(t, http.StatusBadRequest, "key-missing")
		if n := s.p.TokenCount(); n != 0 {
			t.Errorf("%d token calls", n)
		}
	})
}

// TestNewCodeReplacesTheToken: a person who comes back is taken at their word.
func TestNewCodeReplacesTheToken(t *testing.T) {
	each(t, personal, func(t *testing.T, c contract) {
		s := start(t, c)
		s.authorize(t)
		first := s.get(t).wantOK(t)
		s.authorize(t)
		if e := s.get(t).wantOK(t); e.Serial == first.Serial {
			t.Error("the first token is still used")
		}
	})
}

// TestMonPayNestedAnswer: some of its answers wrap the token.
func TestMonPayNestedAnswer(t *testing.T) {
	s := newStack(t, monPay)
	s.p.SetNested(true)
	s.load(t, s.config)
	s.searchAtEnd(t)
	s.authorize(t)
	s.get(t).wantOK(t)
}
