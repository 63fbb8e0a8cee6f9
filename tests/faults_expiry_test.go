package tests

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-bearer/caddy-bearer/tests/provider"
)

// TestFault13AbsurdExpiry gives lifetimes that no one can mean: the token is used all the same, asked for once, and not
// taken to live for ever.
func TestFault13AbsurdExpiry(t *testing.T) {
	for name, expires := range map[string]any{
		"null": nil, "empty": "", "text": "abc", "fraction": 3600.5, "1e18": provider.Raw("1e18"),
		"1h": "1h", "NaN as text": "NaN", "NaN": provider.Raw("NaN"), "5": 5,
		"epoch": time.Now().Add(time.Hour).Unix(), "list": []any{3600}, "object": map[string]any{"s": 1}, "true": true,
		"absent": provider.Absent, "huge digits": provider.Raw("999999999999999999999999999999"),
	} {
		t.Run(name, func(t *testing.T) {
			s := newSidecar(t, setup{})
			s.p.SetExpiresIn(expires)
			s.start(t)
			began := time.Now()
			first := s.get(t).wantOK(t)
			for range 5 {
				s.get(t).wantOK(t)
			}
			// 5 s is the least of these lifetimes, and its last fifth is for the renewal
			renewals := int(time.Since(began) / (4 * time.Second))
			if n, serial := s.p.TokenCount(), s.get(t).wantOK(t).Serial; n > 1+renewals || serial > first.Serial+renewals {
				t.Errorf("%d token calls, token %d, was %d", n, serial, first.Serial)
			}
			text := s.metric(t, `caddy_token_source_expiry_timestamp_seconds{source="api"}`)
			seconds, err := strconv.ParseFloat(text, 64)
			left := time.Until(time.Unix(int64(seconds), 0))
			if err != nil || left < time.Second || left > time.Hour+time.Minute {
				t.Errorf("it lives for %v (%q): %v", left, text, err)
			}
		})
	}
}

// TestFault59DeadToken: a token that has expired already by its own response is not used, and not asked for in a storm. With a
// refresh token beside it, that brings the next.
func TestFault59DeadToken(t *testing.T) {
	for name, expires := range map[string]any{
		"zero": 0, "a date": time.Now().Add(-time.Hour).UTC().Format(time.RFC3339),
	} {
		t.Run(name, func(t *testing.T) {
			s := newSidecar(t, setup{source: "max_wait 1ms"})
			s.p.SetExpiresIn(expires)
			s.start(t)
			for range 3 {
				s.get(t).wantProblem(t, http.StatusServiceUnavailable, "token-unavailable")
			}
			if n := s.p.APICount(); n != 0 {
				t.Errorf("%d API calls with a dead token", n)
			}
			s.p.SetExpiresIn(3600)
			eventually(t, "a token", func() bool { return s.get(t).status == http.StatusOK })
		})
	}
}

// TestFault13RefreshTokenIsKept: the rotated refresh token in an answer with an absurd lifetime is the only good one.
func TestFault13RefreshTokenIsKept(t *testing.T) {
	for name, expires := range map[string]any{"null": nil, "fraction": 3600.5, "text": "abc", "NaN": provider.Raw("NaN")} {
		t.Run(name, func(t *testing.T) {
			s := newSidecar(t, setup{source: "min_interval 10ms"})
			s.p.SetRotate(true)
			s.start(t)
			s.get(t).wantOK(t)
			s.p.SetExpiresIn(expires)
			for range 2 {
				s.p.RevokeAccessTokens()
				s.get(t).wantOK(t)
			}
			if n := s.p.ReuseAlarms(); n != 0 {
				t.Errorf("%d reuse alarms", n)
			}
			for _, call := range s.p.TokenCalls()[1:] {
				if call.GrantType != "refresh_token" || call.Status != http.StatusOK {
					t.Errorf("a %s call with status %d", call.GrantType, call.Status)
				}
			}
		})
	}
}

// TestFault17RefreshTokenStays: an answer without a refresh token leaves the old one in force, across a restart too.
func TestFault17RefreshTokenStays(t *testing.T) {
	// each token is revoked before it was used: to wait for it to become known would be no use
	s := launch(t, setup{source: "min_interval 1ms", transport: "settle off"})
	s.get(t).wantOK(t)
	s.p.Forget()
	for i := range 3 {
		s.p.RevokeAccessTokens()
		s.get(t).wantOK(t)
		if i == 1 {
			stop(t)
			s.load(t, s.config)
			s.client.CloseIdleConnections()
		}
	}
	calls := s.p.TokenCalls()
	if len(calls) != 3 {
		t.Errorf("%d renewals, want 3", len(calls))
	}
	for _, call := range calls {
		if call.GrantType != "refresh_token" || call.Status != http.StatusOK {
			t.Errorf("a %s call with status %d", call.GrantType, call.Status)
		}
	}
}

// TestAttack7TokenCharacters: a token that could end its header, or hide in it, is refused and not sent.
func TestAttack7TokenCharacters(t *testing.T) {
	for name, bad := range map[string]string{
		"CR": "\r", "LF": "\n", "CRLF and a header": "\r\nX-Evil: 1", "tab": "\t", "space": " ", "NUL": "\x00", "DEL": "\x7f",
		"Latin": "é", "emoji": "🔑", "zero width": "\u200b", "BOM": "\ufeff",
	} {
		for _, at := range []string{"%[2]s%[1]s", "%[1]s%[2]s", "%[1]s%[2]s%[1]s"} {
			t.Run(fmt.Sprintf("%s in %s", name, at), func(t *testing.T) {
				var mended atomic.Bool
				p := provider.New(provider.Generic)
				tokenURL := mangled(t, p, func(w http.ResponseWriter, a *httptest.ResponseRecorder) {
					answerWith(t, w, a, func(fields map[string]any) {
						if !mended.Load() {
							fields["access_token"] = fmt.Sprintf(at, fields["access_token"], bad)
						}
					})
				})
				s := newSidecarOf(t, p, setup{tokenURL: tokenURL, source: "max_wait 1ms"})
				s.start(t)
				s.get(t).wantProblem(t, http.StatusServiceUnavailable, "token-unavailable")
				if n := s.p.APICount(); n != 0 {
					t.Errorf("%d API calls", n)
				}
				for _, file := range s.records(t) { // that there was a renewal is in it
					if text := string(mustRead(t, file)); strings.Contains(text, "access_token") {
						t.Errorf("such a token was stored: %s", text)
					}
				}
				if s.p.TokenCount() == 0 {
					t.Error("no token was issued: the test shows nothing")
				}
				if name == "CR" {
					mended.Store(true)
					eventually(t, "it is nobody's fault", func() bool { return s.get(t).status == http.StatusOK })
				}
			})
		}
	}
}

// answerWith sends a recorded JSON answer with changed fields.
func answerWith(t *testing.T, w http.ResponseWriter, a *httptest.ResponseRecorder, change func(map[string]any)) {
	var fields map[string]any
	if err := json.Unmarshal(a.Body.Bytes(), &fields); err != nil {
		t.Error(err)
	}
	change(fields)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(a.Code)
	if err := json.NewEncoder(w).Encode(fields); err != nil {
		t.Error(err)
	}
}
