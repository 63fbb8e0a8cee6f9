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

// A process that is reported as not ready gets no requests: what makes it ready
// again must not need any.

// The store was down at the start.
func TestResumeAfterAStoreThatWasDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &fakeGrant{person: true}
		store := newMemStore()
		first := newSource(t, tokensource.Config{Grant: g, Store: store})
		if _, err := first.Exchange(t.Context(), noKey, code("a")); err != nil {
			t.Fatal(err)
		}
		store.fail(errors.New("down"), errors.New("down"))
		s := newSource(t, tokensource.Config{Grant: g, Store: store})
		s.Resume()
		time.Sleep(time.Minute)
		synctest.Wait()
		wantStats(t, "the store is down", s, tokensource.Stats{})
		store.fail(nil, nil)
		time.Sleep(5 * time.Second)
		synctest.Wait()
		wantStats(t, "it is back", s, tokensource.Stats{Tokens: 1})
		if n := g.calls(); n != 1 {
			t.Errorf("%d calls, want the code's", n)
		}
	})
}

// A source that was never used obtains its first token at the start, when its
// store can be read; a lazy one calls nobody, whatever its store does.
func TestResumeObtainsTheFirstToken(t *testing.T) {
	for _, lazy := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			g := &fakeGrant{}
			store := newMemStore()
			store.fail(errors.New("down"), errors.New("down"))
			s := newSource(t, tokensource.Config{Grant: g, Store: store, Lazy: lazy})
			s.Resume()
			time.Sleep(time.Minute)
			wantCalls(t, g, 0, 0)
			store.fail(nil, nil)
			time.Sleep(10 * time.Second)
			synctest.Wait()
			wantCalls(t, g, map[bool]int{false: 1, true: 0}[lazy], 0)
			if s.Eager() == lazy {
				t.Error("Eager does not say so")
			}
		})
	}
}

// Without a store, too; and a grant that needs a person calls nobody.
func TestResumeWithoutAStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, person := &fakeGrant{}, &fakeGrant{person: true}
		newSource(t, tokensource.Config{Grant: g}).Resume()
		newSource(t, tokensource.Config{Grant: person}).Resume()
		time.Sleep(time.Second)
		wantCalls(t, g, 1, 0)
		wantCalls(t, person, 0, 0)
	})
}

// The one request that there was found the token endpoint out of order.
func TestFirstFailureIsMendedWithoutTraffic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var up atomic.Bool
		g := &fakeGrant{onToken: func(context.Context, int, tokensource.Vars) (*tokenendpoint.Response, error) {
			if !up.Load() {
				return nil, status(503)
			}
			return answer("tok", "", time.Hour), nil
		}}
		s := newSource(t, tokensource.Config{Grant: g, Store: newMemStore(), MaxWait: -1})
		wantErr(t, s, noKey, tokensource.ErrUnavailable)
		wantStats(t, "failed", s, tokensource.Stats{Failing: 1})
		time.Sleep(10 * time.Minute)
		if n := g.calls(); n > 200 {
			t.Errorf("%d calls in 10 minutes", n)
		}
		up.Store(true)
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		wantStats(t, "it works again", s, tokensource.Stats{Tokens: 1})
	})
}

// The refresh token was lost, and the person came to another replica.
func TestLostIsMendedByAnotherReplica(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &fakeGrant{person: true, onRefresh: func(context.Context, int, string) (*tokenendpoint.Response, error) {
			return nil, refusal("invalid_grant")
		}}
		store := newMemStore()
		s := newSource(t, tokensource.Config{Grant: g, Store: store, MaxWait: -1})
		if _, err := s.Exchange(t.Context(), noKey, code("a")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		wantStats(t, "lost", s, tokensource.Stats{NeedPerson: 1, Failing: 1})
		wantCalls(t, g, 0, 1)
		other := newSource(t, tokensource.Config{Grant: g, Store: store})
		if _, err := other.Exchange(t.Context(), noKey, code("b")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(15 * time.Second)
		synctest.Wait()
		wantStats(t, "a person came", s, tokensource.Stats{Tokens: 1})
		want(t, s, noKey, "exchanged-b")
		wantCalls(t, g, 0, 1)
	})
}
