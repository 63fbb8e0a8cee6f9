package caddymodule

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-bearer/caddy-bearer/tokensource"
)

func testBreakers() *breakers {
	settings := tokensource.BreakerSettings{TripAfter: 3, OpenFor: 30 * time.Second}
	return newBreakers(settings, slog.New(slog.DiscardHandler))
}

// judge asks for a request and gives its verdict.
func judge(bs *breakers, k tokensource.Key, v tokensource.Verdict) error {
	done, err := bs.allow(k, nil, true)
	if err == nil {
		done(v)
	}
	return err
}

func many(bs *breakers) int {
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
		if bs.worst() != tokensource.BreakerOpen {
			t.Errorf("worst is %v", bs.worst())
		}
		time.Sleep(31 * time.Second)
		if err := judge(bs, alice, tokensource.Works); err != nil {
			t.Errorf("the probe: %v", err)
		}
		if err := judge(bs, alice, tokensource.Works); err != nil || bs.worst() != tokensource.BreakerClosed {
			t.Errorf("after the probe: %v, worst %v", err, bs.worst())
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
		if bs.worst() != tokensource.BreakerHalfOpen {
			t.Errorf("worst is %v", bs.worst())
		}
		for range 10 {
			if err := judge(bs, k, tokensource.Works); !errors.Is(err, tokensource.ErrBreakerOpen) {
				t.Errorf("a second probe: %v", err)
			}
		}
		probe(tokensource.Fails)
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
		hung(tokensource.Fails)
		next(tokensource.Works)
		if err := judge(bs, k, tokensource.Works); err != nil || bs.worst() != tokensource.BreakerClosed {
			t.Errorf("after a good probe: %v, worst %v", err, bs.worst())
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
				bs.worst()
			}
		})
	}
	wg.Wait()
	if int64(many(bs)) != bs.counting.Load() {
		t.Errorf("%d breakers, %d counted", many(bs), bs.counting.Load())
	}
}

// TestBreakerSets: the breakers at an API stay when a config is loaded again,
// and are others for another API or other settings.
func TestBreakerSets(t *testing.T) {
	sets := &breakerSets{log: slog.New(slog.DiscardHandler)}
	five := tokensource.BreakerSettings{TripAfter: 5, OpenFor: time.Second}
	six := tokensource.BreakerSettings{TripAfter: 6, OpenFor: time.Second}
	take := func(upstreams string, settings tokensource.BreakerSettings) *breakers {
		bs, _ := sets.take(upstreams, settings)
		return bs
	}
	one := take("a:443", five)
	if take("a:443", five) != one {
		t.Error("lost")
	}
	if take("b:443", five) == one || take("a:443", six) == one {
		t.Error("shared")
	}
	for range 5 {
		_ = judge(one, tokensource.Key{}, tokensource.Fails)
	}
	if sets.worst() != tokensource.BreakerOpen {
		t.Errorf("worst is %v", sets.worst())
	}
}

// TestBreakersGoWithTheirUsers: they outlive a reload, and no more: an address
// that changes with each reload would leave some behind each time.
func TestBreakersGoWithTheirUsers(t *testing.T) {
	sets := &breakerSets{log: slog.New(slog.DiscardHandler)}
	settings := tokensource.BreakerSettings{TripAfter: 1, OpenFor: time.Minute}
	before, giveBefore := sets.take("api:443", settings)
	after, giveAfter := sets.take("api:443", settings)
	giveBefore()
	giveBefore() // Cleanup may come twice
	if again, give := sets.take("api:443", settings); before != after || again != after {
		t.Error("a reload has breakers of its own")
	} else {
		give()
	}
	giveAfter()
	if len(sets.sets) != 0 {
		t.Errorf("%d sets are left, with no user", len(sets.sets))
	}
}
