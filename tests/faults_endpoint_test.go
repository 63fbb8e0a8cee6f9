package tests

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-bearer/caddy-bearer/tests/provider"
)

// alwaysDue has every token due from its first moment on, so that each request may start a renewal.
const alwaysDue = "refresh_ahead 100% max 24h"

// keeps lets the token endpoint fail while there is a token: requests go on with it, the failing endpoint is not
// stormed, and a recovered one is used.
func keeps(t *testing.T, grant string, step provider.Step) *sidecar {
	t.Helper()
	s := launch(t, setup{source: alwaysDue, grant: grant})
	first := s.get(t).wantOK(t)
	s.p.ScriptToken(provider.Always(step))
	s.p.Forget()
	began := time.Now()
	eventually(t, "a renewal fails", func() bool {
		if e := s.get(t).wantOK(t); e.Serial != first.Serial {
			t.Fatalf("token %d, was %d", e.Serial, first.Serial)
		}
		return s.failures(t) > 0
	})
	// back-off is at least 50 ms, and doubles
	if most := 2 + int(time.Since(began)/(50*time.Millisecond)); s.p.TokenCount() > most {
		t.Errorf("%d token calls in %v", s.p.TokenCount(), time.Since(began))
	}
	s.p.ClearScripts()
	eventually(t, "the endpoint is used again", func() bool {
		return s.get(t).wantOK(t).Serial > first.Serial
	})
	return s
}

// failures counts the renewals that the log calls failed.
func (s *sidecar) failures(t *testing.T) int {
	return countLines(s.logged(t), `"msg":"token not renewed"`)
}

func TestFault1TimeoutKeepsTheToken(t *testing.T) {
	keeps(t, "timeout 200ms", provider.Hang())
}

func TestFault2ServerErrorsKeepTheToken(t *testing.T) {
	for _, status := range []int{500, 503} {
		t.Run(strconv.Itoa(status), func(t *testing.T) {
			keeps(t, "", provider.Status(status, nil, `{"error":"server_error"}`))
		})
	}
}

// TestFault2NoTripIsSeen: an endpoint whose breaker is open is no business of an app that has a token.
func TestFault2NoTripIsSeen(t *testing.T) {
	s := launch(t, setup{source: alwaysDue + "\n\t\tbreaker {\n\t\t\ttrip_after 1\n\t\t\topen_for 1m\n\t\t}"})
	s.get(t).wantOK(t)
	s.p.ScriptToken(provider.Always(provider.Status(503, nil, "")))
	eventually(t, "the endpoint's breaker opens", func() bool {
		s.get(t).wantOK(t)
		return s.metric(t, `caddy_bearer_breaker_state{breaker="token_endpoint",source="api"}`) == "2"
	})
	for range 20 {
		s.get(t).wantOK(t)
	}
}

func TestFault3RetryAfterIsObeyed(t *testing.T) {
	inTwoMinutes := func() string { return time.Now().Add(2 * time.Minute).UTC().Format(http.TimeFormat) }
	for name, tt := range map[string]struct {
		header func() string
		most   int
	}{
		"seconds": {func() string { return "120" }, 120},
		"date":    {inTwoMinutes, 120},
		"absurd":  {func() string { return "1000000000" }, 3600},
	} {
		t.Run(name, func(t *testing.T) {
			s := launch(t, setup{})
			began := time.Now()
			s.p.ScriptToken(provider.Always(provider.Status(429, http.Header{"Retry-After": {tt.header()}}, "")))
			for range 3 {
				got := s.get(t)
				got.wantProblem(t, http.StatusServiceUnavailable, "token-unavailable")
				// what has passed of it, a date's fraction of a second, and another for rounding
				least := tt.most - int(time.Since(began)/time.Second) - 2
				if n, err := strconv.Atoi(got.header.Get("Retry-After")); err != nil || n < least || n > tt.most {
					t.Errorf("Retry-After is %q, want %d to %d", got.header.Get("Retry-After"), least, tt.most)
				}
			}
			if n := s.p.TokenCount(); n != 1 {
				t.Errorf("%d token calls", n)
			}
		})
	}
}

