package tokensource_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-bearer/caddy-bearer/tokensource"
	"github.com/caddy-bearer/caddy-bearer/tokensource/internal/wiretest"
	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenendpoint"
)

// A response whose token is dead, with a refresh token beside it: that is used at
// once, once, and never lost.
func TestDeadTokenWithARefreshToken(t *testing.T) {
	for name, store := range map[string]*memStore{"no store": nil, "a store": newMemStore()} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var sent []string
				g := &fakeGrant{
					onToken: func(context.Context, int, tokensource.Vars) (*tokenendpoint.Response, error) {
						return dead("d", "r1"), nil
					},
					onRefresh: func(_ context.Context, n int, refresh string) (*tokenendpoint.Response, error) {
						sent = append(sent, refresh)
						return answer(fmt.Sprintf("alive-%d", n), "r2", time.Hour), nil
					},
				}
				cfg := tokensource.Config{Grant: g, KeyNames: []string{"user"}}
				if store != nil {
					cfg.Store = store
				}
				s := newSource(t, cfg)
				start := time.Now()
				tok := want(t, s, tokensource.NewKey("ann"), "alive-1")
				if time.Since(start) > time.Second || strings.Join(sent, " ") != "r1" || time.Until(tok.Expiry()) < 59*time.Minute {
					t.Errorf("after %v, by the refresh tokens %q, it lives %v", time.Since(start), sent, time.Until(tok.Expiry()))
				}
				wantCalls(t, g, 1, 1)
			})
		})
	}
}

// The refresh brings a dead token again: that is a failure, with no third call, and
// the refresh token that came last is the one that is sent next.
func TestDeadTokenAgain(t *testing.T) {
	for name, store := range map[string]*memStore{"no store": nil, "a store": newMemStore()} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var sent []string
				g := &fakeGrant{
					seed: "r0", person: true,
					onRefresh: func(_ context.Context, n int, refresh string) (*tokenendpoint.Response, error) {
						sent = append(sent, refresh)
						if n <= 2 {
							return dead("d", fmt.Sprintf("r%d", n)), nil
						}
						return answer("alive", "r3", time.Hour), nil
					},
				}
				cfg := tokensource.Config{Grant: g, KeyNames: []string{"user"}, MaxWait: -1}
				if store != nil {
					cfg.Store = store
				}
				s, k := newSource(t, cfg), tokensource.NewKey("ann")
				if err := wantErr(t, s, k, tokensource.ErrUnavailable); !errors.Is(err, tokenendpoint.ErrDead) || !strings.Contains(err.Error(), "the response's token has expired already") {
					t.Errorf("got %v", err)
				}
				if got := strings.Join(sent, " "); got != "r0 r1" {
					t.Errorf("sent %s", got)
				}
				time.Sleep(time.Minute)
				want(t, s, k, "alive")
				if got := strings.Join(sent, " "); got != "r0 r1 r2" {
					t.Errorf("sent %s", got)
				}
			})
		})
	}
}

// The rotated refresh token of a dead response survives a restart.
func TestDeadTokenIsStored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newMemStore()
		first := &fakeGrant{seed: "r0", person: true, onRefresh: func(_ context.Context, n int, _ string) (*tokenendpoint.Response, error) {
			if n == 1 {
				return dead("d", "r1"), nil
			}
			return nil, status(503)
		}}
		cfg := tokensource.Config{Grant: first, KeyNames: []string{"user"}, MaxWait: -1, Store: store}
		s, k := newSource(t, cfg), tokensource.NewKey("ann")
		wantErr(t, s, k, tokensource.ErrUnavailable)
		if err := s.Close(context.Background()); err != nil {
			t.Fatal(err)
		}
		var sent string
		cfg.Grant = &fakeGrant{seed: "r0", person: true, onRefresh: func(_ context.Context, _ int, refresh string) (*tokenendpoint.Response, error) {
			sent = refresh
			return answer("alive", "r2", time.Hour), nil
		}}
		want(t, newSource(t, cfg), k, "alive")
		if sent != "r1" {
			t.Errorf("sent %s, want r1", sent)
		}
	})
}

// While the token from before lives, it serves on, with the new refresh token.
func TestDeadTokenWhileTheOldOneLives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sent []string
		g := &fakeGrant{
			seed: "r0", person: true,
			onRefresh: func(_ context.Context, n int, refresh string) (*tokenendpoint.Response, error) {
				sent = append(sent, refresh)
				switch n {
				case 1:
					return answer("first", "r1", time.Hour), nil
				case 2:
					return dead("d", "r2"), nil
				case 3:
					return nil, status(500)
				}
				return answer("last", "r4", time.Hour), nil
			},
		}
		s, k := newSource(t, tokensource.Config{Grant: g, KeyNames: []string{"user"}}), tokensource.NewKey("ann")
		want(t, s, k, "first")
		time.Sleep(57 * time.Minute)
		want(t, s, k, "first")
		synctest.Wait()
		want(t, s, k, "first")
		time.Sleep(time.Hour)
		want(t, s, k, "last")
		if got := strings.Join(sent, " "); got != "r0 r1 r2 r2" {
			t.Errorf("sent %s", got)
		}
	})
}

