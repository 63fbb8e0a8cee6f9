package tokensource_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-bearer/caddy-bearer/tokensource"
	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenendpoint"
)

// renewals is 10,000 callers of Renew at once, of one refused token.
func renewals(s *tokensource.Source, refused *tokensource.Token, each func(*tokensource.Token, error)) {
	var wg sync.WaitGroup
	var mu sync.Mutex
	for range 10_000 {
		wg.Go(func() {
			tok, err := s.Renew(context.Background(), noKey, refused)
			mu.Lock()
			defer mu.Unlock()
			each(tok, err)
		})
	}
	wg.Wait()
}

// docs/faults.md, fault 18: 10,000 refusals of one token, one renewal.
func TestOneRenewalPerGeneration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &fakeGrant{onToken: slowly(time.Second)}
		s := newSource(t, tokensource.Config{Grant: g})
		first := want(t, s, noKey, "granted-1")
		first.Accepted()
		time.Sleep(time.Minute)
		check := func(tok *tokensource.Token, err error) {
			if err != nil || tok.AccessToken() != "granted-2" {
				t.Errorf("Renew: %v, %v, want granted-2", tok, err)
			}
		}
		renewals(s, first, check)
		time.Sleep(time.Minute)
		renewals(s, first, check) // late refusals of the same one
		wantCalls(t, g, 2, 0)
	})
}

// The renewal fails: still one, and the token stays.
func TestOneFailedRenewal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &fakeGrant{onToken: func(_ context.Context, n int, _ tokensource.Vars) (*tokenendpoint.Response, error) {
			time.Sleep(time.Second)
			if n > 1 {
				return nil, status(500)
			}
			return answer("tok", "", time.Hour), nil
		}}
		s := newSource(t, tokensource.Config{Grant: g})
		tok := want(t, s, noKey, "tok")
		time.Sleep(time.Minute)
		renewals(s, tok, func(_ *tokensource.Token, err error) {
			if !errors.Is(err, tokensource.ErrUnavailable) {
				t.Errorf("Renew: %v, want ErrUnavailable", err)
			}
		})
		wantCalls(t, g, 2, 0)
		want(t, s, noKey, "tok")
	})
}

// While a refused token's successor is on the way, nobody gets the refused.
func TestNobodyGetsTheRefusedToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSource(t, tokensource.Config{Grant: &fakeGrant{onToken: slowly(time.Second)}})
		tok := want(t, s, noKey, "granted-1")
		time.Sleep(time.Minute)
		done := make(chan struct{})
		go func() {
			defer close(done)
			_, _ = s.Renew(context.Background(), noKey, tok)
		}()
		synctest.Wait()
		want(t, s, noKey, "granted-2")
		<-done
	})
}

// docs/faults.md, fault 19: forced renewals keep their distance. For a token that the
// API took before, the caller waits; for one that never worked it does not.
func TestMinInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &fakeGrant{}
		s := newSource(t, tokensource.Config{Grant: g, MinInterval: 3 * time.Second})
		ctx := context.Background()
		second, err := s.Renew(ctx, noKey, want(t, s, noKey, "granted-1"))
		if err != nil || second.AccessToken() != "granted-2" {
			t.Fatalf("no forced renewal was before it: %v, %v, want granted-2", second, err)
		}
		_, err = s.Renew(ctx, noKey, second)
		if !errors.Is(err, tokensource.ErrTooSoon) || tokensource.RetryAfter(err) != 3*time.Second {
			t.Errorf("a token that never worked: %v, retry after %v, want ErrTooSoon, 3s", err, tokensource.RetryAfter(err))
		}
		second.Accepted()
		start := time.Now()
		third, err := s.Renew(ctx, noKey, second)
		if err != nil || third.AccessToken() != "granted-3" || time.Since(start) != 3*time.Second {
			t.Errorf("a token that worked: %v, %v after %v, want granted-3 after 3s", third, err, time.Since(start))
		}
		wantCalls(t, g, 3, 0)
	})
}

