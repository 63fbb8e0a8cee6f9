package tokensource

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"
)

// renewal obtains a token for the entry and says how: by grant,
// refresh_token or store.
type renewal func(ctx context.Context, e *entry, f *flight) (t *Token, via string, err error)

const (
	viaGrant   = "grant"
	viaRefresh = callRefresh
	viaStore   = "store"
)

// launch starts a renewal. The caller holds e.mu, and there is no flight. The
// renewal keeps what ctx carries (the span of the request that started it) but
// not its end: it goes on when that request is gone. nil: the source is closed.
func (s *Source) launch(ctx context.Context, e *entry, why Reason, forced *Token, how renewal) *flight {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	f := &flight{done: make(chan struct{}), forced: forced}
	e.flight = f
	s.flights.Add(1)
	ctx = context.WithoutCancel(ctx)
	go s.fly(ctx, e, f, why, how)
	return f
}

// fly runs a renewal and lands it, whatever happens in it.
func (s *Source) fly(ctx context.Context, e *entry, f *flight, why Reason, how renewal) {
	defer s.flights.Done()
	ctx, cancel := context.WithTimeout(ctx, s.cfg.RenewalTimeout)
	defer cancel()
	defer context.AfterFunc(s.life, cancel)()

	start := time.Now()
	ctx, finished := s.cfg.Observer.Renewing(ctx, Renewal{s.cfg.Name, s.GrantType(), why})
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
	err = s.land(e, f, t, via, err, why)
	o := Outcome{Via: via, Err: err, Took: time.Since(start)}
	if err == nil {
		o.Expiry = t.expiry
	}
	finished(o)
	close(f.done)
	s.logRenewal(e, why, o)
}

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
	case o.Err == nil:
		s.log.Debug("token renewed", append(attrs, "via", o.Via, "expiry", o.Expiry)...)
	case errors.Is(o.Err, ErrAuthorizationRequired) && ErrorCode(o.Err) == "", failed.permanent && failed.attempts > 1:
		s.log.Debug("no token", append(attrs, "error", o.Err)...)
	default:
		s.log.Warn("token not renewed", append(attrs, "error", o.Err,
			"retry_in", max(time.Until(failed.until), 0).Round(time.Millisecond), "permanent", failed.permanent)...)
	}
}

var errPanicked = fmt.Errorf("the renewal panicked: %w", ErrUnavailable)

// land publishes the outcome and returns its error.
func (s *Source) land(e *entry, f *flight, t *Token, via string, err error, why Reason) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	now := time.Now()
	if err == nil && f.forced != nil && t.AccessToken() == f.forced.AccessToken() {
		err = ErrSameToken
	}
	if t != nil {
		e.tok = t
	}
	s.heed(err, now)
	switch {
	case err == nil:
		e.failure = failure{}
		if via != viaStore {
			e.renewed = now
		}
	case why == ReasonCode:
		// a code that fails says nothing of the token that is there, or of the
		// next renewal
	default:
		e.failure = s.remember(e.failure, err, now)
	}
	f.tok, f.err = t, err
	e.flight = nil
	e.cur.Store(e.tok)
	s.schedule(e, now)
	return err
}

// remember is the failure after another error.
func (s *Source) remember(last failure, err error, now time.Time) failure {
	next := failure{attempts: last.attempts + 1, err: err}
	if errors.Is(err, ErrRefused) || errors.Is(err, ErrAuthorizationRequired) {
		next.permanent = true
		next.until = now.Add(recheckStore)
		return next
	}
	next.until = now.Add(retryAfter(RetryAfter(err), next.attempts, random()))
	return next
}

// heed holds every key back when the endpoint asked for fewer calls.
func (s *Source) heed(err error, now time.Time) {
	var ee *EndpointError
	if asked := RetryAfter(err); errors.As(err, &ee) && ee.Class == Throttled && asked > 0 {
		s.throttledUntil.Store(now.Add(asked).UnixNano())
	}
}

