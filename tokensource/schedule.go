package tokensource

import (
	"errors"
	"time"
)

// logRenewal tells what the operator must know at Warn, once, and the rest at
// Debug: a person who has not authorized yet is no fault.
func (s *Source) logRenewal(e *entry, why Reason, o Outcome) {
	e.mu.Lock()
	failed := e.failure
	e.mu.Unlock()
	attrs := []any{
		"source", s.cfg.Name, "grant", s.GrantType(), "key", e.key.String(),
		"reason", why, "result", Result(o.Err), "took", o.Took,
	}
	switch {
	case o.Err == nil && (why == reasonWrite || why == reasonResume):
	case why == reasonResume && ofStore(o.Err), why == reasonWrite: // told when it began
	case why == reasonResume && failed.permanent && failed.attempts > 1:
	case o.Err == nil:
		s.log.Debug("token renewed", append(attrs, "via", o.Via, "expiry", o.Expiry)...)
	case errors.Is(o.Err, ErrAuthorizationRequired) && ErrorCode(o.Err) == "", failed.permanent && failed.attempts > 1:
		s.log.Debug("no token", append(attrs, "error", o.Err)...)
	case failed.permanent:
		s.log.Error("token not renewed, and not tried again until the settings or the store change", append(attrs, "error", o.Err)...)
	default:
		s.log.Warn("token not renewed", append(attrs, "error", o.Err,
			"retry_in", max(time.Until(failed.until), 0).Round(time.Millisecond))...)
	}
}

// schedule sets the timer: of a source without keys, so that its token is
// renewed, and its failures are mended, with no traffic at all: there will be
// none as long as this process is reported as not ready. And of a token that is
// not stored yet. The caller holds e.mu.
func (s *Source) schedule(e *entry, now time.Time) {
	wait, ok := time.Duration(0), false
	switch {
	case s.single == nil:
	case s.looks(e):
		wait, ok = lookEvery, true
		if e.unread {
			wait = storeRetryMax
		}
	case !e.failure.permanent:
		wait, ok = nextWake(now, e.tok)
		if e.failure.err != nil {
			wait, ok = max(wait, e.failure.until.Sub(now)), true
		}
	}
	if e.unsaved.pending() {
		if write := e.unsaved.next.Sub(now); !ok || write < wait {
			wait, ok = write, true
		}
	}
	if !ok || s.isClosed() {
		return
	}
	// Not even a clock that jumps makes this a busy loop.
	wait = max(wait, backoffMin)
	if e.timer == nil {
		e.timer = time.AfterFunc(wait, func() { s.wake(e) })
		return
	}
	e.timer.Reset(wait)
}

// wake does what the timer was set for.
func (s *Source) wake(e *entry) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.flight != nil || e.evicted {
		return // a flight schedules the next
	}
	now := time.Now()
	_, err := s.mayTry(e, now)
	switch st := stateAt(now, e.tok); {
	case s.single != nil && st != fresh && err == nil && !e.failure.permanent && !s.looks(e):
		s.launch(s.life, e, ReasonAhead, nil, s.renew)
	case e.unsaved.pending() && !now.Before(e.unsaved.next):
		s.launch(s.life, e, reasonWrite, nil, s.rewrite)
	case s.looks(e):
		s.launch(s.life, e, reasonResume, nil, s.look)
	default:
		s.schedule(e, now)
	}
}
