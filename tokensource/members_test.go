package tokensource_test

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-bearer/caddy-bearer/tokensource"
	"github.com/caddy-bearer/caddy-bearer/tokensource/internal/wiretest"
	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenendpoint"
)

// manyMembers is a response with more members than are kept unasked.
func manyMembers(more string) string {
	var b strings.Builder
	for i := range 20 {
		fmt.Fprintf(&b, `"a%02d":"v%d",`, i, i)
	}
	return fmt.Sprintf(`{%s%s"access_token":"tok","refresh_token":"r","expires_in":3600}`, b.String(), more)
}

func wantField(t *testing.T, tok *tokensource.Token, name, value string) {
	t.Helper()
	if got, ok := tok.Field(name); !ok || got != value {
		t.Errorf("%s is %q, %v, want %q", name, got, ok, value)
	}
}

// What somebody refers to is kept, whatever the response's size, and comes back
// from the store.
func TestKeptMembers(t *testing.T) {
	for name, store := range map[string]*memStore{"no store": nil, "a store": newMemStore()} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				log, text := capture()
				long := strings.Repeat("s", 20_000)
				w := wiretest.Responding(200, "application/json", manyMembers(`"tenant_id":"T1","user":{"tenant":"T2"},"tenants":["T3"],"id_token":"h.p.s","session":"`+long+`",`))
				cfg := tokensource.Config{KeyNames: []string{"user"}, Logger: log}
				if store != nil {
					cfg.Store = store
				}
				s, k := endpointSource(t, wiretest.Endpoint(w), cfg), tokensource.NewKey("ann")
				s.Keep("tenant_id", "user.tenant", "tenants.0", "id_token", "session", "canary", "refresh_token", "a03")
				check := func(tok *tokensource.Token) {
					t.Helper()
					for name, value := range map[string]string{
						"tenant_id": "T1", "user.tenant": "T2", "tenants.0": "T3", "id_token": "h.p.s", "session": long, "a03": "v3", "a00": "v0",
					} {
						wantField(t, tok, name, value)
					}
					for _, name := range []string{"canary", "refresh_token"} {
						if _, ok := tok.Field(name); ok {
							t.Errorf("%s is there", name)
						}
					}
				}
				check(want(t, s, k, "tok"))
				time.Sleep(2 * time.Hour)
				check(want(t, s, k, "tok"))
				if n := strings.Count(text.String(), "member=canary"); n != 1 {
					t.Errorf("told %d times of what is missing:\n%s", n, text)
				}
				if store == nil {
					return
				}
				calls := w.Count()
				again := endpointSource(t, wiretest.Endpoint(w), cfg)
				again.Keep("tenant_id", "user.tenant", "tenants.0", "id_token", "session", "canary", "refresh_token", "a03")
				check(want(t, again, k, "tok"))
				time.Sleep(time.Minute)
				check(want(t, again, k, "tok"))
				synctest.Wait()
				if w.Count() != calls {
					t.Errorf("%d calls for what the store has", w.Count()-calls)
				}
			})
		})
	}
}

// A token that was obtained when nobody knew of a name is renewed for it: once,
// whether or not the response has it.
func TestKeepRenewsOnce(t *testing.T) {
	for name, cfg := range map[string]tokensource.Config{"one token": {}, "keys": {KeyNames: []string{"user"}}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := wiretest.Responding(200, "application/json", manyMembers(`"tenant_id":"T1",`))
				s := endpointSource(t, wiretest.Endpoint(w), cfg)
				k := noKey
				if len(cfg.KeyNames) > 0 {
					k = tokensource.NewKey("ann")
				}
				tok := want(t, s, k, "tok")
				if _, ok := tok.Field("tenant_id"); ok {
					t.Fatal("it is kept unasked")
				}
				tok.Accepted()
				s.Keep("tenant_id", "nothing")
				for range 100 {
					want(t, s, k, "tok") // it serves on meanwhile
					time.Sleep(time.Second)
				}
				wantField(t, want(t, s, k, "tok"), "tenant_id", "T1")
				s.Keep("tenant_id")
				time.Sleep(time.Minute)
				want(t, s, k, "tok")
				synctest.Wait()
				if w.Count() != 2 {
					t.Errorf("%d calls, want 2", w.Count())
				}
			})
		})
	}
}