// schedule sets the timer of a source without keys, so that its token is
// renewed with no traffic at all, or of a token that is not stored yet. The
// caller holds e.mu.
func (s *Source) schedule(e *entry, now time.Time) {
	if s.single == nil && !e.unsaved {
		return
	}
	wait, ok := nextWake(now, e.tok)
	if e.unsaved {
		wait, ok = 0, true
	}
	if !ok || e.failure.permanent {
		return
	}
	if e.failure.err != nil {
		wait = max(wait, e.failure.until.Sub(now))
	}
	// Not even a clock that jumps makes this a busy loop.
	wait = max(wait, backoffMin)
	if e.timer == nil {
		e.timer = time.AfterFunc(wait, func() { s.wake(e) })
		return
	}
	e.timer.Reset(wait)
}

// wake is the timer's renewal.
func (s *Source) wake(e *entry) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.flight != nil {
		return // it schedules the next
	}
	now := time.Now()
	if _, err := s.mayTry(e, now); err != nil || (stateAt(now, e.tok) == fresh && !e.unsaved) {
		s.schedule(e, now)
		return
	}
	s.launch(s.life, e, ReasonAhead, nil, s.renew)
}

// renew is the ordinary renewal: what the store has, else a refresh, else the
// grant again.
func (s *Source) renew(ctx context.Context, e *entry, f *flight) (*Token, string, error) {
	e.mu.Lock()
	cur, unsaved, refusal := e.tok, e.unsaved, e.failure
	e.mu.Unlock()

	if unsaved {
		if t, err := s.flush(ctx, e, cur); t != nil || err != nil {
			return t, viaStore, err
		}
	}
	stored, err := s.load(ctx, e.key)
	if err != nil {
		if err = s.withoutStore(cur, err); err != nil {
			return nil, "", err
		}
	}
	if newer(stored, cur) {
		refused := f.forcedToken(e)
		if stateAt(time.Now(), stored) != expired && (refused == nil || stored.AccessToken() != refused.AccessToken()) {
			return stored, viaStore, nil
		}
		cur, refusal = stored, failure{}
	}
	if refusal.permanent {
		return nil, "", refusal.err // and the store has nothing newer
	}
	t, via, err := s.obtain(ctx, e, cur)
	if errors.Is(err, ErrRefused) {
		// Another process may have been faster: then the refusal is of a refresh
		// token that is no longer the one.
		if stored, loadErr := s.load(ctx, e.key); loadErr == nil && newer(stored, cur) {
			if stateAt(time.Now(), stored) != expired {
				return stored, viaStore, nil
			}
			return s.obtain(ctx, e, stored)
		}
	}
	return t, via, err
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
// be read. Where a person's consent hangs on a refresh token, an unread record
// may hold the only good one.
func (s *Source) withoutStore(cur *Token, err error) error {
	if errors.Is(err, errNewerRecord) {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	if s.cfg.Grant.NeedsPerson() || (cur != nil && cur.refresh != "") {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	s.log.Warn("token store not readable; going on without it", "source", s.cfg.Name, "error", err)
	return nil
}

// flush writes a token that the store did not take before. While it cannot be
// written its refresh token is not spent on a next one, unless the token is
// dead anyway.
func (s *Source) flush(ctx context.Context, e *entry, cur *Token) (*Token, error) {
	err := s.save(ctx, e.key, cur)
	if err == nil {
		e.mu.Lock()
		e.unsaved = false
		e.mu.Unlock()
		if stateAt(time.Now(), cur) == fresh {
			return cur, nil
		}
		return nil, nil
	}
	if stateAt(time.Now(), cur) != expired {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return nil, nil
}

// obtain makes the token calls.
func (s *Source) obtain(ctx context.Context, e *entry, cur *Token) (*Token, string, error) {
	v := Vars{s.cfg.KeyNames, e.key}
	g := s.cfg.Grant
	refresh := g.Seed()
	if cur != nil && cur.refresh != "" {
		refresh = Secret{cur.refresh}
	}
	if !refresh.Empty() && g.CanRefresh() {
		a, err := s.guarded(func() (*Answer, error) { return g.Refresh(ctx, v, refresh) })
		if err == nil {
			if a.RefreshToken.Empty() { // RFC 6749, section 6: the old one stays good
				a.RefreshToken = refresh
			}
			return s.take(ctx, e, cur, a), viaRefresh, nil
		}
		if !s.grantInstead(err, cur) {
			if errors.Is(err, ErrRefused) && g.NeedsPerson() {
				err = fmt.Errorf("%w: %w", ErrAuthorizationRequired, err)
			}
			return nil, "", err
		}
	}
	if g.NeedsPerson() {
		return nil, "", ErrAuthorizationRequired
	}
	a, err := s.guarded(func() (*Answer, error) { return g.Token(ctx, v) })
	if err != nil {
		return nil, "", err
	}
	return s.take(ctx, e, cur, a), viaGrant, nil
}

// grantInstead decides whether a refresh that failed is followed by the grant.
func (s *Source) grantInstead(err error, cur *Token) bool {
	g := s.cfg.Grant
	switch {
	case g.NeedsPerson():
		return false
	case errors.Is(err, ErrRefused):
		return true
	}
	// The refresh endpoint is down and the token is dead, but the grant asks
	// somebody else: a request waits that could still succeed.
	return !g.SameEndpoint() && stateAt(time.Now(), cur) == expired
}

// guarded makes a token call under the endpoint's breaker. The breaker judges
// the endpoint and the client; what one user's refresh token or code is worth
// says nothing about them.
func (s *Source) guarded(call func() (*Answer, error)) (a *Answer, err error) {
	done, err := s.breaker.Allow(s.cfg.RenewalTimeout)
	if err != nil {
		return nil, err
	}
	verdict := Fails // also of a panic
	defer func() {
		before := s.breaker.State()
		done(verdict)
		if after := s.breaker.State(); after != before {
			s.log.Warn("token endpoint's circuit breaker", "source", s.cfg.Name, "was", before, "is", after)
		}
	}()
	a, err = call()
	verdict = judge(err)
	return a, err
}

func judge(err error) Verdict {
	var ee *EndpointError
	switch {
	case err == nil:
		return Works
	case !errors.As(err, &ee), ee.Class == Throttled:
		return Neutral
	case ee.Class == Permanent && ee.Code != "invalid_client" && ee.Code != "unauthorized_client":
		return Works
	}
	return Fails
}

// take makes a token of an answer and writes it, before anyone uses it. If
// the store fails the token serves from memory and the write is retried.
func (s *Source) take(ctx context.Context, e *entry, cur *Token, a *Answer) *Token {
	t := newToken(a.AccessToken.Reveal(), a.RefreshToken.Reveal())
	t.tokenType, t.fields = a.TokenType, a.Fields
	t.live(time.Now(), expiryOf(a.Lifetime, s.cfg.Lifetime), s.cfg.RefreshAhead, random())
	t.generation = 1
	if cur != nil {
		t.generation = cur.generation + 1
	}
	err := s.save(ctx, e.key, t)
	e.mu.Lock()
	e.unsaved = err != nil
	e.mu.Unlock()
	if err != nil {
		s.log.Error("token not stored: it serves from memory and would be lost with this process",
			"source", s.cfg.Name, "key", e.key.String(), "error", err)
	}
	return t
}

// exchange is the renewal by an authorization code.
func (s *Source) exchange(ctx context.Context, g CodeGrant, e *entry, c Code, sum [32]byte) (*Token, string, error) {
	e.mu.Lock()
	cur := e.tok
	e.mu.Unlock()
	if cur == nil { // the generation goes on where the stored one is
		stored, err := s.load(ctx, e.key)
		if err != nil && !errors.Is(err, errNewerRecord) {
			s.log.Warn("token store not readable; going on without it", "source", s.cfg.Name, "error", err)
		} else if err != nil {
			return nil, "", fmt.Errorf("%w: %w", ErrRefused, err)
		}
		cur = stored
	}
	a, err := s.guarded(func() (*Answer, error) { return g.Exchange(ctx, Vars{s.cfg.KeyNames, e.key}, c) })
	var t *Token
	if err == nil {
		t = s.take(ctx, e, cur, a)
	}
	var ee *EndpointError
	if errors.As(err, &ee) && spent(ee) {
		err = fmt.Errorf("%w: %w", ErrCodeRefused, err)
	}
	if err == nil || errors.Is(err, ErrCodeRefused) {
		e.mu.Lock()
		e.code = codeMemory{sum: sum, err: err, set: true}
		e.mu.Unlock()
	}
	return t, viaGrant, err
}

// spent reports whether a code that was sent is no good any more: refused, or
// taken by an answer that could not be read. When the endpoint was out of
// order or throttling, or was never reached, it may be good still.
func spent(ee *EndpointError) bool {
	return ee.Status >= 200 && ee.Status < 500 && ee.Class != Throttled
}
