package tokensource_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-bearer/caddy-bearer/tokensource"
	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenendpoint"
)

// A code is sent once; handed over again, it has the first outcome.
func TestCodeIsSentOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &fakeGrant{person: true, onExchange: func(_ context.Context, n int, code string) (*tokenendpoint.Response, error) {
			time.Sleep(time.Second)
			return answer("tok-"+code, "r", time.Hour), nil
		}}
		s := newSource(t, tokensource.Config{Grant: g})
		var wg sync.WaitGroup
		for range 1000 {
			wg.Go(func() {
				if tok, err := s.Exchange(context.Background(), noKey, code("c")); err != nil || tok.AccessToken() != "tok-c" {
					t.Errorf("Exchange: %v, %v", tok, err)
				}
			})
		}
		wg.Wait()
		if n := g.calls(); n != 1 {
			t.Errorf("the code was sent %d times", n)
		}
		want(t, s, noKey, "tok-c")
		if _, err := s.Exchange(context.Background(), noKey, code("d")); err != nil {
			t.Fatal(err)
		}
		want(t, s, noKey, "tok-d")
	})
}

// MonPay's page: a code that was refused, or whose answer was lost, is no good
// any more. One that met an endpoint out of order may be.
func TestCodesThatFail(t *testing.T) {
	for name, c := range map[string]struct {
		failure error
		refused bool
	}{
		"invalid_grant":           {refusal("invalid_grant"), true},
		"an unknown 400":          {status(400), true},
		"a 200 without a token":   {status(200), true},
		"500":                     {status(500), false},
		"throttled":               {throttle(time.Second), false},
		"no answer":               {&tokenendpoint.Error{Host: "idp", Sent: true}, true},
		"a token that is none":    {nil, true},
		"the endpoint is not met": {&tokenendpoint.Error{Host: "idp"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := &fakeGrant{person: true, onExchange: func(context.Context, int, string) (*tokenendpoint.Response, error) {
					if c.failure == nil {
						return answer("a b", "", 0), nil
					}
					return nil, c.failure
				}}
				s := newSource(t, tokensource.Config{Grant: g})
				for range 3 {
					_, err := s.Exchange(context.Background(), noKey, code("c"))
					if err == nil || errors.Is(err, tokensource.ErrCodeRefused) != c.refused {
						t.Errorf("%v, want ErrCodeRefused: %v", err, c.refused)
					}
				}
				if sent := int(g.exchanges.Load()); (sent == 1) != c.refused {
					t.Errorf("it was sent %d times", sent)
				}
			})
		})
	}
}

// A code is sent once: not after a restart, not by another replica, not after
// another code came between, not when it was cut off.
func TestCodeIsSentOnceByAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newMemStore()
		g := &fakeGrant{person: true}
		cfg := tokensource.Config{Grant: g, Store: store, KeyNames: []string{"user"}}
		k := tokensource.NewKey("ann")
		a, b := newSource(t, cfg), newSource(t, cfg)
		for _, c := range []string{"a", "b"} {
			if _, err := a.Exchange(context.Background(), k, code(c)); err != nil {
				t.Fatal(err)
			}
		}
		g.onExchange = func(_ context.Context, _ int, c string) (*tokenendpoint.Response, error) {
			if c == "cut" {
				cut, err := newSource(t, tokensource.Config{Grant: g, Store: store, KeyNames: []string{"user"}}).Exchange(context.Background(), k, code(c))
				if !errors.Is(err, tokensource.ErrCodeRefused) {
					t.Errorf("while it is being sent: %v, %v, want ErrCodeRefused", cut, err)
				}
			}
			return answer("exchanged-"+c, "", time.Hour), nil
		}
		if _, err := a.Exchange(context.Background(), k, code("cut")); err != nil {
			t.Error(err)
		}
		for who, s := range map[string]*tokensource.Source{"the same": a, "a replica": b, "after a restart": newSource(t, cfg)} {
			for _, c := range []string{"a", "b", "cut"} {
				_, err := s.Exchange(context.Background(), k, code(c))
				if again := who == "the same" && c == "cut"; err == nil != again || (!again && !errors.Is(err, tokensource.ErrCodeRefused)) {
					t.Errorf("%s, code %s: %v, want ErrCodeRefused", who, c, err)
				}
			}
		}
		if n := g.exchanges.Load(); n != 3 {
			t.Errorf("sent %d times, want once each", n)
		}
		want(t, b, k, "exchanged-cut")
		time.Sleep(2 * time.Hour)                                                   // a renewal does not forget it
		if _, err := newSource(t, cfg).Token(context.Background(), k); err != nil { // by the first code's refresh token
			t.Error(err)
		}
		if _, err := newSource(t, cfg).Exchange(context.Background(), k, code("b")); !errors.Is(err, tokensource.ErrCodeRefused) {
			t.Errorf("after the token's end: %v, want ErrCodeRefused", err)
		}
	})
}

// A code that was not used up may be handed over again, to whichever process.
func TestCodeThatIsStillGood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &fakeGrant{person: true, onExchange: func(_ context.Context, n int, c string) (*tokenendpoint.Response, error) {
			if n == 1 {
				return nil, status(503)
			}
			return answer("exchanged-"+c, "", time.Hour), nil
		}}
		cfg := tokensource.Config{Grant: g, Store: newMemStore()}
		if _, err := newSource(t, cfg).Exchange(context.Background(), noKey, code("c")); !errors.Is(err, tokensource.ErrUnavailable) {
			t.Fatal(err)
		}
		if _, err := newSource(t, cfg).Exchange(context.Background(), noKey, code("c")); err != nil {
			t.Error(err)
		}
	})
}

