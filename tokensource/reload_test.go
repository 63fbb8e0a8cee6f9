package tokensource_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-bearer/caddy-bearer/tokensource"
	"github.com/caddy-bearer/caddy-bearer/tokensource/internal/wiretest"
	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenendpoint"
)

// Resume: a source without keys renews what it finds in the store with no
// traffic at all, and asks nobody while that is fresh.
func TestResume(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, g := newMemStore(), &fakeGrant{}
		before := newSource(t, tokensource.Config{Grant: g, Store: store})
		want(t, before, noKey, "granted-1")
		if err := before.Close(context.Background()); err != nil {
			t.Fatal(err)
		}
		s := newSource(t, tokensource.Config{Grant: g, Store: store})
		s.Resume()
		time.Sleep(30 * time.Minute)
		wantCalls(t, g, 1, 0)
		time.Sleep(30 * time.Minute)
		wantCalls(t, g, 2, 0)
		want(t, s, noKey, "granted-2")
	})
}

// A request that comes while the store is looked into gets what is there.
func TestResumeUnderARequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, g := newMemStore(), &fakeGrant{}
		want(t, newSource(t, tokensource.Config{Grant: g, Store: store}), noKey, "granted-1")
		s := newSource(t, tokensource.Config{Grant: g, Store: store})
		s.Resume()
		want(t, s, noKey, "granted-1")
		empty := newSource(t, tokensource.Config{Grant: g, Store: newMemStore()})
		empty.Resume()
		want(t, empty, noKey, "granted-2")
	})
}

// The store is down at the start: it is looked into until it is not, and the
// provider is not called for what is there.
func TestResumeWhileTheStoreIsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, g := newMemStore(), &fakeGrant{person: true}
		k := tokensource.Config{Grant: g, Store: store}
		if _, err := newSource(t, k).Exchange(context.Background(), noKey, code("c")); err != nil {
			t.Fatal(err)
		}
		store.fail(errDisk, errDisk)
		s := newSource(t, k)
		s.Resume()
		time.Sleep(10 * time.Minute)
		store.fail(nil, nil)
		time.Sleep(3 * time.Second)
		if st := s.Stats(); st.Tokens != 1 {
			t.Errorf("%+v, want the token that was stored", st)
		}
		wantCalls(t, g, 0, 0)
	})
}

// Reconsider: a reload gives a refused client another try.
func TestReconsider(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var right atomic.Bool
		g := &fakeGrant{onToken: func(context.Context, int, tokensource.Vars) (*tokenendpoint.Response, error) {
			if !right.Load() {
				return nil, refusal("invalid_client")
			}
			return answer("tok", "", time.Hour), nil
		}}
		s := newSource(t, tokensource.Config{Grant: g})
		wantErr(t, s, noKey, tokensource.ErrRefused)
		time.Sleep(time.Second)
		right.Store(true)
		wantErr(t, s, noKey, tokensource.ErrRefused)
		s.Reconsider(false)
		want(t, s, noKey, "tok")
		wantCalls(t, g, 2, 0)
	})
}

// StoreChanged: what is in memory is written to the new store, unless that
// has something newer.
func TestStoreChanged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, g := newMemStore(), &fakeGrant{person: true}
		s := newSource(t, tokensource.Config{Grant: g, Store: store, Lifetime: tokensource.Lifetime{Forever: true}})
		if _, err := s.Exchange(context.Background(), noKey, code("c")); err != nil {
			t.Fatal(err)
		}
		key, _ := store.only(t)
		store.remove(key) // the new store is empty
		s.StoreChanged()
		time.Sleep(time.Second)
		want(t, newSource(t, tokensource.Config{Grant: g, Store: store}), noKey, "exchanged-c")
	})
}

