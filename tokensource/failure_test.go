package tokensource_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-bearer/caddy-bearer/tokensource"
	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenendpoint"
)

// lockedBuffer is a log that may be read while it is written.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func capture() (*slog.Logger, *lockedBuffer) {
	b := &lockedBuffer{}
	return slog.New(slog.NewTextHandler(b, &slog.HandlerOptions{Level: slog.LevelDebug})), b
}

// mustLog checks that something was logged, and something else never.
func mustLog(t *testing.T, log *lockedBuffer, there, not string) {
	t.Helper()
	if text := log.String(); !strings.Contains(text, there) || strings.Contains(text, not) {
		t.Errorf("the log has no %q, or %q:\n%s", there, not, text)
	}
}

// attempts is a grant that gives one token of an hour, then fails, and keeps
// when it was asked.
type attempts struct {
	fakeGrant
	mu sync.Mutex
	at []time.Time
}

func failingAfterOne(failure error) *attempts {
	a := &attempts{}
	a.onToken = func(_ context.Context, n int, _ tokensource.Vars) (*tokenendpoint.Response, error) {
		if n == 1 {
			return answer("tok", "", time.Hour), nil
		}
		a.mu.Lock()
		defer a.mu.Unlock()
		a.at = append(a.at, time.Now())
		return nil, failure
	}
	return a
}

// gaps are the times between the attempts so far.
func (a *attempts) gaps() (gaps []time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for i := 1; i < len(a.at); i++ {
		gaps = append(gaps, a.at[i].Sub(a.at[i-1]))
	}
	return gaps
}

// never is a breaker that stays out of the way.
var never = tokensource.BreakerSettings{TripAfter: 1 << 30}

// docs/faults.md, faults 1 and 2: while renewals fail the token serves; the attempts
// back off with full jitter, up to RetryMax apart.
func TestBackOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, text := capture()
		g := failingAfterOne(status(503))
		s := newSource(t, tokensource.Config{
			Grant: g, Lifetime: tokensource.Lifetime{Default: time.Hour}, MaxWait: -1, Breaker: never, Logger: log,
			RefreshAhead: tokensource.RefreshAhead{Fraction: 0.9, Max: time.Hour},
		})
		want(t, s, noKey, "tok")
		for range 59 {
			time.Sleep(time.Minute)
			want(t, s, noKey, "tok")
		}
		gaps := g.gaps()
		if len(gaps) < 12 || len(gaps) > 400 {
			t.Errorf("%d attempts in an hour", len(gaps)+1)
		}
		equal := map[time.Duration]int{}
		for i, gap := range gaps {
			ceiling := min(time.Second<<min(i, 20), 30*time.Second)
			if gap > ceiling+time.Second || gap < 50*time.Millisecond {
				t.Errorf("%v between attempts %d and %d, want at most %v", gap, i+1, i+2, ceiling)
			}
			if equal[gap]++; equal[gap] > 2 {
				t.Errorf("%v between attempts again and again: where is the jitter?", gap)
			}
		}
		mustLog(t, text, "token not renewed", "tok ")
		time.Sleep(time.Hour)
		err := wantErr(t, s, noKey, tokensource.ErrUnavailable)
		if after := tokensource.RetryAfter(err); after <= 0 || after > time.Second {
			t.Errorf("retry after %v, want up to 1s: a request brings an attempt forward", after)
		}
	})
}

// docs/faults.md, fault 3: Retry-After is obeyed, and capped at an hour.
func TestRetryAfterIsObeyed(t *testing.T) {
	for name, c := range map[string]struct {
		failure   error
		low, high time.Duration
	}{
		"throttled, 90s": {throttle(90 * time.Second), 90 * time.Second, 91 * time.Second},
		"throttled, 20m": {throttle(20 * time.Minute), 20 * time.Minute, 20*time.Minute + time.Second},
		"503, 90s":       {&tokenendpoint.Error{Status: 503, RetryAfter: 90 * time.Second}, 90 * time.Second, 91 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := failingAfterOne(c.failure)
				s := newSource(t, tokensource.Config{Grant: g, Breaker: never, RefreshAhead: tokensource.RefreshAhead{Fraction: 0.9, Max: time.Hour}})
				want(t, s, noKey, "tok")
				time.Sleep(59 * time.Minute)
				if len(g.gaps()) < 2 {
					t.Fatalf("%d gaps", len(g.gaps()))
				}
				for _, gap := range g.gaps() {
					if gap < c.low || gap > c.high {
						t.Errorf("%v between attempts, want %v", gap, c.low)
					}
				}
			})
		})
	}
}

