package tokensource

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// obtain makes the token calls.
func (s *Source) obtain(ctx context.Context, e *entry, f *flight, cur *Token) (*Token, string, error) {
	v := Vars{s.cfg.KeyNames, e.key}
	g := s.cfg.Grant
	if refresh := s.refreshToken(e, cur); !refresh.Empty() {
		a, err := s.guarded(func() (*Answer, error) { return g.Refresh(ctx, v, refresh) })
		if err == nil {
			if a.RefreshToken.Empty() { // RFC 6749, section 6: the old one stays good
				a.RefreshToken = refresh
			}
			t, err := s.take(ctx, e, f, cur, a)
			return t, viaRefresh, err
		}
		if !s.grantInstead(e, err, cur, refresh) {
			if refusedForGood(err) && g.NeedsPerson() {
				if cur != nil {
					cur.orphan.Store(true)
				}
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
	t, err := s.take(ctx, e, f, cur, a)
	return t, viaGrant, err
}

// refreshToken returns the refresh token to use, empty if there is none that
// is any good.
func (s *Source) refreshToken(e *entry, cur *Token) Secret {
	if !s.cfg.Grant.CanRefresh() {
		return Secret{}
	}
	refresh := s.cfg.Grant.Seed()
	if cur != nil && cur.refresh != "" {
		refresh = NewSecret(cur.refresh)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.deadRefresh != "" && refresh.Reveal() == e.deadRefresh {
		return Secret{}
	}
	return refresh
}

// grantInstead decides whether a refresh that failed is followed by the grant.
func (s *Source) grantInstead(e *entry, err error, cur *Token, refresh Secret) bool {
	g := s.cfg.Grant
	switch {
	case g.NeedsPerson():
		return false
	case refusedForGood(err):
		e.mu.Lock()
		e.deadRefresh = refresh.Reveal() // should the grant fail too, it is not tried again
		e.mu.Unlock()
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
	asked := time.Now()
	a, err = call()
	verdict = judge(err)
	if err == nil {
		a.asked = asked
	}
	return a, err
}

// refusedForGood reports whether it was this source's endpoint that refused:
// what another source that the call leans on was told is not meant.
func refusedForGood(err error) bool {
	var chained *chainError
	return errors.Is(err, ErrRefused) && !errors.As(err, &chained)
}

func judge(err error) Verdict {
	var ee *EndpointError
	var chained *chainError
	switch {
	case err == nil:
		return Works
	case errors.As(err, &chained):
		return Neutral
	case !errors.As(err, &ee), ee.Class == Throttled:
		return Neutral
	case ee.Class == Transient:
		return Fails
	case ee.Code == "invalid_client", ee.Code == "unauthorized_client", ee.Status == 401 && ee.Code == "":
		return Fails
	}
	return Works
}

// take makes a token of an answer and writes it, before anyone uses it. If
// the store fails the token serves from memory and the write is retried.
func (s *Source) take(ctx context.Context, e *entry, f *flight, cur *Token, a *Answer) (*Token, error) {
	if !injectable(a.AccessToken.Reveal()) {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, errBadToken)
	}
	t := newToken(a.AccessToken.Reveal(), a.RefreshToken.Reveal())
	t.tokenType, t.fields = a.TokenType, a.Fields
	// The provider began to count at some time during the call: at its beginning,
	// to be sure.
	t.live(a.asked, expiryOf(a.Lifetime, s.cfg.Lifetime), s.cfg.RefreshAhead, random())
	t.generation, t.byCode = 1, f.code
	if cur != nil {
		t.generation = cur.generation + 1
	}
	var err error
	if f.unsettled {
		err = errUnsettled
	} else {
		err = s.save(ctx, e, t)
	}
	e.mu.Lock()
	e.unsaved = unsaved{is: err != nil, unsettled: f.unsettled, next: time.Now().Add(backoffBase)}
	e.mu.Unlock()
	if err != nil {
		s.log.Error("token not stored: it serves from memory and would be lost with this process",
			"source", s.cfg.Name, "key", e.key.String(), "error", err)
	}
	return t, nil
}

// errUnsettled: the store could not be read, so what generation the token is
// of is known only when it is written.
var errUnsettled = errors.New("the store could not be read before")

// rewrite writes a token that the store did not take before. If another
// process has written a newer one meanwhile, that one is taken instead.
func (s *Source) rewrite(ctx context.Context, e *entry, _ *flight) (*Token, string, error) {
	e.mu.Lock()
	cur, state := e.tok, e.unsaved
	e.mu.Unlock()
	stored, err := s.load(ctx, e)
	switch {
	case err != nil:
		return nil, "", fmt.Errorf("%w: %w", ErrUnavailable, err)
	case state.unsettled && stored != nil && stored.generation >= cur.generation:
		cur = cur.withGeneration(stored.generation + 1)
	case newer(stored, cur), stored != nil && stored.generation == cur.generation && stored.AccessToken() != cur.AccessToken():
		cur = stored // somebody else got there first
	}
	if cur != stored {
		if err := s.save(ctx, e, cur); err != nil {
			return nil, "", fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
	}
	e.mu.Lock()
	e.unsaved = unsaved{}
	e.mu.Unlock()
	return cur, viaStore, nil
}

// exchange is the renewal by an authorization code.
func (s *Source) exchange(ctx context.Context, g CodeGrant, e *entry, f *flight, c Code, sum [32]byte) (*Token, string, error) {
	e.mu.Lock()
	cur := e.tok
	e.mu.Unlock()
	stored, err := s.load(ctx, e) // the generation goes on where the stored one is
	switch {
	case errors.Is(err, errNewerRecord):
		return nil, "", fmt.Errorf("%w: %w", ErrRefused, err)
	case err != nil:
		// The person is here now: their code is not refused over a store.
		s.log.Warn("token store not readable; going on without it", "source", s.cfg.Name, "error", err)
		f.unsettled = true
	case newer(stored, cur):
		cur = stored
	}
	f.code = true
	a, err := s.guarded(func() (*Answer, error) { return g.Exchange(ctx, Vars{s.cfg.KeyNames, e.key}, c) })
	var t *Token
	if err == nil {
		t, err = s.take(ctx, e, f, cur, a)
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
