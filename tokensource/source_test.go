package tokensource_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-bearer/caddy-bearer/tokensource"
	"github.com/caddy-bearer/caddy-bearer/tokensource/internal/wiretest"
	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenendpoint"
)

// slowly is a grant's Token that takes its time, and its context's end.
func slowly(d time.Duration) func(context.Context, int, tokensource.Vars) (*tokenendpoint.Response, error) {
	return func(ctx context.Context, n int, _ tokensource.Vars) (*tokenendpoint.Response, error) {
		select {
		case <-time.After(d):
			return answer(fmt.Sprintf("granted-%d", n), "", time.Hour), nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// crowd is 10,000 callers of Token at once.
func crowd(s *tokensource.Source, ctx context.Context, each func(*tokensource.Token, error)) {
	var wg sync.WaitGroup
	var mu sync.Mutex
	for range 10_000 {
		wg.Go(func() {
			tok, err := s.Token(ctx, noKey)
			mu.Lock()
			defer mu.Unlock()
			each(tok, err)
		})
	}
	wg.Wait()
}

// docs/faults.md, fault 46: 10,000 concurrent first requests, one grant.
func TestOneGrantForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &fakeGrant{onToken: slowly(time.Second)}
		s := newSource(t, tokensource.Config{Grant: g})
		crowd(s, context.Background(), func(tok *tokensource.Token, err error) {
			if err != nil || tok.AccessToken() != "granted-1" {
				t.Errorf("Token: %v, %v", tok, err)
			}
		})
		wantCalls(t, g, 1, 0)
	})
}

// docs/faults.md, fault 39: the one who began the renewal goes away; the renewal goes on
// for the others, and is written.
func TestFirstCallerGoesAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, store := &fakeGrant{onToken: slowly(time.Second)}, newMemStore()
		s := newSource(t, tokensource.Config{Grant: g, Store: store})
		ctx, cancel := context.WithCancel(context.Background())
		first := make(chan error)
		go func() {
			_, err := s.Token(ctx, noKey)
			first <- err
		}()
		synctest.Wait()
		others := make(chan struct{})
		go func() {
			crowd(s, context.Background(), func(tok *tokensource.Token, err error) {
				if err != nil {
					t.Error(err)
				}
			})
			close(others)
		}()
		synctest.Wait()
		cancel()
		if err := <-first; !errors.Is(err, context.Canceled) {
			t.Errorf("the first caller got %v, want its own context's error", err)
		}
		<-others
		wantCalls(t, g, 1, 0)
		store.only(t)
	})
}

// All go away, each by its own deadline; the token is there for the next.
func TestEveryCallerGoesAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &fakeGrant{onToken: slowly(time.Minute / 2)}
		s := newSource(t, tokensource.Config{Grant: g})
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		start := time.Now()
		crowd(s, ctx, func(_ *tokensource.Token, err error) {
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%v, want the deadline's error", err)
			}
		})
		if took := time.Since(start); took != time.Second {
			t.Errorf("they waited %v, want 1s", took)
		}
		time.Sleep(time.Minute)
		want(t, s, noKey, "granted-1")
		wantCalls(t, g, 1, 0)
	})
}

// fresh, due, expired: who waits, and who does not.
func TestLifeOfAToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &fakeGrant{onToken: slowly(time.Second)}
		s := newSource(t, tokensource.Config{Grant: g, KeyNames: []string{"user"}}) // no timer: used keys only
		k := tokensource.NewKey("ann")
		took := func(access string, long time.Duration) {
			t.Helper()
			start := time.Now()
			want(t, s, k, access)
			if got := time.Since(start); got != long {
				t.Fatalf("Token took %v, want %v", got, long)
			}
		}
		took("granted-1", time.Second)
		took("granted-1", 0)
		time.Sleep(50 * time.Minute)
		took("granted-1", 0)
		synctest.Wait()
		wantCalls(t, g, 1, 0) // still fresh

		time.Sleep(6 * time.Minute)
		took("granted-1", 0) // due: the renewal is in the background
		took("granted-1", 0)
		time.Sleep(time.Second)
		synctest.Wait()
		took("granted-2", 0)
		wantCalls(t, g, 2, 0)

		time.Sleep(time.Hour + time.Second)
		took("granted-3", time.Second) // expired: all wait
		wantCalls(t, g, 3, 0)
	})
}