// A caller without a token waits through failed attempts, no longer than
// Patience; with a negative one, not at all.
func TestPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &fakeGrant{onToken: func(_ context.Context, n int, _ tokensource.Vars) (*tokenendpoint.Response, error) {
			if n < 3 {
				return nil, status(503)
			}
			return answer("tok", "", time.Hour), nil
		}}
		want(t, newSource(t, tokensource.Config{Grant: g}), noKey, "tok")

		down := &fakeGrant{onToken: func(context.Context, int, tokensource.Vars) (*tokenendpoint.Response, error) { return nil, status(503) }}
		for _, patience := range []time.Duration{-1, 20 * time.Second} {
			s := newSource(t, tokensource.Config{Grant: down, MaxWait: patience, Breaker: never})
			start := time.Now()
			wantErr(t, s, noKey, tokensource.ErrUnavailable)
			if took := time.Since(start); took > max(patience, 0) {
				t.Errorf("with a patience of %v it took %v", patience, took)
			}
		}
	})
}

// A caller who waits for the next attempt goes when its own context ends.
func TestPatienceEndsWithTheContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &fakeGrant{onToken: func(context.Context, int, tokensource.Vars) (*tokenendpoint.Response, error) {
			return nil, throttle(4 * time.Second)
		}}
		s := newSource(t, tokensource.Config{Grant: g, MaxWait: time.Minute})
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		start := time.Now()
		if _, err := s.Token(ctx, noKey); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Second {
			t.Errorf("%v after %v, want the deadline's error after 1s", err, time.Since(start))
		}
	})
}

// Throttling is about the client: it holds for every key of the source, said
// with or without Retry-After.
func TestThrottlingHoldsForEveryKey(t *testing.T) {
	for name, after := range map[string]time.Duration{"for a time": time.Minute, "without a time": 0} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := &fakeGrant{onToken: func(context.Context, int, tokensource.Vars) (*tokenendpoint.Response, error) {
					return nil, throttle(after)
				}}
				s := newSource(t, tokensource.Config{Grant: g, KeyNames: []string{"user"}, MaxWait: -1})
				for _, user := range []string{"ann", "bob", "eve"} {
					err := wantErr(t, s, tokensource.NewKey(user), tokensource.ErrUnavailable)
					if tokensource.RetryAfter(err) <= 0 {
						t.Errorf("%s is not told when to come again", user)
					}
				}
				wantCalls(t, g, 1, 0)
				time.Sleep(5 * time.Minute)
				wantErr(t, s, tokensource.NewKey("bob"), tokensource.ErrUnavailable)
				wantCalls(t, g, 2, 0)
			})
		})
	}
}

// A second key's shorter Retry-After does not lift the first one's.
func TestThrottlingIsNotShortened(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &fakeGrant{onToken: func(_ context.Context, n int, _ tokensource.Vars) (*tokenendpoint.Response, error) {
			time.Sleep(time.Duration(n) * time.Second) // both are under way before the first answer
			if n == 2 {
				return nil, throttle(time.Second)
			}
			return nil, throttle(4 * time.Minute)
		}}
		s := newSource(t, tokensource.Config{Grant: g, KeyNames: []string{"user"}, MaxWait: -1})
		var wg sync.WaitGroup
		wg.Go(func() { _, _ = s.Token(context.Background(), tokensource.NewKey("ann")) })
		wg.Go(func() { _, _ = s.Token(context.Background(), tokensource.NewKey("bob")) })
		wg.Wait()
		time.Sleep(5 * time.Second)
		before := g.calls()
		_, _ = s.Token(context.Background(), tokensource.NewKey("eve"))
		if g.calls() != before {
			t.Error("eve's call was made though the endpoint asked for four minutes")
		}
	})
}
