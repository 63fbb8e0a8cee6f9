package tokensource_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-bearer/caddy-bearer/tokensource"
	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenendpoint"
)

func wantStats(t *testing.T, when string, s *tokensource.Source, want tokensource.Stats) {
	t.Helper()
	got := s.Stats()
	got.Expiry = time.Time{}
	if got != want {
		t.Errorf("%s: %+v, want %+v", when, got, want)
	}
}

// A token in its time of grace serves: its source does not count as one that
// has none.
func TestStatsGrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &fakeGrant{onToken: func(_ context.Context, n int, _ tokensource.Vars) (*tokenendpoint.Response, error) {
			if n > 1 {
				return nil, status(503)
			}
			return answer("first", "", time.Minute), nil
		}}
		s := newSource(t, tokensource.Config{Grant: g, Grace: 10 * time.Minute, MaxWait: -1})
		wantStats(t, "before use", s, tokensource.Stats{})
		want(t, s, noKey, "first")
		wantStats(t, "fresh", s, tokensource.Stats{Tokens: 1})
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		want(t, s, noKey, "first")
		wantStats(t, "in grace", s, tokensource.Stats{Overdue: 1})
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if _, err := s.Token(t.Context(), noKey); err == nil {
			t.Error("served after its grace")
		}
		wantStats(t, "after its grace", s, tokensource.Stats{Failing: 1})
	})
}

// What a person has to do is counted until a person has done it, and what is
// not stored until it is.
func TestStatsOfAnOperator(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &fakeGrant{person: true, onRefresh: func(context.Context, int, string) (*tokenendpoint.Response, error) {
			return nil, refusal("invalid_grant")
		}}
		store := newMemStore()
		s := newSource(t, tokensource.Config{Grant: g, Store: store, MaxWait: -1})
		wantErr(t, s, noKey, tokensource.ErrAuthorizationRequired)
		if got := s.Stats(); got.NeedPerson != 0 {
			t.Errorf("nobody has authorized yet: %+v", got)
		}
		if _, err := s.Exchange(t.Context(), noKey, code("a")); err != nil {
			t.Fatal(err)
		}
		wantStats(t, "authorized", s, tokensource.Stats{Tokens: 1})
		time.Sleep(59 * time.Minute)
		synctest.Wait()
		wantStats(t, "lost, while the token is valid", s, tokensource.Stats{Tokens: 1, NeedPerson: 1})
		time.Sleep(time.Hour)
		synctest.Wait()
		wantStats(t, "lost, and expired", s, tokensource.Stats{NeedPerson: 1, Failing: 1})
		store.fail(errors.New("down"), errors.New("down"))
		if _, err := s.Exchange(t.Context(), noKey, code("b")); err != nil {
			t.Fatal(err)
		}
		wantStats(t, "authorized again, the store down", s, tokensource.Stats{Tokens: 1, Unstored: 1})
		if s.StoreError() == nil {
			t.Error("the store is not said to fail")
		}
		store.fail(nil, nil)
		time.Sleep(time.Minute)
		synctest.Wait()
		wantStats(t, "the store works again", s, tokensource.Stats{Tokens: 1})
		if err := s.StoreError(); err != nil {
			t.Errorf("the store is said to fail: %v", err)
		}
	})
}
