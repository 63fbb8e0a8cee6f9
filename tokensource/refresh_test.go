package tokensource_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-bearer/caddy-bearer/tokensource"
	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenendpoint"
)

// Refresh tokens that the store has are not in memory, and nothing is lost by it.

// sessions is a grant that needs nobody, whose refresh tokens rotate: each is good
// once, and one that was used before is noticed.
type sessions struct {
	fakeGrant
	stays  bool // refresh tokens do not rotate
	sent   []string
	reused int
}

func newSessions() *sessions {
	g := &sessions{}
	g.onToken = func(_ context.Context, n int, _ tokensource.Vars) (*tokenendpoint.Response, error) {
		return answer(fmt.Sprintf("granted-%d", n), fmt.Sprintf("of-grant-%d", n), time.Hour), nil
	}
	g.onRefresh = func(_ context.Context, n int, refresh string) (*tokenendpoint.Response, error) {
		if !g.stays && strings.Contains(strings.Join(g.sent, " ")+" ", refresh+" ") {
			g.reused++
		}
		g.sent = append(g.sent, refresh)
		next := ""
		if !g.stays {
			next = fmt.Sprintf("of-refresh-%d", n)
		}
		return answer(fmt.Sprintf("refreshed-%d", n), next, time.Hour), nil
	}
	return g
}

func (g *sessions) wantSent(t *testing.T, refresh ...string) {
	t.Helper()
	if got := strings.Join(g.sent, " "); got != strings.Join(refresh, " ") || g.reused != 0 {
		t.Fatalf("refresh tokens sent: %s, want %q; reused: %d", got, refresh, g.reused)
	}
}

var alice = tokensource.NewKey("alice")

func holds(t *testing.T, s *tokensource.Source, want bool) {
	t.Helper()
	if got := s.HoldsRefreshToken(alice); got != want {
		t.Fatalf("the refresh token is in memory: %v, want %v", got, want)
	}
}

// forgetting is a source whose one user's token is stored and, but for its refresh
// token, in memory.
func forgetting(t *testing.T, g *sessions, store *memStore) *tokensource.Source {
	t.Helper()
	s := newSource(t, tokensource.Config{Grant: g, Store: store, KeyNames: []string{"user"}})
	want(t, s, alice, "granted-1")
	holds(t, s, true) // a fail-over may still lose the write
	time.Sleep(3 * time.Second)
	holds(t, s, false)
	return s
}

func TestRefreshTokenIsTakenFromTheRecord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, store := newSessions(), newMemStore()
		s := forgetting(t, g, store)
		for n := 1; n <= 3; n++ {
			time.Sleep(2 * time.Hour)
			want(t, s, alice, fmt.Sprintf("refreshed-%d", n))
			time.Sleep(3 * time.Second)
			holds(t, s, false)
		}
		g.wantSent(t, "of-grant-1", "of-refresh-1", "of-refresh-2")

		restarted := newSource(t, tokensource.Config{Grant: g, Store: store, KeyNames: []string{"user"}})
		want(t, restarted, alice, "refreshed-3")
		holds(t, restarted, false) // it was read from there
		time.Sleep(2 * time.Hour)
		want(t, restarted, alice, "refreshed-4")
	})
}

// A renewal that fails gives the refresh token back to the store alone.
func TestRefreshTokenIsForgottenAfterAFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, store := newSessions(), newMemStore()
		s := forgetting(t, g, store)
		works := g.onRefresh
		g.onRefresh = func(context.Context, int, string) (*tokenendpoint.Response, error) { return nil, status(503) }
		time.Sleep(55 * time.Minute)
		want(t, s, alice, "granted-1") // due: the renewal fails behind it
		synctest.Wait()
		if g.refreshes.Load() == 0 {
			t.Fatal("not refreshed")
		}
		holds(t, s, false)
		g.onRefresh = works
		time.Sleep(time.Hour)
		if tok := want(t, s, alice, fmt.Sprintf("refreshed-%d", g.refreshes.Load()+1)); tok == nil {
			t.Fatal("no token")
		}
		g.wantSent(t, "of-grant-1")
	})
}

// What the store has not taken stays in memory until it has.
func TestUnsavedRefreshTokenIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, store := newSessions(), newMemStore()
		s := newSource(t, tokensource.Config{Grant: g, Store: store, KeyNames: []string{"user"}})
		store.fail(nil, errDisk)
		want(t, s, alice, "granted-1")
		time.Sleep(10 * time.Minute)
		holds(t, s, true)
		store.fail(nil, nil)
		time.Sleep(10 * time.Second)
		holds(t, s, false)
		time.Sleep(2 * time.Hour)
		want(t, s, alice, "refreshed-1")
		g.wantSent(t, "of-grant-1")
	})
}

// docs/faults.md, fault 31: a fail-over loses the write. The refresh token is still
// in memory, and goes back.
func TestLostWriteHasItsRefreshToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, store := newSessions(), newMemStore()
		s := forgetting(t, g, store)
		k, old := store.only(t)
		time.Sleep(2 * time.Hour)
		want(t, s, alice, "refreshed-1")
		store.put(k, old)
		time.Sleep(3 * time.Second)
		time.Sleep(2 * time.Hour)
		want(t, s, alice, "refreshed-2")
		g.wantSent(t, "of-grant-1", "of-refresh-1")
	})
}

