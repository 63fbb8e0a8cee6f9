package tokensource

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// What the log says of renewals: that something changed, not each attempt. A
// failure that concerns all keys is told once, again each reportEvery with how
// often it came, and once more when it is over. A failure of one key is told
// when it begins, and when it is over.

// reportEvery is how often a failure that lasts is told again.
const reportEvery = 5 * time.Minute

// report is what was told of the failure that concerns all keys.
type report struct {
	mu       sync.Mutex
	level    slog.Level // of what was told last
	since    time.Time  // zero: nothing is wrong
	told     time.Time
	failures int
}

// failed counts a failure, and reports whether it is to be told, with how many
// failures there were and since when.
func (p *report) failed(now time.Time, level slog.Level) (failures int, since time.Time, tell bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.since.IsZero() {
		p.since, p.level, p.failures = now, level-1, 0
	}
	p.failures++
	if tell = level > p.level || now.Sub(p.told) >= reportEvery; tell {
		p.level, p.told = level, now
	}
	return p.failures, p.since, tell
}

// over ends the failure, and returns what there is to tell of it; since is zero
// if there was none.
func (p *report) over() (failures int, since time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	failures, since = p.failures, p.since
	p.failures, p.since = 0, time.Time{}
	return failures, since
}

// logRenewal tells how a renewal ended. was is the key's failure before it.
func (s *Source) logRenewal(r *renewal, was failure, o Outcome) {
	e, now := r.e, time.Now()
	attrs := []any{"source", s.cfg.Name, "grant", s.GrantType(), "key", e.key.String(), "reason", r.why, "took", o.Took}
	if o.Err == nil {
		s.logToken(r, was, o, attrs)
		return
	}
	fault := FaultOf(o.Err)
	attrs = append(attrs, "result", Result(o.Err), "fault", fault, "error", o.Err)
	level, text := slog.LevelWarn, "token not renewed"
	tok := e.current()
	valid := stateAt(now, tok) != expired || s.inGrace(now, tok)
	if !valid {
		level = slog.LevelError
	}
	switch {
	case r.why == reasonWrite, r.why == reasonResume && fault == FaultStore: // told when it began
		return
	case r.why == ReasonCode:
		s.log.Warn("no token for an authorization code", attrs...)
		return
	case errors.Is(o.Err, ErrAuthorizationRequired) && !r.called:
		level, text = slog.LevelDebug, "no token: a person must authorize first"
	case fault == FaultRecord && was.fault != fault: // nobody is called for it, and it is new
		attrs = append(attrs, "record", s.recordName(e.key))
	case !r.called && was.err != nil:
		level, text = slog.LevelDebug, "no token: it is not tried yet"
	case fault == FaultEndpoint, fault == FaultClient:
		failures, since, tell := s.report.failed(now, level)
		if !tell {
			level = slog.LevelDebug
		}
		attrs = append(attrs, "failures", failures, "failing_for", now.Sub(since).Round(time.Millisecond))
	case was.err != nil && was.fault == fault:
		level = slog.LevelDebug // told when it began
	}
	if hint := hints[fault]; hint != "" && level > slog.LevelDebug {
		attrs = append(attrs, "look_at", hint)
	}
	s.log.Log(s.life, level, text, append(attrs, "valid_token", valid, "next_attempt_in", s.nextAttempt(e, now))...)
}

// hints say what to look at, by whose fault it is.
var hints = map[Fault]string{
	FaultEndpoint:  "whether the token endpoint can be reached and works, and whether token_url is right",
	FaultClient:    "client_id, client_secret, client_auth, scope, and whether the provider still knows the client",
	FaultConsent:   "whether the person has taken the consent back; they have to authorize again",
	FaultSuspected: "the error code; `response { consent_lost ... }` or `client_refused` says what it means at this provider",
	FaultUser:      "whether the provider knows this user",
	FaultStore:     "the token store",
	FaultRecord:    "storage_key, its `migrate`, and who else can write to the token store",
}

// logToken tells of a token, and that what was wrong is over.
func (s *Source) logToken(r *renewal, was failure, o Outcome, attrs []any) {
	if r.why == reasonWrite || r.why == reasonResume {
		return
	}
	s.log.Debug("token renewed", append(attrs, "via", o.Via, "expiry", o.Expiry)...)
	if o.Via == viaStore {
		return
	}
	if failures, since := s.report.over(); !since.IsZero() {
		s.log.Info("tokens are obtained again", append(attrs, "via", o.Via, "failures", failures, "after", time.Since(since).Round(time.Millisecond))...)
		return
	}
	switch was.fault {
	case FaultUser, FaultSuspected, FaultConsent:
		s.log.Info("a token is obtained again", append(attrs, "via", o.Via, "failures", was.attempts, "after", time.Since(was.since).Round(time.Millisecond))...)
	}
}

// nextAttempt is how long it takes until the next attempt that nobody waits
// for, for people to read.
func (s *Source) nextAttempt(e *entry, now time.Time) string {
	e.mu.Lock()
	defer e.mu.Unlock()
	f := e.failure()
	if f.callAt.Sub(now) > never/2 {
		return "only when something has changed"
	}
	wait := max(f.until.Sub(now), f.callAt.Sub(now), s.opens(e, now), 0)
	return fmt.Sprint(wait.Round(100 * time.Millisecond))
}
