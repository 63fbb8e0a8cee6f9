package tokensource

import (
	"errors"
	"sync/atomic"
	"time"

	"github.com/sony/gobreaker/v2"
)

// BreakerState is closed, half-open or open, as a number for a gauge.
type BreakerState int

// The states.
const (
	BreakerClosed BreakerState = iota
	BreakerHalfOpen
	BreakerOpen
)

// String returns closed, half-open or open.
func (s BreakerState) String() string { return [...]string{"closed", "half-open", "open"}[s] }

// BreakerSettings say when a circuit breaker opens, and for how long.
type BreakerSettings struct {
	// TripAfter failures in a row open it. Default: 5.
	TripAfter uint32
	// OpenFor is how long it stays open before one probe is let through.
	// Default: 30s.
	OpenFor time.Duration
}

// Breaker is a circuit breaker over gobreaker, which two places share: the
// token endpoint here, and the API in a program that uses the tokens.
//
// It adds what gobreaker lacks: when it will let a probe through, and a
// deadline for that probe. A half-open gobreaker whose probe never reports
// refuses everything for ever.
type Breaker struct {
	cb        *gobreaker.TwoStepCircuitBreaker[struct{}]
	openFor   time.Duration
	openUntil atomic.Int64 // Unix nanoseconds
}

var (
	errCounts   = errors.New("counts against the breaker")
	errNeutral  = errors.New("says nothing about the other side")
	errNoAnswer = errors.New("the probe did not report in time")
)

// NewBreaker returns a closed breaker.
func NewBreaker(s BreakerSettings) *Breaker {
	b := &Breaker{openFor: s.OpenFor}
	b.cb = gobreaker.NewTwoStepCircuitBreaker[struct{}](gobreaker.Settings{
		MaxRequests: 1,
		Timeout:     s.OpenFor,
		ReadyToTrip: func(c gobreaker.Counts) bool { return c.ConsecutiveFailures >= s.TripAfter },
		IsExcluded:  func(err error) bool { return errors.Is(err, errNeutral) },
		// Runs under gobreaker's lock: it must not call back.
		OnStateChange: func(_ string, _, to gobreaker.State) {
			if to == gobreaker.StateOpen {
				b.openUntil.Store(time.Now().Add(s.OpenFor).UnixNano())
			}
		},
	})
	return b
}

// Verdict is what a call said about the other side.
type Verdict int

// The verdicts.
const (
	Works   Verdict = iota // it does its work
	Fails                  // it does not
	Neutral                // nothing can be concluded
)

// Allow asks whether a call may be made. If so, done must be called with its
// verdict; later calls of done change nothing. A probe that has not reported
// within probeDeadline counts as failed. If not, the error is ErrBreakerOpen
// and [RetryAfter] says when to ask again.
func (b *Breaker) Allow(probeDeadline time.Duration) (done func(Verdict), err error) {
	report, err := b.cb.Allow()
	if err != nil {
		return nil, b.refusal()
	}
	var reported atomic.Bool
	once := func(err error) {
		if reported.CompareAndSwap(false, true) {
			report(err)
		}
	}
	var deadline *time.Timer
	if b.cb.State() == gobreaker.StateHalfOpen {
		deadline = time.AfterFunc(probeDeadline, func() { once(errNoAnswer) })
	}
	return func(v Verdict) {
		if deadline != nil {
			deadline.Stop()
		}
		switch v {
		case Works:
			once(nil)
		case Fails:
			once(errCounts)
		case Neutral:
			once(errNeutral)
		}
	}, nil
}

// Refuses returns the error that Allow would return, and nil if it may let the
// call through.
func (b *Breaker) Refuses() error {
	if b.State() == BreakerOpen {
		return b.refusal()
	}
	return nil
}

func (b *Breaker) refusal() error {
	after := time.Until(time.Unix(0, b.openUntil.Load()))
	return &delayedError{ErrBreakerOpen, min(max(after, time.Second), b.openFor)}
}

// State returns the breaker's state now.
func (b *Breaker) State() BreakerState {
	switch b.cb.State() {
	case gobreaker.StateOpen:
		return BreakerOpen
	case gobreaker.StateHalfOpen:
		return BreakerHalfOpen
	}
	return BreakerClosed
}

// Idle reports whether the breaker is closed and has nothing to count, so
// that it may be thrown away.
func (b *Breaker) Idle() bool {
	return b.cb.State() == gobreaker.StateClosed && b.cb.Counts().ConsecutiveFailures == 0
}