// A bad code says nothing about the source: who asks for a token is told that
// a person must authorize, not that a code is refused.
func TestBadCodeIsForgottenByToken(t *testing.T) {
	for name, failure := range map[string]error{"refused": refusal("invalid_grant"), "out of order": status(503)} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := &fakeGrant{person: true, onExchange: func(context.Context, int, string) (*tokenendpoint.Response, error) { return nil, failure }}
				s := newSource(t, tokensource.Config{Grant: g, MaxWait: -1})
				wantErr(t, s, noKey, tokensource.ErrAuthorizationRequired)
				_, _ = s.Exchange(context.Background(), noKey, code("bad"))
				err := wantErr(t, s, noKey, tokensource.ErrAuthorizationRequired)
				if errors.Is(err, tokensource.ErrCodeRefused) {
					t.Errorf("Token: %v", err)
				}
			})
		})
	}
}

// A token that is there outlives a bad code: in memory, and in the store that
// was not read yet.
func TestBadCodeLeavesTheToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newMemStore()
		g := &fakeGrant{person: true}
		s := newSource(t, tokensource.Config{Grant: g, Store: store, MaxWait: -1})
		if _, err := s.Exchange(context.Background(), noKey, code("good")); err != nil {
			t.Fatal(err)
		}
		g.onExchange = func(context.Context, int, string) (*tokenendpoint.Response, error) {
			return nil, refusal("invalid_grant")
		}
		if _, err := s.Exchange(context.Background(), noKey, code("bad")); !errors.Is(err, tokensource.ErrCodeRefused) {
			t.Errorf("%v, want ErrCodeRefused", err)
		}
		want(t, s, noKey, "exchanged-good")

		again := newSource(t, tokensource.Config{Grant: g, Store: store, MaxWait: -1})
		if _, err := again.Exchange(context.Background(), noKey, code("bad")); !errors.Is(err, tokensource.ErrCodeRefused) {
			t.Errorf("%v, want ErrCodeRefused", err)
		}
		want(t, again, noKey, "exchanged-good")
	})
}

// The app goes away; the answer is taken and written all the same.
func TestExchangeGoesOnWithoutTheCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newMemStore()
		g := &fakeGrant{person: true, onExchange: func(ctx context.Context, _ int, _ string) (*tokenendpoint.Response, error) {
			time.Sleep(2 * time.Second)
			return answer("tok", "r", time.Hour), ctx.Err()
		}}
		s := newSource(t, tokensource.Config{Grant: g, Store: store})
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if _, err := s.Exchange(ctx, noKey, code("c")); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v, want the deadline's error", err)
		}
		time.Sleep(2 * time.Second)
		want(t, s, noKey, "tok")
		store.only(t)
		if _, err := s.Exchange(context.Background(), noKey, code("c")); err != nil || g.calls() != 1 {
			t.Errorf("handed over again: %v after %d calls", err, g.calls())
		}
	})
}

// A code lifts a remembered refusal.
func TestCodeEndsARefusal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSource(t, tokensource.Config{Grant: &fakeGrant{person: true}})
		wantErr(t, s, noKey, tokensource.ErrAuthorizationRequired)
		if _, err := s.Exchange(context.Background(), noKey, code("c")); err != nil {
			t.Fatal(err)
		}
		want(t, s, noKey, "exchanged-c")
	})
}

// A new consent is newer than whatever any replica has: its generation goes on
// where the store's is, though the store could not be read just then, and
// though another replica has renewed since this one last looked.
func TestExchangeIsNewerThanTheStore(t *testing.T) {
	for name, blind := range map[string]bool{"another replica renewed": false, "the store could not be read": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := newMemStore()
				ctx := context.Background()
				replica := func() *tokensource.Source {
					g := &fakeGrant{person: true, onExchange: func(_ context.Context, _ int, code string) (*tokenendpoint.Response, error) {
						return answer("exchanged-"+code, "r", 10*time.Hour), nil
					}}
					return newSource(t, tokensource.Config{Grant: g, Store: store, MinInterval: time.Nanosecond})
				}
				here, there := replica(), replica()
				if !blind {
					if _, err := here.Exchange(ctx, noKey, code("first")); err != nil {
						t.Fatal(err)
					}
				} else if _, err := there.Exchange(ctx, noKey, code("first")); err != nil {
					t.Fatal(err)
				}
				for range 5 {
					tok, err := there.Token(ctx, noKey)
					if err != nil {
						t.Fatal(err)
					}
					time.Sleep(time.Second)
					if _, err := there.Renew(ctx, noKey, tok); err != nil {
						t.Fatal(err)
					}
				}
				if blind {
					store.fail(errors.New("down"), nil)
				}
				if _, err := here.Exchange(ctx, noKey, code("new")); err != nil {
					t.Fatal(err)
				}
				store.fail(nil, nil)
				time.Sleep(57 * time.Minute) // the other's next renewal finds it
				synctest.Wait()
				want(t, there, noKey, "exchanged-new")
			})
		})
	}
}

func TestExchangeWithoutACodeGrant(t *testing.T) {
	type tokenOnly struct{ tokensource.Grant }
	s := newSource(t, tokensource.Config{Grant: tokenOnly{&fakeGrant{}}})
	if _, err := s.Exchange(context.Background(), noKey, code("c")); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("%v, want ErrUnsupported", err)
	}
}