// The store fails while the grant is repeated. The refresh token that only the
// store has is not lost when the new token is written.
func TestGrantWithoutTheStoreLeavesTheRefreshToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, store := newSessions(), newMemStore()
		s := forgetting(t, g, store)
		g.onToken = issue("granted-alone", time.Hour)
		store.fail(errDisk, errDisk)
		time.Sleep(2 * time.Hour)
		want(t, s, alice, "granted-alone")
		store.fail(nil, nil)
		time.Sleep(10 * time.Minute)
		if _, v := store.only(t); !strings.Contains(string(v), "granted-alone") || !strings.Contains(string(v), "of-grant-1") {
			t.Errorf("stored: %s", v)
		}
		holds(t, s, false)
		time.Sleep(2 * time.Hour)
		want(t, s, alice, "refreshed-1")
		g.wantSent(t, "of-grant-1")
	})
}

// The store was emptied, or fell back: the grant follows, and no refresh token is
// sent that was used.
func TestStoreThatLostTheRefreshToken(t *testing.T) {
	for what, lose := range map[string]func(*memStore, string, []byte){
		"emptied":     func(m *memStore, _ string, _ []byte) { m.empty() },
		"rolled back": func(m *memStore, k string, old []byte) { m.put(k, old) },
		"damaged":     func(m *memStore, k string, old []byte) { m.put(k, old[:len(old)-3]) },
	} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g, store := newSessions(), newMemStore()
				s := forgetting(t, g, store)
				k, old := store.only(t)
				time.Sleep(2 * time.Hour)
				want(t, s, alice, "refreshed-1")
				time.Sleep(3 * time.Second)
				lose(store, k, old)
				time.Sleep(time.Minute)
				want(t, s, alice, "refreshed-1")
				time.Sleep(2 * time.Hour)
				want(t, s, alice, "granted-2")
				time.Sleep(2 * time.Hour)
				want(t, s, alice, "refreshed-2")
				g.wantSent(t, "of-grant-1", "of-grant-2")
			})
		})
	}
}

// Where refresh tokens do not rotate, an older record has the right one.
func TestOlderRecordHasTheRefreshToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, store := newSessions(), newMemStore()
		g.stays = true
		s := forgetting(t, g, store)
		k, old := store.only(t)
		time.Sleep(2 * time.Hour)
		want(t, s, alice, "refreshed-1")
		time.Sleep(3 * time.Second)
		holds(t, s, false)
		store.put(k, old)
		time.Sleep(2 * time.Hour)
		want(t, s, alice, "refreshed-2")
		g.wantSent(t, "of-grant-1", "of-grant-1")
	})
}

// A token goes to another store without the refresh token that the other had. Where
// the records were copied, nothing is missing.
func TestForgottenRefreshTokenAndAnotherStore(t *testing.T) {
	for copied, next := range map[bool]string{false: "granted-2", true: "refreshed-1"} {
		synctest.Test(t, func(t *testing.T) {
			g, store := newSessions(), newMemStore()
			s := forgetting(t, g, store)
			k, v := store.only(t)
			store.empty()
			if copied {
				store.put(k, v)
			}
			s.StoreChanged()
			time.Sleep(10 * time.Second)
			if _, now := store.only(t); !strings.Contains(string(now), "granted-1") {
				t.Errorf("stored: %s", now)
			}
			time.Sleep(2 * time.Hour)
			want(t, s, alice, next)
		})
	}
}

// A refresh token that was refused is known by its sum.
func TestForgottenRefreshTokenStaysRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, store := newSessions(), newMemStore()
		s := forgetting(t, g, store)
		g.onToken = func(_ context.Context, n int, _ tokensource.Vars) (*tokenendpoint.Response, error) {
			return answer(fmt.Sprintf("granted-%d", n), "", time.Hour), nil
		}
		g.onRefresh = func(context.Context, int, string) (*tokenendpoint.Response, error) {
			return nil, refusal("invalid_grant")
		}
		for n := 2; n < 5; n++ {
			time.Sleep(2 * time.Hour)
			want(t, s, alice, fmt.Sprintf("granted-%d", n))
		}
		wantCalls(t, &g.fakeGrant, 4, 1)
	})
}

// Where more than a call hangs on the refresh token, or nothing else has it, it
// stays in memory.
func TestRefreshTokenStaysInMemory(t *testing.T) {
	for what, c := range map[string]struct {
		person, store, keys bool
	}{
		"a person's consent": {person: true, store: true, keys: true},
		"no store":           {keys: true},
		"no keys":            {store: true},
	} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g, store, k := newSessions(), newMemStore(), noKey
				cfg := tokensource.Config{Grant: g}
				if c.store {
					cfg.Store = store
				}
				if c.keys {
					cfg.KeyNames, k = []string{"user"}, alice
				}
				g.person = c.person
				s := newSource(t, cfg)
				first := "granted-1"
				if c.person {
					first = "exchanged-c"
					if _, err := s.Exchange(context.Background(), k, code("c")); err != nil {
						t.Fatal(err)
					}
				}
				time.Sleep(10 * time.Second)
				if tok := want(t, s, k, first); tok.OAuth2().RefreshToken == "" || !s.HoldsRefreshToken(k) {
					t.Fatal("the refresh token is not in memory")
				}
				store.empty()
				time.Sleep(70 * time.Minute)
				want(t, s, k, "refreshed-1")
			})
		})
	}
}

// A program is not given a refresh token that comes and goes.
func TestForgettableRefreshTokenIsNotShown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newSessions()
		s := newSource(t, tokensource.Config{Grant: g, Store: newMemStore(), KeyNames: []string{"user"}})
		for range 2 {
			if got := want(t, s, alice, "granted-1").OAuth2().RefreshToken; got != "" {
				t.Errorf("RefreshToken is %s", got)
			}
			time.Sleep(10 * time.Second)
		}
	})
}
