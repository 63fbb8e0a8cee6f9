package bearer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-bearer/caddy-bearer/tokensource"

	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenendpoint"
)

func testBreakers() *Breakers {
	settings := tokensource.BreakerSettings{TripAfter: 3, OpenFor: 30 * time.Second}
	return NewBreakers(settings, slog.New(slog.DiscardHandler))
}

// judge asks for a request and gives its verdict.
func judge(bs *Breakers, k tokensource.Key, v tokensource.Verdict) error {
	done, err := bs.allow(k, nil, true)
	if err == nil {
		done(v, nil)
	}
	return err
}

func many(bs *Breakers) int {
	bs.mu.Lock()
	defer bs.mu.Unlock()
	return len(bs.byKey)
}

// TestBreakersPerKey: one user's revoked consent shuts nobody else out.
func TestBreakersPerKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bs := testBreakers()
		alice, bob := tokensource.NewKey("alice"), tokensource.NewKey("bob")
		for range 3 {
			if err := judge(bs, alice, tokensource.Fails); err != nil {
				t.Fatal(err)
			}
		}
		err := judge(bs, alice, tokensource.Works)
		if !errors.Is(err, tokensource.ErrBreakerOpen) {
			t.Errorf("alice: %v", err)
		}
		if after := tokensource.RetryAfter(err); after < 25*time.Second || after > 30*time.Second {
			t.Errorf("alice is told to wait %v", after)
		}
		if err := judge(bs, bob, tokensource.Works); err != nil {
			t.Errorf("bob: %v", err)
		}
		if bs.Worst() != tokensource.BreakerOpen {
			t.Errorf("worst is %v", bs.Worst())
		}
		time.Sleep(31 * time.Second)
		if err := judge(bs, alice, tokensource.Works); err != nil {
			t.Errorf("the probe: %v", err)
		}
		if err := judge(bs, alice, tokensource.Works); err != nil || bs.Worst() != tokensource.BreakerClosed {
			t.Errorf("after the probe: %v, worst %v", err, bs.Worst())
		}
	})
}

// TestBreakersExistWhileTheyCount: a million users who are well cost nothing.
func TestBreakersExistWhileTheyCount(t *testing.T) {
	bs := testBreakers()
	for i := range 1000 {
		k := tokensource.NewKey(fmt.Sprint(i))
		for _, v := range []tokensource.Verdict{tokensource.Works, tokensource.Neutral} {
			if err := judge(bs, k, v); err != nil {
				t.Fatal(err)
			}
		}
	}
	if n := many(bs); n != 0 || bs.counting.Load() != 0 {
		t.Errorf("%d breakers, %d counted, for nothing", n, bs.counting.Load())
	}
	k := tokensource.NewKey("k")
	for _, step := range []struct {
		verdict tokensource.Verdict
		want    int
	}{
		{tokensource.Fails, 1},
		{tokensource.Neutral, 1},
		{tokensource.Fails, 1},
		{tokensource.Works, 0},
		{tokensource.Fails, 1},
		{tokensource.Fails, 1},
		{tokensource.Works, 0},
	} {
		if err := judge(bs, k, step.verdict); err != nil {
			t.Fatal(err)
		}
		if n := many(bs); n != step.want {
			t.Errorf("after %v: %d breakers, want %d", step.verdict, n, step.want)
		}
	}
}

// TestBreakersOneProbe: of the requests that come when the time is up, one goes
// out; the others are answered at once.
func TestBreakersOneProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bs := testBreakers()
		k := tokensource.NewKey("k")
		for range 3 {
			_ = judge(bs, k, tokensource.Fails)
		}
		time.Sleep(31 * time.Second)
		probe, err := bs.allow(k, nil, true)
		if err != nil {
			t.Fatal(err)
		}
		if bs.Worst() != tokensource.BreakerHalfOpen {
			t.Errorf("worst is %v", bs.Worst())
		}
		for range 10 {
			if err := judge(bs, k, tokensource.Works); !errors.Is(err, tokensource.ErrBreakerOpen) {
				t.Errorf("a second probe: %v", err)
			}
		}
		probe(tokensource.Fails, nil)
		if err := judge(bs, k, tokensource.Works); !errors.Is(err, tokensource.ErrBreakerOpen) {
			t.Errorf("after a probe that failed: %v", err)
		}
	})
}

