package tokensource

import (
	"math/rand/v2"
	"time"

	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenendpoint"
)

// The policy of a token's life: pure functions of the time and the token, so
// that they are tested by table. Nothing here waits, locks or calls.

type state int

const (
	expired state = iota // also: there is no token
	due
	fresh
)

// before compares by both clocks. The monotonic one stands still while the
// host is suspended and the wall clock may jump, so a moment has passed when
// either says so: too early costs one renewal, too late a refused request.
func before(now, moment time.Time) bool {
	return now.Before(moment) && now.UnixNano() < moment.UnixNano()
}

func stateAt(now time.Time, t *Token) state {
	switch {
	case t == nil:
		return expired
	case t.fresh == 0 || before(now, t.issued.Add(t.fresh)):
		return fresh
	case t.lifetime == 0 || before(now, t.issued.Add(t.lifetime)):
		return due
	}
	return expired
}

// Lifetime says how long a token is believed to live.
type Lifetime struct {
	// Default is assumed when the response does not say. Default: 1h.
	Default time.Duration
	// Max caps what a response says. Default: no cap.
	Max time.Duration
	// Forever: tokens never expire, whatever the response says.
	Forever bool
}

// RefreshAhead says how long before its expiry a token is renewed: a fraction
// of its lifetime, but no more than Max.
type RefreshAhead struct {
	Fraction float64       // Default: 0.2
	Max      time.Duration // Default: 5m
}

// absurdLifetime is where a response stops being believed: an epoch taken for
// seconds, 1e18, a typing error. Ten years.
const absurdLifetime = 10 * 365 * 24 * time.Hour

// leastLifetime is the shortest that is counted with: less would have a source
// do nothing but renew.
const leastLifetime = time.Second

// expiryOf returns how long a token lives, 0 meaning for ever. dead says that
// it does not live any more.
func expiryOf(said tokenendpoint.Expiry, l Lifetime) (lifetime time.Duration, dead bool) {
	switch {
	case l.Forever:
		return 0, false
	case said.State == tokenendpoint.ExpiryNone:
		return l.Max, false // 0: for ever indeed
	case said.State == tokenendpoint.ExpiryDead:
		return 0, true
	case said.State == tokenendpoint.ExpirySaid && said.In <= absurdLifetime:
		lifetime = max(said.In, leastLifetime)
	default:
		lifetime = l.Default
	}
	if l.Max > 0 && lifetime > l.Max {
		lifetime = l.Max
	}
	return lifetime, false
}

// jitterAhead is by how much of itself the margin grows at random, so that a
// fleet which got its tokens at once does not renew them at once.
const jitterAhead = 0.25

// aheadOf returns how long before the expiry renewal begins, for a random
// number of [0, 1).
func aheadOf(lifetime time.Duration, ra RefreshAhead, random float64) time.Duration {
	ahead := time.Duration(float64(lifetime) * ra.Fraction)
	if ra.Max > 0 && ahead > ra.Max {
		ahead = ra.Max
	}
	ahead += time.Duration(float64(ahead) * jitterAhead * random)
	return min(ahead, lifetime-min(lifetime/20, leastAge))
}

// leastAge is how old a token gets before it is renewed ahead of its expiry, if
// it lives long enough: whatever the settings say, a source does something else
// than renew.
const leastAge = time.Second

// live sets the token's moments.
func (t *Token) live(now time.Time, lifetime time.Duration, ra RefreshAhead, random float64) {
	t.issued = now
	if lifetime <= 0 {
		return
	}
	t.lifetime = lifetime
	t.fresh = max(lifetime-aheadOf(lifetime, ra, random), 1)
}

// dueAt has the token renewed from a moment on, whatever its lifetime.
func (t *Token) dueAt(now time.Time) { t.fresh = max(now.Sub(t.issued), 1) }

// after returns a moment of the token's life; 0: never, which is the zero time.
func (t *Token) after(d time.Duration) time.Time {
	if d == 0 {
		return time.Time{}
	}
	return t.issued.Add(d)
}

// nextWake returns how long a timer sleeps until the token is due; ok is
// false when it never is.
func nextWake(now time.Time, t *Token) (time.Duration, bool) {
	if t == nil || t.fresh == 0 {
		return 0, false
	}
	return max(t.issued.Add(t.fresh).Sub(now), 0), true
}

const (
	backoffBase = time.Second
	// backoffMin keeps full jitter from drawing no wait at all.
	backoffMin = 50 * time.Millisecond
	// retryAfterMax caps Retry-After: a provider once said 10^9 seconds.
	retryAfterMax = time.Hour
	// writeRetryMax is the most that a write to the store is put off.
	writeRetryMax = 5 * time.Minute
	// userRetryMax is the most that a key is put off which the endpoint refuses.
	userRetryMax = 5 * time.Minute
	// suspectRetry is how often a refresh token is tried again that was refused in
	// words which do not say whose fault it is.
	suspectRetry = time.Hour
)

// storeRetryMax: a store is this side's own, and needs no courtesy; when it is
// back, requests may be waiting.
const storeRetryMax = 2 * time.Second

// writeAgainAfter returns how long to wait before a token that the store did
// not take is written again. While its refresh token is not stored, others may
// take this process for dead, and send the one before it: so often.
func writeAgainAfter(t *Token, u unsaved, random float64) time.Duration {
	if t != nil && t.refresh.is() && !u.copy {
		return backoffBase/2 + time.Duration(random*float64(backoffBase/2))
	}
	return retryAfter(0, u.tries, writeRetryMax, random)
}

// retryAfter returns how long to wait after the attempt-th failure in a row
// (from 1): what the provider asks for, or exponential back-off with full
// jitter and at most longest, for a random number of [0, 1).
func retryAfter(asked time.Duration, attempt int, longest time.Duration, random float64) time.Duration {
	if asked > 0 {
		return min(max(asked, backoffMin), retryAfterMax)
	}
	return max(time.Duration(random*float64(backoff(attempt, longest))), backoffMin)
}

// backoff is a second, doubled after each failure in a row but the first.
func backoff(attempt int, longest time.Duration) time.Duration {
	const doublings = 20 // a second doubled so often is longer than any bound
	if attempt > doublings {
		return longest
	}
	return min(backoffBase<<max(attempt-1, 0), longest)
}

// probeAfter returns how long to wait before it is found out whether the
// endpoint takes the client again, after so many probes: 5 s, 15 s, then each
// minute.
func probeAfter(probes int, random float64) time.Duration {
	switch probes {
	case 0:
		return 5 * time.Second
	case 1:
		return 15 * time.Second
	}
	return 45*time.Second + time.Duration(random*float64(5*time.Second)) // and then a request has to come
}

// suspectAfter returns how long to wait before a refresh token is tried again
// that was refused in other words than invalid_grant. A 401 may be about the
// client, which others mend: it is tried sooner at first.
func suspectAfter(attempt int, unauthorized bool) time.Duration {
	if unauthorized {
		return min(time.Minute<<min(max(attempt-1, 0), 6), suspectRetry)
	}
	return suspectRetry
}

// tightMargin is when it is too late to hurry.
const tightMargin = 200 * time.Millisecond

// hurry moves an attempt forward that back-off would put behind the end of a
// token that still lives: three quarters of what is left are waited at most.
func hurry(now, until time.Time, t *Token) time.Time {
	if t == nil || t.lifetime == 0 {
		return until
	}
	left := t.Expiry().Sub(now)
	if latest := now.Add(left * 3 / 4); left > tightMargin && until.After(latest) {
		return latest
	}
	return until
}

func random() float64 { return rand.Float64() }