// A revoked consent: once the refresh token is refused for good, only a person
// can replace the token, and what they bring is told from a renewal.
func TestRevokedConsent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &fakeGrant{person: true, onRefresh: func(context.Context, int, string) (*tokenendpoint.Response, error) {
			return nil, refusal("invalid_grant")
		}}
		s := newSource(t, tokensource.Config{Grant: g})
		tok, err := s.Exchange(context.Background(), noKey, code("a"))
		if err != nil {
			t.Fatal(err)
		}
		if !tok.ByCode() || !s.CanRenew(tok) {
			t.Errorf("by code %v, renewable %v: want both", tok.ByCode(), s.CanRenew(tok))
		}
		time.Sleep(time.Minute)
		if _, err := s.Renew(context.Background(), noKey, tok); !errors.Is(err, tokensource.ErrAuthorizationRequired) {
			t.Errorf("Renew: %v, want ErrAuthorizationRequired", err)
		}
		if s.CanRenew(tok) {
			t.Error("a token whose refresh token is refused counts as renewable")
		}
		if again, err := s.Exchange(context.Background(), noKey, code("b")); err != nil || !s.CanRenew(again) {
			t.Errorf("after a new consent: %v", err)
		}
	})
}

// Grace: a request does not wait for an endpoint that hangs, after one failure.
func TestGraceDuringARenewal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &fakeGrant{onToken: func(ctx context.Context, n int, _ tokensource.Vars) (*tokenendpoint.Response, error) {
			switch n {
			case 1:
				return answer("tok", "", time.Hour), nil
			case 2:
				return nil, status(500)
			}
			<-ctx.Done()
			return nil, ctx.Err()
		}}
		s := newSource(t, tokensource.Config{Grant: g, Grace: time.Hour, KeyNames: []string{"user"}})
		k := tokensource.NewKey("ann")
		want(t, s, k, "tok")
		time.Sleep(time.Hour + time.Second) // expired, in grace
		want(t, s, k, "tok")                // after the failure of the second call
		time.Sleep(10 * time.Second)
		go func() { _, _ = s.Token(context.Background(), k) }() // starts the one that hangs
		synctest.Wait()
		start := time.Now()
		want(t, s, k, "tok")
		if waited := time.Since(start); waited > 0 {
			t.Errorf("waited %v", waited)
		}
	})
}

// Throttling that does not say for how long grows with each answer, whatever
// key it was for.
func TestThrottlingOfManyKeysGrows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &fakeGrant{onToken: func(context.Context, int, tokensource.Vars) (*tokenendpoint.Response, error) {
			return nil, throttle(0)
		}}
		s := newSource(t, tokensource.Config{Grant: g, KeyNames: []string{"user"}, MaxWait: -1})
		for i := range 36_000 { // a new user each 100 ms, for an hour
			_, _ = s.Token(context.Background(), tokensource.NewKey(string(rune('a'+i%26))+time.Now().String()))
			time.Sleep(100 * time.Millisecond)
		}
		if n := g.calls(); n > 300 {
			t.Errorf("%d calls in an hour of throttling", n)
		}
	})
}

// A chained source's outage is not this endpoint's: its breaker stays closed.
func TestChainedOutageTripsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ep := wiretest.Endpoint(&wiretest.Wire{})
		inner := &fakeGrant{onToken: func(_ context.Context, n int, _ tokensource.Vars) (*tokenendpoint.Response, error) {
			return nil, status(500)
		}}
		ep.Bearer = newSource(t, tokensource.Config{Name: "client", Grant: inner, MaxWait: -1}).Authorizer()
		s := newSource(t, tokensource.Config{
			Name: "user", KeyNames: []string{"user"}, MaxWait: -1, Breaker: tokensource.BreakerSettings{TripAfter: 2},
			Grant: &tokensource.EndpointGrant{Type: "request", Endpoint: ep},
		})
		for _, user := range []string{"a", "b", "c", "d"} {
			wantErr(t, s, tokensource.NewKey(user), tokensource.ErrUnavailable)
		}
		if s.Breaker() != tokensource.BreakerClosed {
			t.Errorf("the breaker is %v", s.Breaker())
		}
	})
}