// A source without keys renews with no traffic at all, a moment before each
// token dies.
func TestRenewalByTimer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &fakeGrant{}
		s := newSource(t, tokensource.Config{Grant: g})
		want(t, s, noKey, "granted-1")
		for n := 2; n < 100; n++ {
			time.Sleep(55*time.Minute + time.Second)
			synctest.Wait()
			start := time.Now()
			tok, err := s.Token(context.Background(), noKey)
			if err != nil || time.Since(start) > 0 || time.Until(tok.Expiry()) < 5*time.Minute {
				t.Fatalf("a token that lives %v after %v: %v", time.Until(tok.Expiry()), time.Since(start), err)
			}
		}
		if n := g.calls(); n < 98 || n > 105 {
			t.Errorf("%d grants in 98 periods", n)
		}
	})
}

// Keys that nobody uses are left alone.
func TestNoTimerForKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &fakeGrant{}
		s := newSource(t, tokensource.Config{Grant: g, KeyNames: []string{"user"}})
		want(t, s, tokensource.NewKey("ann"), "granted-1")
		time.Sleep(24 * time.Hour)
		wantCalls(t, g, 1, 0)
	})
}

// A fleet that got its tokens at once does not renew them at once.
func TestFleetIsSpread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := map[time.Duration]int{}
		var mu sync.Mutex
		start := time.Now()
		for range 100 {
			s := newSource(t, tokensource.Config{Grant: &fakeGrant{
				onToken: func(_ context.Context, n int, _ tokensource.Vars) (*tokenendpoint.Response, error) {
					mu.Lock()
					defer mu.Unlock()
					if n == 2 {
						began[time.Since(start).Truncate(time.Second)]++
					}
					return answer("tok", "", time.Hour), nil
				},
			}})
			want(t, s, noKey, "tok")
		}
		time.Sleep(55*time.Minute + time.Second)
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		for second, n := range began {
			if n > 15 {
				t.Errorf("%d of 100 renewed in the second %v", n, second)
			}
		}
		if len(began) < 20 {
			t.Errorf("100 renewals in %d different seconds", len(began))
		}
	})
}

func TestGrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &fakeGrant{onToken: func(_ context.Context, n int, _ tokensource.Vars) (*tokenendpoint.Response, error) {
			if n > 1 {
				return nil, status(503)
			}
			return answer("tok", "", time.Hour), nil
		}}
		s := newSource(t, tokensource.Config{
			Grant: g, Grace: 10 * time.Minute, MaxWait: -1,
			Breaker: tokensource.BreakerSettings{TripAfter: 1000},
		}) // an open breaker has an error of its own
		want(t, s, noKey, "tok")
		time.Sleep(time.Hour + 5*time.Minute)
		want(t, s, noKey, "tok")
		time.Sleep(6 * time.Minute)
		wantErr(t, s, noKey, tokensource.ErrUnavailable)
	})
}

func TestStats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSource(t, tokensource.Config{Grant: &fakeGrant{}, KeyNames: []string{"user"}})
		want(t, s, tokensource.NewKey("ann"), "granted-1")
		first := time.Now().Add(time.Hour)
		time.Sleep(30 * time.Minute)
		want(t, s, tokensource.NewKey("bob"), "granted-2")
		if got := s.Stats(); got.Tokens != 2 || !got.Expiry.Equal(first) {
			t.Errorf("%+v, want 2 tokens and the expiry %v", got, first)
		}
		time.Sleep(40 * time.Minute)
		if got := s.Stats(); got.Tokens != 1 {
			t.Errorf("%+v, want 1 token", got)
		}
	})
}

func TestNewRefuses(t *testing.T) {
	for _, cfg := range []tokensource.Config{{}, {Name: "x"}, {Grant: &fakeGrant{}}} {
		if _, err := tokensource.New(cfg); err == nil {
			t.Errorf("New took %+v", cfg)
		}
	}
}

// x/oauth2 takes the token_type for the scheme; eBay's is
// "Application Access Token", and the API wants Bearer.
func TestOAuth2TokenIsABearer(t *testing.T) {
	ep := wiretest.Endpoint(wiretest.Responding(200, "", `{"access_token":"tok","token_type":"Application Access Token","uid":7}`))
	s := endpointSource(t, ep, tokensource.Config{})
	tok, err := s.TokenSource(context.Background(), noKey).Token()
	if err != nil {
		t.Fatal(err)
	}
	if tok.Type() != "Bearer" || tok.Extra("uid") != "7" {
		t.Errorf("the scheme is %q, want Bearer; uid is %v", tok.Type(), tok.Extra("uid"))
	}
}
