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

// keys makes many keys, so that no key's own back-off stands before the
// breaker.
func keys(n int) []tokensource.Key {
	ks := make([]tokensource.Key, n)
	for i := range ks {
		ks[i] = tokensource.NewKey(string(rune('a'+i%26)) + string(rune('a'+i/26%26)) + string(rune('a'+i/676)))
	}
	return ks
}

func TestBreakerOfTheEndpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var down atomic.Bool
		down.Store(true)
		g := &fakeGrant{onToken: func(context.Context, int, tokensource.Vars) (*tokenendpoint.Response, error) {
			if down.Load() {
				return nil, status(500)
			}
			return answer("tok", "", time.Hour), nil
		}}
		s := newSource(t, tokensource.Config{
			Grant: g, KeyNames: []string{"user"}, MaxWait: -1,
			Breaker: tokensource.BreakerSettings{TripAfter: 5, OpenFor: 30 * time.Second},
		})
		ks := keys(50)
		for _, k := range ks[:5] { // a request that waits is a probe, once a second
			wantErr(t, s, k, tokensource.ErrUnavailable)
			for _, other := range ks[40:] {
				err := wantErr(t, s, other, tokensource.ErrUnavailable)
				if after := tokensource.RetryAfter(err); after <= 0 || after > time.Second {
					t.Errorf("retry after %v, want up to 1s", after)
				}
			}
			time.Sleep(time.Second)
		}
		wantCalls(t, g, 5, 0)
		if s.Breaker() != tokensource.BreakerOpen {
			t.Fatalf("the breaker is %v after 5 failures, want open", s.Breaker())
		}
		wantErr(t, s, ks[20], tokensource.ErrUnavailable) // the probe
		wantErr(t, s, ks[21], tokensource.ErrUnavailable)
		wantCalls(t, g, 6, 0)
		down.Store(false)
		time.Sleep(time.Second)
		want(t, s, ks[22], "tok")
		want(t, s, ks[23], "tok")
		if s.Breaker() != tokensource.BreakerClosed {
			t.Errorf("the breaker is %v, want closed", s.Breaker())
		}
	})
}

// One user's revoked consent says nothing about the endpoint, and neither does a
// refused client: that has a state of its own.
func TestWhatTheBreakerCounts(t *testing.T) {
	for name, c := range map[string]struct {
		failure error
		opens   bool
	}{
		"500":             {status(500), true},
		"no answer":       {&tokenendpoint.Error{Host: "idp"}, true},
		"invalid_client":  {refusal("invalid_client"), false},
		"invalid_grant":   {refusal("invalid_grant"), false},
		"throttled":       {throttle(0), false},
		"not an endpoint": {errors.New("settings"), false},
		"a 401 that does not say which": {&tokenendpoint.Error{
			Status: 401, Class: tokenendpoint.Permanent,
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := &fakeGrant{onToken: func(context.Context, int, tokensource.Vars) (*tokenendpoint.Response, error) { return nil, c.failure }}
				s := newSource(t, tokensource.Config{Grant: g, KeyNames: []string{"user"}, MaxWait: -1})
				for _, k := range keys(20) {
					_, _ = s.Token(context.Background(), k)
					time.Sleep(time.Second)
				}
				if opens := s.Breaker() == tokensource.BreakerOpen; opens != c.opens {
					t.Errorf("the breaker is open: %v, want %v", opens, c.opens)
				}
			})
		})
	}
}

// docs/faults.md, fault 26: a probe that hangs counts as failed in time, and the next
// one is let through.
func TestProbeThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := tokensource.NewBreaker(tokensource.BreakerSettings{TripAfter: 1, OpenFor: 10 * time.Second})
		done, err := b.Allow(time.Second)
		if err != nil {
			t.Fatal(err)
		}
		done(tokensource.Fails)
		if _, err := b.Allow(time.Second); !errors.Is(err, tokensource.ErrBreakerOpen) {
			t.Fatalf("%v, want open", err)
		}
		time.Sleep(11 * time.Second)
		hung, err := b.Allow(time.Second)
		if err != nil {
			t.Fatal("no probe is let through")
		}
		if _, err := b.Allow(time.Second); !errors.Is(err, tokensource.ErrBreakerOpen) {
			t.Fatal("a second probe is let through beside the first")
		}
		time.Sleep(12 * time.Second)
		probe, err := b.Allow(time.Second)
		if err != nil {
			t.Fatalf("after a hung probe none is let through: %v", err)
		}
		hung(tokensource.Fails) // too late to count
		probe(tokensource.Works)
		probe(tokensource.Fails) // only the first verdict counts
		if b.State() != tokensource.BreakerClosed || !b.Idle() {
			t.Errorf("the breaker is %v, want closed and idle", b.State())
		}
	})
}

// A probe that says nothing leaves the next one its chance.
func TestProbeThatSaysNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := tokensource.NewBreaker(tokensource.BreakerSettings{TripAfter: 1, OpenFor: 10 * time.Second})
		done, _ := b.Allow(time.Second)
		done(tokensource.Fails)
		time.Sleep(11 * time.Second)
		for range 3 {
			probe, err := b.Allow(time.Second)
			if err != nil {
				t.Fatal(err)
			}
			probe(tokensource.Neutral)
		}
		if b.State() != tokensource.BreakerHalfOpen {
			t.Errorf("the breaker is %v, want half-open", b.State())
		}
	})
}

// docs/faults.md, fault 21: refusals between successes do not open it.
func TestBreakerDoesNotFlap(t *testing.T) {
	b := tokensource.NewBreaker(tokensource.BreakerSettings{TripAfter: 2, OpenFor: time.Second})
	for _, v := range []tokensource.Verdict{tokensource.Fails, tokensource.Works, tokensource.Fails, tokensource.Neutral, tokensource.Works, tokensource.Fails} {
		done, err := b.Allow(time.Second)
		if err != nil {
			t.Fatal(err)
		}
		done(v)
	}
	if b.State() != tokensource.BreakerClosed || b.Idle() {
		t.Errorf("the breaker is %v, idle: %v, want closed, with something to count", b.State(), b.Idle())
	}
}