// TestFault3ShortRetryAfter is waited for, and no less.
func TestFault3ShortRetryAfter(t *testing.T) {
	s := launch(t, setup{})
	s.p.ScriptToken(provider.Status(429, http.Header{"Retry-After": {"1"}}, ""))
	s.get(t).wantOK(t)
	calls := s.p.TokenCalls()
	if len(calls) != 2 || calls[1].Time.Sub(calls[0].Time) < time.Second {
		t.Errorf("%d token calls, the second too early", len(calls))
	}
}

func TestFault4MalformedAnswerKeepsTheToken(t *testing.T) {
	s := keeps(t, "", provider.Malformed())
	wantRefreshed(t, s)
}

func TestFault5PageKeepsTheToken(t *testing.T) {
	s := keeps(t, "", provider.HTML200())
	wantRefreshed(t, s)
}

// wantRefreshed fails the test if the refresh token was lost: then only the grant could be made again.
func wantRefreshed(t *testing.T, s *sidecar) {
	t.Helper()
	for _, call := range s.p.TokenCalls() {
		if call.Status == 0 {
			continue // under way: not read yet
		}
		if call.GrantType != "refresh_token" {
			t.Errorf("a %s call: the refresh token was lost", call.GrantType)
		}
	}
}

// TestFault7ContentType: what the answer is counts, not what it is called.
func TestFault7ContentType(t *testing.T) {
	for name, contentType := range map[string]string{
		"page": "text/html", "plain": "text/plain; charset=utf-8", "form": "application/x-www-form-urlencoded", "none": "",
		"odd": "application/jwt", "broken": ";;",
	} {
		t.Run("JSON called "+name, func(t *testing.T) {
			s := launch(t, setup{})
			s.p.ScriptToken(provider.WrongContentType(contentType))
			s.get(t).wantOK(t)
		})
	}
	for _, contentType := range []string{"application/x-www-form-urlencoded", "text/plain", "application/json", "text/html"} {
		t.Run("form called "+contentType, func(t *testing.T) {
			p := provider.New(provider.Generic)
			s := newSidecarOf(t, p, setup{tokenURL: mangled(t, p, func(w http.ResponseWriter, a *httptest.ResponseRecorder) {
				w.Header().Set("Content-Type", contentType)
				_, _ = w.Write([]byte(asForm(t, a.Body.Bytes())))
			})})
			s.start(t)
			s.get(t).wantOK(t)
		})
	}
}

// asForm writes a token answer as some providers do.
func asForm(t *testing.T, answer []byte) string {
	var fields map[string]any
	if err := json.Unmarshal(answer, &fields); err != nil {
		t.Error(err)
	}
	form := url.Values{}
	for name, value := range fields {
		switch v := value.(type) {
		case string:
			form.Set(name, v)
		case float64:
			form.Set(name, strconv.FormatFloat(v, 'f', -1, 64))
		}
	}
	return form.Encode()
}

// TestFault10SlowAnswer is cut at the deadline of the whole call: each byte comes in time, and the answer never would.
func TestFault10SlowAnswer(t *testing.T) {
	s := keeps(t, "timeout 300ms", provider.SlowBody(20))
	s.wantLogged(t, "no complete response in time")
}

// TestFault11Redirects of a token call go nowhere: the client's secret would go with them.
func TestFault11Redirects(t *testing.T) {
	for _, status := range []int{302, 307} {
		t.Run(strconv.Itoa(status), func(t *testing.T) {
			var hits atomic.Int32
			other := counting(t, func(*http.Request) { hits.Add(1) })
			s := keeps(t, "", provider.Redirect(status, other+"/token"))
			s.wantLogged(t, "redirect")
			if n := hits.Load(); n != 0 {
				t.Errorf("%d calls to the other host", n)
			}
		})
	}
}
