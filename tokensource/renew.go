package tokensource

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenendpoint"
	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenstore"
)

// renewal obtains a token for the entry and says how: by grant,
// refresh_token or store.
type renewal func(ctx context.Context, e *entry, f *flight) (t *Token, via string, err error)

const (
	viaGrant   = "grant"
	viaRefresh = callRefresh
	viaStore   = "store"
)

// launch starts a renewal. The caller holds e.mu, and there is no flight. cause
// is the context of the request that started it, for the observer: neither its
// end nor its values reach the renewal, for a proxy's say where to connect to
// and whom to tell of a 103. nil: the source is closed.
func (s *Source) launch(cause context.Context, e *entry, why Reason, forced *Token, how renewal) *flight {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	f := &flight{done: make(chan struct{}), why: why, forced: forced, aside: why == reasonWrite || why == reasonResume}
	e.flight = f
	go s.fly(cause, e, f, why, how)
	return f
}

// fly runs a renewal and lands it, whatever happens in it.
func (s *Source) fly(cause context.Context, e *entry, f *flight, why Reason, how renewal) {
	ctx, cancel := context.WithTimeout(s.life, s.cfg.RenewalTimeout)
	defer cancel()

	start := time.Now()
	finished := func(Outcome) {}
	if !f.aside {
		ctx, finished = s.cfg.Observer.Renewing(ctx, cause, Renewal{s.cfg.Name, s.GrantType(), why})
	}
	var t *Token
	var via string
	err := errPanicked
	func() {
		defer func() {
			if r := recover(); r != nil {
				// The panic's value may hold anything, a secret too: its type is told.
				s.log.Error("token renewal panicked", "source", s.cfg.Name, "panic", fmt.Sprintf("%T", r), "stack", string(debug.Stack()))
			}
		}()
		t, via, err = how(ctx, e, f)
	}()
	if errors.Is(err, errPanicked) {
		f.lease.release(ctx, err)
	}
	lost, err := s.land(e, f, t, via, err, why)
	o := Outcome{Via: via, Err: err, Took: time.Since(start)}
	if err == nil && t != nil {
		o.Expiry = t.expiry
	}
	finished(o)
	close(f.done)
	s.logRenewal(e, why, o)
	if lost {
		s.log.Error("a person must authorize again: the refresh token is refused for good", "source", s.cfg.Name, "key", e.key.String(), "error", err)
		s.cfg.Observer.Lost(s.cfg.Name, e.key.String(), err)
	}
}

var errPanicked = fmt.Errorf("the renewal panicked: %w", ErrUnavailable)

// land publishes the outcome and returns its error, and whether it is new that
// the refresh token is lost.
func (s *Source) land(e *entry, f *flight, t *Token, via string, err error, why Reason) (lost bool, _ error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	now := time.Now()
	defer func() {
		is := errors.Is(err, errLost) || (e.lost && (err != nil || t == nil)) || (t != nil && t.orphan.Load() && s.cfg.Grant.NeedsPerson())
		lost, e.lost = is && !e.lost, is
	}()
	if err == nil && f.forced != nil && t.AccessToken() == f.forced.AccessToken() {
		err = ErrSameToken
	}
	before := e.tok
	if t != nil {
		if via == viaStore && t != before {
			e.unsaved = unsaved{} // what was not stored is past
		}
		e.tok = t
		s.entries.weigh(e)
	}
	switch {
	case why == reasonResume:
		e.unread = ofStore(err)
		switch {
		case err == nil && newer(t, before): // somebody has put it right
			e.failure, e.deadRefresh = failure{}, ""
		case err != nil && !e.unread:
			e.failure = remember(e.failure, err, now)
		}
	case err == nil && f.aside:
	case err == nil:
		e.failure, e.deadRefresh = failure{}, ""
		if via != viaStore {
			e.renewed = now
			s.throttles.Store(0)
		}
	case why == reasonWrite:
		e.unsaved.tries++
		e.unsaved.next = now.Add(writeAgainAfter(e.tok, e.unsaved, random()))
	case why == ReasonCode:
		// a code that fails says nothing of the token that is there, or of the
		// next renewal
		s.heed(err, now)
	default:
		e.failure = remember(e.failure, err, now)
		if !e.failure.permanent && RetryAfter(err) == 0 {
			e.failure.until = hurry(now, e.failure.until, e.tok)
		}
		s.heed(err, now)
	}
	f.tok, f.err = t, err
	e.flight = nil
	e.cur.Store(e.tok)
	if why == reasonResume && s.single == nil && t != nil && stateAt(now, t) != fresh && err == nil {
		s.launch(s.life, e, ReasonAhead, nil, s.renew) // it was cut off; no request may come for long
		return false, nil
	}
	if s.notesPending() && why != ReasonCode && !f.aside {
		s.finished.add(e.key)
	}
	s.schedule(e, now)
	return false, err
}

// remember is the failure after another error.
func remember(last failure, err error, now time.Time) failure {
	next := failure{attempts: last.attempts + 1, err: err}
	var chained *tokenendpoint.AuthorizerError
	switch {
	case ofStore(err):
		next.until = now.Add(min(retryAfter(0, next.attempts, random()), storeRetryMax))
	case errors.As(err, &chained) && final(chained.Err):
		// It is the other source's to remember: this one asks it again.
		next.until = now.Add(recheckStore)
	case final(err):
		next.permanent = true
		next.until = now.Add(recheckStore)
	default:
		next.until = now.Add(retryAfter(RetryAfter(err), next.attempts, random()))
	}
	return next
}

// final reports whether waiting does not help a caller.
func final(err error) bool {
	return errors.Is(err, ErrRefused) || errors.Is(err, ErrAuthorizationRequired)
}