// MinInterval does not count what the timer renews: a token that is revoked right
// after is replaced at once.
func TestMinIntervalCountsForcedRenewalsOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &fakeGrant{onToken: func(_ context.Context, n int, _ tokensource.Vars) (*tokenendpoint.Response, error) {
			return answer(fmt.Sprintf("granted-%d", n), "", 100*time.Second), nil
		}}
		s := newSource(t, tokensource.Config{Grant: g, MinInterval: 30 * time.Second, MaxWait: -1})
		want(t, s, noKey, "granted-1").Accepted()
		for g.calls() < 2 {
			time.Sleep(time.Second)
		}
		synctest.Wait()
		renewed := want(t, s, noKey, "granted-2")
		renewed.Accepted()
		start := time.Now()
		tok, err := s.Renew(context.Background(), noKey, renewed)
		if err != nil || tok.AccessToken() != "granted-3" || time.Since(start) > 0 {
			t.Errorf("Renew: %v, %v after %v, want granted-3 at once", tok, err, time.Since(start))
		}
	})
}

// Another process has renewed the token, perhaps because the API refused the one
// before: the distance is kept to that, unless the token worked here.
func TestMinIntervalOfAFleet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, store := &fakeGrant{}, newMemStore()
		cfg := tokensource.Config{Grant: g, Store: store, MinInterval: 30 * time.Second, MaxWait: -1}
		want(t, newSource(t, cfg), noKey, "granted-1")
		here := newSource(t, cfg)
		time.Sleep(time.Second)
		tok := want(t, here, noKey, "granted-1")
		if _, err := here.Renew(context.Background(), noKey, tok); !errors.Is(err, tokensource.ErrTooSoon) {
			t.Errorf("a token that never worked here: %v, want ErrTooSoon", err)
		}
		tok.Accepted()
		if _, err := here.Renew(context.Background(), noKey, tok); err != nil {
			t.Errorf("a token that worked here: %v", err)
		}
	})
}

// The API always says 401, ten requests a second: renewals at MinInterval.
func TestAPIThatRefusesEverything(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &fakeGrant{}
		s := newSource(t, tokensource.Config{Grant: g, MinInterval: 10 * time.Second})
		for range 600 {
			tok, err := s.Token(context.Background(), noKey)
			if err != nil {
				t.Fatal(err)
			}
			_, _ = s.Renew(context.Background(), noKey, tok)
			time.Sleep(100 * time.Millisecond)
		}
		if n := g.calls(); n > 7 {
			t.Errorf("%d token calls in a minute, want at most 7", n)
		}
	})
}

// docs/faults.md, fault 50: the provider issues the refused token again.
func TestSameTokenAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &fakeGrant{onToken: issue("tok", time.Hour)}
		s := newSource(t, tokensource.Config{Grant: g})
		tok := want(t, s, noKey, "tok")
		time.Sleep(time.Minute)
		start := time.Now()
		for time.Since(start) < time.Hour/2 {
			tok.Accepted()
			if _, err := s.Renew(context.Background(), noKey, tok); !errors.Is(err, tokensource.ErrSameToken) {
				t.Fatalf("Renew: %v, want ErrSameToken", err)
			}
			tok = want(t, s, noKey, "tok") // it stays, the API may be wrong
			time.Sleep(100 * time.Millisecond)
		}
		if n := g.calls(); n > 60 {
			t.Errorf("%d token calls in half an hour, want back-off", n)
		}
	})
}

// docs/faults.md, fault 17: an answer without a refresh token keeps the old one.
func TestRefreshTokenIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sent []string
		g := &fakeGrant{seed: "r0", person: true, onRefresh: func(_ context.Context, n int, refresh string) (*tokenendpoint.Response, error) {
			sent = append(sent, refresh)
			return answer(fmt.Sprintf("t%d", n), map[int]string{2: "r2"}[n], time.Hour), nil
		}}
		s := newSource(t, tokensource.Config{Grant: g, KeyNames: []string{"user"}})
		k := tokensource.NewKey("ann")
		for n := 1; n <= 4; n++ {
			want(t, s, k, fmt.Sprintf("t%d", n))
			time.Sleep(2 * time.Hour)
		}
		if got := fmt.Sprint(sent); got != "[r0 r0 r2 r2]" {
			t.Errorf("sent the refresh tokens %s, want [r0 r0 r2 r2]", got)
		}
	})
}