// TestBreakersHungProbe is fault 26: a probe that never reports does not shut
// the key out for ever, and what it says in the end changes nothing.
func TestBreakersHungProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bs := testBreakers()
		k := tokensource.NewKey("k")
		for range 3 {
			_ = judge(bs, k, tokensource.Fails)
		}
		time.Sleep(31 * time.Second)
		hung, err := bs.allow(k, nil, true)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(45 * time.Second) // its ten seconds, and thirty more
		synctest.Wait()
		next, err := bs.allow(k, nil, true)
		if err != nil {
			t.Fatalf("no second probe: %v", err)
		}
		hung(tokensource.Fails, nil)
		next(tokensource.Works, nil)
		if err := judge(bs, k, tokensource.Works); err != nil || bs.Worst() != tokensource.BreakerClosed {
			t.Errorf("after a good probe: %v, worst %v", err, bs.Worst())
		}
	})
}

// TestBreakersNeutralProbe: an answer that says nothing of the token leaves
// the next request its chance.
func TestBreakersNeutralProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bs := testBreakers()
		k := tokensource.NewKey("k")
		for range 3 {
			_ = judge(bs, k, tokensource.Fails)
		}
		time.Sleep(31 * time.Second)
		if err := judge(bs, k, tokensource.Neutral); err != nil {
			t.Fatal(err)
		}
		if err := judge(bs, k, tokensource.Works); err != nil {
			t.Errorf("no further probe: %v", err)
		}
	})
}

// TestBreakersTogether runs many keys at once, for the race detector.
func TestBreakersTogether(t *testing.T) {
	bs := testBreakers()
	var wg sync.WaitGroup
	for i := range 32 {
		wg.Go(func() {
			k := tokensource.NewKey(fmt.Sprint(i % 8))
			for n := range 500 {
				_ = judge(bs, k, tokensource.Verdict((n+i)%3))
				bs.Worst()
			}
		})
	}
	wg.Wait()
	if int64(many(bs)) != bs.counting.Load() {
		t.Errorf("%d breakers, %d counted", many(bs), bs.counting.Load())
	}
}

// TestBreakerAfterALogin: what a person has put right starts with a clean
// slate, though the new token could be renewed too.
func TestBreakerAfterALogin(t *testing.T) {
	bs := NewBreakers(tokensource.BreakerSettings{TripAfter: 1, OpenFor: time.Hour}, slog.New(slog.DiscardHandler))
	k := tokensource.NewKey("ann")
	old := testToken(t, "old")
	done, err := bs.allow(k, old, true)
	if err != nil {
		t.Fatal(err)
	}
	done(tokensource.Fails, nil)
	if _, err := bs.allow(k, testToken(t, "renewed"), true); err == nil {
		t.Error("a renewed token passes an open breaker")
	}
	if _, err := bs.allow(k, codeToken(t), true); err != nil {
		t.Errorf("a token that a person brought: %v", err)
	}
}

// codeToken is a token that came for a code.
func codeToken(t *testing.T) *tokensource.Token {
	t.Helper()
	src, err := tokensource.New(tokensource.Config{Name: "a", Grant: codeGrants{testGrant(nil)}})
	if err != nil {
		t.Fatal(err)
	}
	tok, err := src.Exchange(t.Context(), tokensource.Key{}, tokensource.Code{Code: tokenendpoint.NewSecret("c")})
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

// codeGrants obtains tokens for codes alone.
type codeGrants struct{ *tokensource.EndpointGrant }

func (codeGrants) Exchange(context.Context, tokensource.Vars, tokensource.Code) (*tokenendpoint.Response, error) {
	return &tokenendpoint.Response{AccessToken: tokenendpoint.NewSecret("new"), RefreshToken: tokenendpoint.NewSecret("r"), Expiry: tokenendpoint.ExpiresIn(time.Hour)}, nil
}