// So is one that comes from the store, where a release or a config has left it that
// did not know of the name.
func TestKeepRenewsStoredTokens(t *testing.T) {
	for name, names := range map[string][]string{"one token": nil, "keys": {"user"}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := wiretest.Responding(200, "application/json", manyMembers(`"tenant_id":"T1",`))
				cfg, k := tokensource.Config{KeyNames: names, Store: newMemStore()}, noKey
				if len(names) > 0 {
					k = tokensource.NewKey("ann")
				}
				want(t, endpointSource(t, wiretest.Endpoint(w), cfg), k, "tok")
				s := endpointSource(t, wiretest.Endpoint(w), cfg)
				s.Keep("tenant_id", "nothing")
				s.Resume()
				for range 10 {
					want(t, s, k, "tok")
					time.Sleep(time.Second)
				}
				wantField(t, want(t, s, k, "tok"), "tenant_id", "T1")
				synctest.Wait()
				if w.Count() != 2 {
					t.Errorf("%d calls, want 2", w.Count())
				}
			})
		})
	}
}

// Where only a person could bring the next token, the one that is there stays as
// it is.
func TestKeepAsksNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &fakeGrant{person: true, noRefresh: true}
		s, k := newSource(t, tokensource.Config{Grant: g, KeyNames: []string{"user"}, Lifetime: tokensource.Lifetime{Forever: true}}), tokensource.NewKey("ann")
		if _, err := s.Exchange(context.Background(), k, code("c")); err != nil {
			t.Fatal(err)
		}
		s.Keep("tenant_id")
		for range 10 {
			want(t, s, k, "exchanged-c")
			time.Sleep(time.Hour)
		}
		synctest.Wait()
		if st := s.Stats(); st.Retrying != 0 || g.calls() != 1 {
			t.Errorf("%+v, %d calls", st, g.calls())
		}
	})
}

// What a refresh's response does not repeat stays what it was; a grant begins
// anew.
func TestKeptMembersThroughARefresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var dies atomic.Bool
		field := func(res *tokenendpoint.Response, name, value string) *tokenendpoint.Response {
			res.Fields = append(res.Fields, tokenendpoint.Field{Name: name, Value: value})
			return res
		}
		g := &fakeGrant{
			onToken: func(_ context.Context, n int, _ tokensource.Vars) (*tokenendpoint.Response, error) {
				if n > 1 {
					return answer("granted", "r", time.Hour), nil
				}
				return field(answer("first", "r", time.Hour), "tenant_id", "T1"), nil
			},
			onRefresh: func(_ context.Context, n int, _ string) (*tokenendpoint.Response, error) {
				switch {
				case dies.Load():
					return nil, refusal("invalid_grant")
				case n == 2:
					return field(answer("again", "", time.Hour), "tenant_id", "T2"), nil
				}
				return answer("refreshed", "", time.Hour), nil
			},
		}
		s, k := newSource(t, tokensource.Config{Grant: g, KeyNames: []string{"user"}, Store: newMemStore()}), tokensource.NewKey("ann")
		s.Keep("tenant_id")
		for _, c := range []struct{ token, tenant string }{{"first", "T1"}, {"refreshed", "T1"}, {"again", "T2"}, {"refreshed", "T2"}} {
			wantField(t, want(t, s, k, c.token), "tenant_id", c.tenant)
			time.Sleep(2 * time.Hour)
		}
		dies.Store(true)
		if value, ok := want(t, s, k, "granted").Field("tenant_id"); ok {
			t.Errorf("the new grant's tenant is %q", value)
		}
	})
}