// A refresh that is refused is followed by the grant, where no person is
// needed, and the dead refresh token is not sent again.
func TestGrantAfterRefusedRefresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &fakeGrant{
			onToken: func(_ context.Context, n int, _ tokensource.Vars) (*tokenendpoint.Response, error) {
				if n > 1 && n < 4 {
					return nil, status(503)
				}
				return answer(fmt.Sprintf("granted-%d", n), fmt.Sprintf("r%d", n), time.Hour), nil
			},
			onRefresh: func(context.Context, int, string) (*tokenendpoint.Response, error) {
				return nil, refusal("invalid_grant")
			},
		}
		s := newSource(t, tokensource.Config{Grant: g, KeyNames: []string{"user"}, MaxWait: time.Minute})
		k := tokensource.NewKey("ann")
		want(t, s, k, "granted-1")
		time.Sleep(2 * time.Hour)
		want(t, s, k, "granted-4")
		if n := g.refreshes.Load(); n != 1 {
			t.Errorf("the refused refresh token was sent %d times, want once", n)
		}
	})
}

// Where there is no place to refresh at, a refresh token means nothing.
func TestGrantWithoutRefresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &fakeGrant{
			onToken: func(_ context.Context, n int, _ tokensource.Vars) (*tokenendpoint.Response, error) {
				return answer(fmt.Sprintf("granted-%d", n), "unused", time.Hour), nil
			},
			noRefresh: true,
		}
		s := newSource(t, tokensource.Config{Grant: g, KeyNames: []string{"user"}})
		want(t, s, tokensource.NewKey("ann"), "granted-1")
		time.Sleep(2 * time.Hour)
		want(t, s, tokensource.NewKey("ann"), "granted-2")
		wantCalls(t, g, 2, 0)
	})
}

// The refresh fails, at whatever place: once the token is dead, the grant brings
// the next.
func TestGrantWhileTheRefreshEndpointIsDown(t *testing.T) {
	for _, elsewhere := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			g := &fakeGrant{
				elsewhere: elsewhere,
				onToken: func(_ context.Context, n int, _ tokensource.Vars) (*tokenendpoint.Response, error) {
					return answer(fmt.Sprintf("granted-%d", n), "r", time.Hour), nil
				},
				onRefresh: func(context.Context, int, string) (*tokenendpoint.Response, error) { return nil, status(503) },
			}
			s := newSource(t, tokensource.Config{Grant: g, KeyNames: []string{"user"}, MaxWait: -1})
			k := tokensource.NewKey("ann")
			want(t, s, k, "granted-1")
			time.Sleep(57 * time.Minute)
			want(t, s, k, "granted-1")
			synctest.Wait()
			wantCalls(t, g, 1, 1) // while the token lives, only the refresh is tried
			time.Sleep(time.Hour)
			want(t, s, k, "granted-2")
		})
	}
}

// docs/faults.md, fault 49: a panic in a grant releases who waits, and is one failure.
func TestPanicInAGrant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, text := capture()
		var broken atomic.Bool
		broken.Store(true)
		g := &fakeGrant{onToken: func(_ context.Context, n int, _ tokensource.Vars) (*tokenendpoint.Response, error) {
			time.Sleep(time.Second)
			if broken.Load() {
				panic("canary in a panic")
			}
			return answer("tok", "", time.Hour), nil
		}}
		s := newSource(t, tokensource.Config{Grant: g, MaxWait: -1, Logger: log})
		crowd(s, context.Background(), func(_ *tokensource.Token, err error) {
			if !errors.Is(err, tokensource.ErrUnavailable) {
				t.Errorf("Token: %v, want ErrUnavailable", err)
			}
		})
		wantCalls(t, g, 1, 0)
		broken.Store(false)
		time.Sleep(10 * time.Minute)
		want(t, s, noKey, "tok")
		mustLog(t, text, "token renewal panicked", "canary")
	})
}