// heed holds every key back when the endpoint asked for fewer calls. A later,
// shorter answer does not shorten that. Where it does not say for how long,
// the source's own count of such answers does: each key's would begin anew.
func (s *Source) heed(err error, now time.Time) {
	var ee *tokenendpoint.Error
	if !errors.As(err, &ee) || ee.Class != tokenendpoint.Throttled {
		return
	}
	until := now.Add(retryAfter(RetryAfter(err), int(s.throttles.Add(1)), random()))
	for {
		held := s.throttled.Load()
		if held != nil && !held.Before(until) || s.throttled.CompareAndSwap(held, &until) {
			return
		}
	}
}

// renew is the ordinary renewal: what the store has, else a refresh, else the
// grant again.
func (s *Source) renew(ctx context.Context, e *entry, f *flight) (t *Token, via string, err error) {
	const rounds = 3 // another process may be faster again and again, but not for ever
	for range rounds {
		var again bool
		if t, via, again, err = s.renewOnce(ctx, e, f); !again {
			break
		}
	}
	return t, via, err
}

// renewOnce renews under one lease. again says that it is worth another: the
// store has something newer than what was refused, or than the lease.
func (s *Source) renewOnce(ctx context.Context, e *entry, f *flight) (t *Token, via string, again bool, err error) {
	e.mu.Lock()
	cur, unwritten, refusal := e.tok, e.unsaved, e.failure
	e.mu.Unlock()
	if unwritten.is && unwritten.unsettled {
		// its generation is known only when it is written
		if cur, _, err = s.rewrite(ctx, e, f); err != nil {
			e.mu.Lock()
			cur = e.tok
			e.mu.Unlock()
		}
	}
	var st *stored
	var done bool
	if err == nil {
		st, f.lease, done, err = s.claim(ctx, e, f.why, cur, func(st *stored) (bool, error) { return s.enough(e, f, st, cur, refusal) })
	}
	switch {
	case done:
		return st.token, viaStore, false, nil // land makes it the entry's
	case err == nil:
		if s.instead(e, st.token, cur) {
			cur = st.token
		}
	case st != nil: // it was read: something else stands against a renewal
		return nil, "", false, err
	default:
		if err = s.withoutStore(cur, err); err != nil {
			return nil, "", false, err
		}
		f.unsettled = true
	}
	t, via, err = s.obtain(ctx, e, f, cur)
	if err == nil {
		return t, via, false, nil
	}
	f.lease.release(ctx, err)
	if errors.Is(err, errLeaseLost) {
		return nil, "", true, err
	}
	if refusedForGood(err) {
		// Another process may have been faster: then the refusal is of a refresh
		// token that is no longer the one.
		if st, readErr := s.read(ctx, e); readErr == nil && newer(st.token, cur) {
			return nil, "", true, err
		}
	}
	return nil, "", false, err
}

// useful reports whether somebody else has stored what this renewal is for.
func (s *Source) useful(e *entry, f *flight, st *stored, cur *Token) bool {
	refused := f.forcedToken(e)
	return s.instead(e, st.token, cur) && stateAt(time.Now(), st.token) != expired &&
		(refused == nil || st.token.AccessToken() != refused.AccessToken())
}

// enough reports whether nothing is to be sent, after all: for somebody else
// has renewed, or for a reason that is the error.
func (s *Source) enough(e *entry, f *flight, st *stored, cur *Token, refusal failure) (bool, error) {
	if s.useful(e, f, st, cur) {
		return true, nil
	}
	best := cur
	if s.instead(e, st.token, cur) {
		best = st.token
	} else if refusal.permanent && !errors.Is(refusal.err, tokenstore.ErrUnreadable) {
		return false, refusal.err // and the store has nothing newer
	}
	if refused := st.rec.Refused != nil; best == nil {
		// of a damaged record only this is known: the seed was used before
		f.noSeed = refused || (st.damaged && s.cfg.Grant.NeedsPerson())
	} else if refused && st.rec.Generation == best.generation {
		best.orphan.Store(true) // another process was told so
	}
	if s.cfg.Grant.NeedsPerson() && s.refreshToken(e, f, best).Empty() {
		return false, personNeeded(f, best)
	}
	return false, s.breaker.Refuses()
}

// personNeeded tells a token that was lost from one that was never there.
func personNeeded(f *flight, t *Token) error {
	if f.noSeed || (t != nil && t.orphan.Load()) {
		return errLost
	}
	return ErrAuthorizationRequired
}

// instead reports whether what is stored takes the place of what is in memory:
// it is newer, or of the same generation and not the same, after a fail-over
// that lost our write.
func (s *Source) instead(e *entry, stored, cur *Token) bool {
	if newer(stored, cur) || stored == nil || stored.generation < cur.generation {
		return newer(stored, cur)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return !e.unsaved.is && stored.AccessToken() != cur.AccessToken()
}

func newer(stored, cur *Token) bool {
	return stored != nil && (cur == nil || stored.generation > cur.generation)
}

func (f *flight) forcedToken(e *entry) *Token {
	e.mu.Lock()
	defer e.mu.Unlock()
	return f.forced
}

// withoutStore decides whether a renewal may go on though the store could not
// be read or written. Where a person's consent hangs on a refresh token, an
// unread record may hold the only good one; and a refresh token is not spent
// on a next one that could not be written. Where the grant can be repeated,
// the token that is there serves first.
func (s *Source) withoutStore(cur *Token, err error) error {
	if errors.Is(err, tokenstore.ErrUnreadable) {
		return unreadable{err}
	}
	if s.cfg.Grant.NeedsPerson() || (cur != nil && cur.refresh != "" && stateAt(time.Now(), cur) != expired) {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	s.log.Warn("token store not readable; going on without it", "source", s.cfg.Name, "error", err)
	return nil
}
