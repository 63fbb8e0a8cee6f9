package tokensource_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-bearer/caddy-bearer/tokensource"
	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenendpoint"
)

// docs/faults.md, faults 15 and 16: a refused client is remembered, however many
// ask, and looked at again each minute.
func TestRefusalIsRemembered(t *testing.T) {
	for _, code := range []string{"invalid_client", "invalid_grant"} {
		synctest.Test(t, func(t *testing.T) {
			log, text := capture()
			g := &fakeGrant{onToken: func(context.Context, int, tokensource.Vars) (*tokenendpoint.Response, error) {
				return nil, refusal(code)
			}}
			s := newSource(t, tokensource.Config{Grant: g, Store: newMemStore(), Logger: log})
			start := time.Now()
			for range 1000 {
				wantErr(t, s, noKey, tokensource.ErrRefused)
				time.Sleep(10 * time.Second)
			}
			if waited := time.Since(start) - 10000*time.Second; waited > 0 {
				t.Errorf("the callers waited %v for nothing", waited)
			}
			if n := g.calls(); n < 10000/60 || n > 4+10000/45 {
				t.Errorf("%d calls, want a probe each minute", n)
			}
			if n := strings.Count(text.String(), "level=ERROR"); n < 30 || n > 10000/300+1 {
				t.Errorf("%d errors are logged, want one each five minutes", n)
			}
		})
	}
}

// The token that is there goes on serving while a refresh is refused.
func TestTokenServesWhileRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &fakeGrant{person: true, seed: "r", onRefresh: func(_ context.Context, n int, _ string) (*tokenendpoint.Response, error) {
			if n > 1 {
				return nil, refusal("invalid_grant")
			}
			return answer("tok", "", time.Hour), nil
		}}
		s := newSource(t, tokensource.Config{Grant: g})
		want(t, s, noKey, "tok")
		for range 59 {
			time.Sleep(time.Minute)
			want(t, s, noKey, "tok")
		}
		wantCalls(t, g, 0, 2)
		time.Sleep(time.Minute)
		err := wantErr(t, s, noKey, tokensource.ErrAuthorizationRequired)
		if tokensource.FaultOf(err) != tokensource.FaultConsent || tokensource.ErrorCode(err) != "invalid_grant" {
			t.Errorf("%v does not say why", err)
		}
		wantCalls(t, g, 0, 2)
	})
}

// Without a token, a seed or a code, only a person can help.
func TestPersonNeeded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &fakeGrant{person: true}
		s := newSource(t, tokensource.Config{Grant: g})
		start := time.Now()
		wantErr(t, s, noKey, tokensource.ErrAuthorizationRequired)
		if time.Since(start) > 0 {
			t.Error("the caller waited")
		}
		wantCalls(t, g, 0, 0)
	})
}

// A token that only a person can replace is not thrown away over a refusal by
// the API.
func TestTokenOfAPersonIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &fakeGrant{person: true, onExchange: func(context.Context, int, string) (*tokenendpoint.Response, error) {
			return answer("tok", "", 0), nil
		}}
		s := newSource(t, tokensource.Config{Grant: g, Lifetime: tokensource.Lifetime{Forever: true}})
		tok, err := s.Exchange(context.Background(), noKey, code("c"))
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if s.CanRenew(tok) {
			t.Error("CanRenew")
		}
		if _, err := s.Renew(context.Background(), noKey, tok); !errors.Is(err, tokensource.ErrAuthorizationRequired) {
			t.Errorf("Renew: %v, want ErrAuthorizationRequired", err)
		}
		want(t, s, noKey, "tok")
	})
}

// A refused client is remembered until the store has something newer.
func TestRefusalEndsWithTheStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newMemStore()
		refused := &fakeGrant{person: true, seed: "r", onRefresh: func(context.Context, int, string) (*tokenendpoint.Response, error) {
			return nil, refusal("invalid_grant")
		}}
		here := newSource(t, tokensource.Config{Grant: refused, Store: store})
		wantErr(t, here, noKey, tokensource.ErrAuthorizationRequired)

		// the person authorizes, at another replica
		there := newSource(t, tokensource.Config{Grant: &fakeGrant{person: true}, Store: store})
		if _, err := there.Exchange(context.Background(), noKey, code("c")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * time.Second)
		want(t, here, noKey, "exchanged-c")
		wantCalls(t, refused, 0, 1)
	})
}

// docs/faults.md, fault 14: the refresh token was spent by another replica in this very
// moment. Its successor is in the store, and is used; nobody is told that a
// person must come.
func TestRefusedWhileTheStoreHasANewer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newMemStore()
		var other *tokensource.Source
		g := &fakeGrant{person: true}
		g.onRefresh = func(ctx context.Context, n int, _ string) (*tokenendpoint.Response, error) {
			if _, err := other.Exchange(ctx, noKey, code("newer")); err != nil {
				t.Error(err)
			}
			return nil, refusal("invalid_grant")
		}
		s := newSource(t, tokensource.Config{Grant: g, Store: store, KeyNames: nil, MaxWait: -1})
		if _, err := s.Exchange(context.Background(), noKey, code("older")); err != nil {
			t.Fatal(err)
		}
		other = newSource(t, tokensource.Config{Grant: &fakeGrant{person: true}, Store: store})
		want(t, other, noKey, "exchanged-older")
		tok := want(t, s, noKey, "exchanged-older")
		time.Sleep(10 * time.Second)
		got, err := s.Renew(context.Background(), noKey, tok)
		if err != nil || got.AccessToken() != "exchanged-newer" {
			t.Errorf("Renew: %v, want the store's newer token", err)
		}
	})
}

// A transient failure is not for good: when the endpoint is back, so is the
// source.
func TestTransientFailureEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		up := time.Now().Add(time.Hour)
		g := &fakeGrant{onToken: func(context.Context, int, tokensource.Vars) (*tokenendpoint.Response, error) {
			if time.Now().Before(up) {
				return nil, status(502)
			}
			return answer("tok", "", time.Hour), nil
		}}
		s := newSource(t, tokensource.Config{Grant: g, MaxWait: -1, Breaker: never})
		for time.Now().Before(up) {
			wantErr(t, s, noKey, tokensource.ErrUnavailable)
			time.Sleep(time.Second)
		}
		time.Sleep(6 * time.Minute)
		want(t, s, noKey, "tok")
	})
}

// Attack 7 holds for every grant, not only for those that read HTTP.
func TestGrantWhoseTokenMustNotBeInjected(t *testing.T) {
	for _, token := range []string{"", "a\r\nX-Evil: 1", "a b", "ä"} {
		synctest.Test(t, func(t *testing.T) {
			s := newSource(t, tokensource.Config{Grant: &fakeGrant{onToken: issue(token, time.Hour)}, MaxWait: -1})
			if tok, err := s.Token(context.Background(), noKey); err == nil {
				t.Errorf("Authorization would be %q", tok.Authorization())
			}
		})
	}
}