// A code whose token is dead: the refresh token that came with it brings the
// token. Without one, the code is used up.
func TestDeadTokenOfACode(t *testing.T) {
	for refresh, want := range map[string]string{"r1": "refreshed-1", "": ""} {
		synctest.Test(t, func(t *testing.T) {
			g := &fakeGrant{person: true, onExchange: func(context.Context, int, string) (*tokenendpoint.Response, error) { return dead("d", refresh), nil }}
			s, k := newSource(t, tokensource.Config{Grant: g, KeyNames: []string{"user"}, Store: newMemStore()}), tokensource.NewKey("ann")
			tok, err := s.Exchange(context.Background(), k, code("c"))
			if want == "" {
				if !errors.Is(err, tokensource.ErrCodeRefused) || !errors.Is(err, tokenendpoint.ErrDead) {
					t.Errorf("%v, want ErrCodeRefused", err)
				}
				return
			}
			if err != nil || tok.AccessToken() != want || !tok.ByCode() {
				t.Errorf("%v, %v, want %s", tok, err, want)
			}
			if tok, err = s.Token(context.Background(), k); err != nil || tok.AccessToken() != want {
				t.Errorf("then %v, %v, want %s", tok, err, want)
			}
		})
	}
}

// `lifetime forever` goes before what a response says, and no token of it is dead.
func TestDeadTokenThatLivesForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &fakeGrant{onToken: func(context.Context, int, tokensource.Vars) (*tokenendpoint.Response, error) {
			return dead("tok", "r"), nil
		}}
		s := newSource(t, tokensource.Config{Grant: g, Lifetime: tokensource.Lifetime{Forever: true}})
		want(t, s, noKey, "tok")
		wantCalls(t, g, 1, 0)
	})
}

// A renewal that brings the same access token brings the same token: what an API
// has accepted stays accepted.
func TestSameTokenStaysAccepted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newMemStore()
		g := &fakeGrant{onToken: issue("tok", time.Minute)}
		s := newSource(t, tokensource.Config{Grant: g, MinInterval: 3 * time.Second, Store: store, KeyNames: []string{"user"}})
		k := tokensource.NewKey("ann")
		first := want(t, s, k, "tok")
		first.Accepted()
		time.Sleep(2 * time.Minute)
		second := want(t, s, k, "tok")
		if second == first {
			t.Fatal("it was not renewed")
		}
		if !second.Worked() {
			t.Error("it is forgotten that an API took it")
		}
		g.onToken = issue("next", time.Minute)
		next, err := s.Renew(context.Background(), k, second)
		if err != nil || next.AccessToken() != "next" || next.Worked() {
			t.Fatalf("Renew: %v, %v, want next, which nobody took yet", next, err)
		}
		if _, err := s.Renew(context.Background(), k, next); !errors.Is(err, tokensource.ErrTooSoon) {
			t.Errorf("another token counts as accepted: %v", err)
		}
	})
}

// outcomes keeps how renewals ended.
type outcomes struct {
	tokensource.Observer
	all []tokensource.Outcome
}

func (o *outcomes) Renewing(ctx, _ context.Context, _ tokensource.Renewal) (context.Context, func(tokensource.Outcome)) {
	return ctx, func(out tokensource.Outcome) { o.all = append(o.all, out) }
}

// An expiry that is there and cannot be read is told of once, by its path and
// kind, counted each time, and `lifetime` is taken instead.
func TestUnreadableExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, text := capture()
		w := wiretest.Responding(200, "application/json", `{"access_token":"tok","ttl":"canary"}`)
		ep := wiretest.Endpoint(w)
		ep.Response.ExpiresIn = []string{"ttl"}
		seen := new(outcomes)
		s := endpointSource(t, ep, tokensource.Config{Logger: log, Observer: seen, KeyNames: []string{"user"}, Lifetime: tokensource.Lifetime{Default: time.Minute}})
		for _, user := range []string{"ann", "bob"} {
			if tok := want(t, s, tokensource.NewKey(user), "tok"); time.Until(tok.Expiry()) != time.Minute {
				t.Errorf("it lives %v", time.Until(tok.Expiry()))
			}
		}
		if len(seen.all) != 2 || !seen.all[0].ExpiryUnreadable || !seen.all[1].ExpiryUnreadable {
			t.Errorf("outcomes %+v", seen.all)
		}
		mustLog(t, text, "path=ttl found=string", "canary")
		if n := strings.Count(text.String(), "cannot be read"); n != 1 {
			t.Errorf("told %d times", n)
		}
	})
}
