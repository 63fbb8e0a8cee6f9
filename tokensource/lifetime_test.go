package tokensource_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-bearer/caddy-bearer/tokensource"
	"github.com/caddy-bearer/caddy-bearer/tokensource/internal/wiretest"
	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenendpoint"
)

// endpointSource is a source over a token endpoint in memory.
func endpointSource(t *testing.T, ep *tokenendpoint.Endpoint, cfg tokensource.Config) *tokensource.Source {
	t.Helper()
	cfg.Grant = &tokensource.EndpointGrant{Type: "client_credentials", Endpoint: ep}
	return newSource(t, cfg)
}

// docs/faults.md, fault 13: no expires_in makes a storm of token calls, and none makes a
// token eternal. Ten minutes of a source that renews by its timer, with a
// request each 100 ms.
func TestNoStormWhateverExpiresIn(t *testing.T) {
	for _, c := range []struct {
		json string
		most int
	}{
		{"null", 1},
		{`""`, 1},
		{`"abc"`, 1},
		{"1e18", 1},
		{`"NaN"`, 1},
		{"[]", 1},
		{"1", 1000},
		{"5", 200},
		{"0.01", 1000},
		{"1e-9", 1000},
	} {
		t.Run(c.json, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := wiretest.Responding(200, "application/json", fmt.Sprintf(`{"access_token":"tok","expires_in":%s}`, c.json))
				s := endpointSource(t, wiretest.Endpoint(w), tokensource.Config{})
				tok := want(t, s, noKey, "tok")
				if tok.Expiry().IsZero() {
					t.Error("the token is eternal")
				}
				for range 6000 {
					want(t, s, noKey, "tok")
					time.Sleep(100 * time.Millisecond)
				}
				if w.Count() > c.most {
					t.Errorf("%d token calls in ten minutes, want at most %d", w.Count(), c.most)
				}
			})
		})
	}
}

// A token that has expired already is none, and asked for with back-off.
func TestNoStormOfDeadTokens(t *testing.T) {
	for _, json := range []string{"0", "-1", `"2001-01-01T00:00:00Z"`} {
		synctest.Test(t, func(t *testing.T) {
			time.Sleep(2 * 365 * 24 * time.Hour) // a bubble begins in 2000
			w := wiretest.Responding(200, "application/json", fmt.Sprintf(`{"access_token":"tok","expires_in":%s}`, json))
			s := endpointSource(t, wiretest.Endpoint(w), tokensource.Config{MaxWait: -1})
			for range 600 {
				wantErr(t, s, noKey, tokensource.ErrUnavailable, tokensource.ErrBreakerOpen)
				time.Sleep(time.Second)
			}
			if w.Count() < 2 || w.Count() > 601 {
				t.Errorf("%s: %d token calls in ten minutes, want at most one a second", json, w.Count())
			}
		})
	}
}

func TestLifetimeSettings(t *testing.T) {
	for name, c := range map[string]struct {
		said     time.Duration
		lifetime tokensource.Lifetime
		want     time.Duration // 0: for ever
	}{
		"said":     {30 * time.Minute, tokensource.Lifetime{}, 30 * time.Minute},
		"not said": {0, tokensource.Lifetime{}, time.Hour},
		"default":  {0, tokensource.Lifetime{Default: 55 * time.Minute}, 55 * time.Minute},
		"capped":   {time.Hour, tokensource.Lifetime{Max: time.Minute}, time.Minute},
		"for ever": {time.Minute, tokensource.Lifetime{Forever: true}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := &fakeGrant{onToken: issue("tok", c.said)}
				s := newSource(t, tokensource.Config{Grant: g, Lifetime: c.lifetime})
				tok := want(t, s, noKey, "tok")
				if c.want == 0 {
					if !tok.Expiry().IsZero() {
						t.Errorf("the token expires at %v, want never", tok.Expiry())
					}
					time.Sleep(20 * 365 * 24 * time.Hour)
					want(t, s, noKey, "tok")
					wantCalls(t, g, 1, 0)
					return
				}
				if got := time.Until(tok.Expiry()); got != c.want {
					t.Errorf("the token lives %v, want %v", got, c.want)
				}
			})
		})
	}
}

// A provider whose tokens are permanent is told of by `never`: the token of a
// one-use code must not be thrown away after an hour.
func TestExpiryNeverIsNever(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ep := wiretest.Endpoint(wiretest.Responding(200, "application/json", `{"access_token":"tok","expires_in":3600}`))
		ep.Response.ExpiryKind = tokenendpoint.ExpiryNever
		s := endpointSource(t, ep, tokensource.Config{})
		if tok := want(t, s, noKey, "tok"); !tok.Expiry().IsZero() {
			t.Errorf("the token lives %v, want for ever", time.Until(tok.Expiry()))
		}
	})
}
