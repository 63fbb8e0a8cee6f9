package tokensource_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-bearer/caddy-bearer/tokensource"
	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenendpoint"
)

// A process is killed while it replaces a revoked token that was to live long:
// the next start finds out at once, not when the token would have been due.
func TestKilledInAForcedRenewal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		left, store := newMemStore(), newMemStore()
		p := &rotating{grace: 15 * time.Second, expiry: 24 * time.Hour}
		g := p.grant()
		p.meanwhile(func(n int) {
			if n == 2 {
				left.put(store.only(t))
			}
		}, 0)
		s := newSource(t, tokensource.Config{Grant: g, Store: store})
		tok := want(t, s, noKey, "t1")
		time.Sleep(time.Hour)
		if _, err := s.Renew(context.Background(), noKey, tok); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(context.Background()); err != nil {
			t.Fatal(err)
		}
		next := newSource(t, tokensource.Config{Grant: g, Store: left})
		next.Resume()
		time.Sleep(10 * time.Second)
		want(t, next, noKey, "t3")
		p.want(t, 3, 0)
	})
}

// The very first call is cut off: the next start does not wait for a request.
func TestKilledInTheFirstCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		left, store := newMemStore(), newMemStore()
		p := &rotating{grace: 15 * time.Second}
		g := p.grant()
		p.meanwhile(func(n int) {
			if n == 1 {
				left.put(store.only(t))
			}
		}, 0)
		s := newSource(t, tokensource.Config{Grant: g, Store: store})
		want(t, s, noKey, "t1")
		if err := s.Close(context.Background()); err != nil {
			t.Fatal(err)
		}
		next := newSource(t, tokensource.Config{Grant: g, Store: left})
		next.Resume()
		time.Sleep(10 * time.Second)
		p.want(t, 2, 0)
		want(t, next, noKey, "t2")
	})
}

// Servers tell a used refresh token in words that mean the client elsewhere
// (Gitea: unauthorized_client). After a renewal that was cut off, any refusal
// counts; without one, the refresh token is kept.
func TestUsedRefreshTokenInOtherWords(t *testing.T) {
	for _, cut := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			store, _, g := killed(t, 0)
			if !cut {
				store = newMemStore()
			}
			refused := 0
			g.onRefresh = func(context.Context, int, string) (*tokenendpoint.Response, error) {
				refused++
				return nil, refusal("unauthorized_client")
			}
			s := newSource(t, tokensource.Config{Grant: g, Store: store})
			s.Resume()
			time.Sleep(20 * time.Second)
			err := wantErr(t, s, noKey, tokensource.ErrAuthorizationRequired)
			if lost := tokensource.FaultOf(err) == tokensource.FaultConsent; lost != cut || s.Stats().NeedPerson != map[bool]int{true: 1}[cut] {
				t.Errorf("cut off %v: %v, Stats %+v", cut, err, s.Stats())
			}
			if refused != 1 {
				t.Errorf("sent %d times, want once", refused)
			}
		})
	}
}

// A store takes long to answer a write that others see at once. By the time it
// answers they have taken over: nothing may be sent.
func TestLateLeaseIsNotUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &rotating{}
		g, store := p.grant(), newMemStore()
		late := newLateStore(store, 20*time.Second)
		a := newSource(t, tokensource.Config{Grant: g, Store: late, MaxWait: -1})
		b := newSource(t, tokensource.Config{Grant: g, Store: store})
		go func() { _, _ = a.Token(context.Background(), noKey) }()
		synctest.Wait()
		want(t, b, noKey, "t1")
		late.by.Store(0)
		time.Sleep(15 * time.Second)
		want(t, a, noKey, "t1")
		p.want(t, 1, 0)
	})
}

// lateStore writes at once and says so later.
type lateStore struct {
	*memStore
	by atomic.Int64 // nanoseconds
}

func newLateStore(m *memStore, by time.Duration) *lateStore {
	l := &lateStore{memStore: m}
	l.by.Store(int64(by))
	return l
}

func (l *lateStore) Swap(ctx context.Context, key string, old, value []byte) error {
	by := time.Duration(l.by.Load())
	if err := l.memStore.Swap(ctx, key, old, value); err != nil {
		return err
	}
	time.Sleep(by)
	return nil
}

// A store that is slow, but works, holds nothing up for ever: the first token
// comes, and others wait for it longer than for one with a quick store.
func TestSlowStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &rotating{delay: 6 * time.Second}
		g, store := p.grant(), newMemStore()
		a := newSource(t, tokensource.Config{Grant: g, Store: newLateStore(store, 4*time.Second), MaxWait: time.Minute})
		b := newSource(t, tokensource.Config{Grant: g, Store: store})
		go func() { _, _ = a.Token(context.Background(), noKey) }()
		synctest.Wait()
		want(t, b, noKey, "t1")
		want(t, a, noKey, "t1")
		p.want(t, 1, 0)
	})
}

// Where the grant can be repeated and the store is down, a dead token's
// refresh token is left alone, for others may be sending it: the grant brings
// the next token.
func TestNoRefreshWithoutAStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newMemStore()
		g := &fakeGrant{onToken: func(context.Context, int, tokensource.Vars) (*tokenendpoint.Response, error) {
			return answer("granted", "r", time.Hour), nil
		}}
		s := newSource(t, tokensource.Config{Grant: g, Store: store, KeyNames: []string{"user"}})
		k := tokensource.NewKey("ann")
		want(t, s, k, "granted")
		store.fail(errDisk, errDisk)
		time.Sleep(2 * time.Hour)
		want(t, s, k, "granted")
		wantCalls(t, g, 2, 0)
		store.fail(nil, nil) // Close says what it could not write
	})
}

// The API refuses everything: replicas keep the distance between forced
// renewals together.
func TestMinIntervalInAFleet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := tokensource.Config{Grant: &fakeGrant{}, Store: newMemStore(), MinInterval: 10 * time.Second}
		a, b := newSource(t, cfg), newSource(t, cfg)
		first := want(t, a, noKey, "granted-1")
		stale := want(t, b, noKey, "granted-1")
		time.Sleep(time.Minute)
		if _, err := a.Renew(context.Background(), noKey, first); err != nil {
			t.Fatal(err)
		}
		second, err := b.Renew(context.Background(), noKey, stale)
		if err != nil || second.AccessToken() != "granted-2" {
			t.Fatalf("Renew: %v, want the other's token", err)
		}
		if _, err := b.Renew(context.Background(), noKey, second); !errors.Is(err, tokensource.ErrTooSoon) {
			t.Errorf("Renew, just after the other's: %v, want ErrTooSoon", err)
		}
	})
}

// A panic, or any other failure, withdraws the intent: nobody waits for it.
func TestFailureWithdrawsTheIntent(t *testing.T) {
	for name, fail := range map[string]func() error{
		"panic":   func() error { panic("in a grant") },
		"503":     func() error { return status(503) },
		"refused": func() error { return refusal("invalid_client") },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := newMemStore()
				bad := &fakeGrant{onToken: func(context.Context, int, tokensource.Vars) (*tokenendpoint.Response, error) { return nil, fail() }}
				wantErr(t, newSource(t, tokensource.Config{Grant: bad, Store: store, MaxWait: -1}), noKey, tokensource.ErrUnavailable, tokensource.ErrRefused)
				start := time.Now()
				want(t, newSource(t, tokensource.Config{Grant: &fakeGrant{}, Store: store}), noKey, "granted-1")
				if waited := time.Since(start); waited > 0 {
					t.Errorf("waited %v", waited)
				}
			})
		})
	}
}
