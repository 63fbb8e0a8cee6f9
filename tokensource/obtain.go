package tokensource

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenendpoint"
)

// obtain makes the token calls.
func (s *Source) obtain(ctx context.Context, e *entry, f *flight, cur *Token) (*Token, string, error) {
	v := Vars{s.cfg.KeyNames, e.key}
	g := s.cfg.Grant
	var failed error // the refresh, for a reason that passes
	if refresh := s.refreshToken(e, f, cur); !refresh.Empty() {
		f.lease.sends(refresh)
		a, err := s.guarded(ctx, f, func(ctx context.Context) (*tokenendpoint.Response, error) { return g.Refresh(ctx, v, refresh) })
		if err == nil {
			if a.RefreshToken.Empty() { // RFC 6749, section 6: the old one stays good
				a.RefreshToken = refresh
			}
			t, err := s.take(ctx, e, f, cur, a)
			return t, viaRefresh, err
		}
		if !s.grantInstead(e, err, cur, refresh) {
			if g.NeedsPerson() && grantRefused(err, f.lease.inDoubt()) {
				if cur != nil {
					cur.orphan.Store(true)
				}
				err = fmt.Errorf("%w: %w", errLost, err)
			}
			return nil, "", err
		}
		if !refusedForGood(err) {
			failed = err
		}
	}
	if g.NeedsPerson() {
		return nil, "", personNeeded(f, cur)
	}
	a, err := s.guarded(ctx, f, func(ctx context.Context) (*tokenendpoint.Response, error) { return g.Token(ctx, v) })
	switch {
	case err != nil && failed != nil && final(err):
		return nil, "", failed // the grant is refused, and the refresh token may yet be good
	case err != nil:
		return nil, "", err
	}
	t, err := s.take(ctx, e, f, cur, a)
	return t, viaGrant, err
}

// errLost: there was a refresh token, and it is refused for good.
var errLost = fmt.Errorf("the refresh token is no good any more: %w", ErrAuthorizationRequired)

// refreshToken returns the refresh token to use, empty if there is none that
// is any good.
func (s *Source) refreshToken(e *entry, f *flight, cur *Token) tokenendpoint.Secret {
	g := s.cfg.Grant
	// Without a store nobody knows who else may be sending it.
	if !g.CanRefresh() || f.noSeed || (f.unsettled && !g.NeedsPerson()) {
		return tokenendpoint.Secret{}
	}
	refresh := g.Seed()
	if cur != nil && cur.refresh != "" {
		if cur.orphan.Load() {
			return tokenendpoint.Secret{}
		}
		refresh = tokenendpoint.NewSecret(cur.refresh)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.deadRefresh != "" && refresh.Reveal() == e.deadRefresh {
		return tokenendpoint.Secret{}
	}
	return refresh
}

// grantInstead decides whether a refresh that failed is followed by the grant.
func (s *Source) grantInstead(e *entry, err error, cur *Token, refresh tokenendpoint.Secret) bool {
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
//
// The call has all its time, however long it took until it may be made: an
// answer must not be cut off, for it may hold the only good refresh token.
func (s *Source) guarded(ctx context.Context, f *flight, call func(context.Context) (*tokenendpoint.Response, error)) (a *tokenendpoint.Response, err error) {
	done, err := s.breaker.Allow(s.cfg.RenewalTimeout)
	if err != nil {
		return nil, err
	}
	if err := f.lease.ensure(ctx); err != nil {
		done(Neutral)
		return nil, err
	}
	if s.isClosed() {
		done(Neutral)
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, ErrClosed)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.RenewalTimeout)
	defer cancel()
	defer context.AfterFunc(s.life, cancel)()
	verdict := Fails // also of a panic
	defer func() {
		before := s.breaker.State()
		done(verdict)
		if after := s.breaker.State(); after != before {
			s.log.Warn("token endpoint's circuit breaker", "source", s.cfg.Name, "was", before, "is", after)
		}
	}()
	stop := f.lease.keep(ctx)
	defer stop() // of a panic too
	asked := time.Now()
	a, err = call(f.lease.calling(ctx))
	stop()
	verdict = judge(err)
	if err == nil {
		f.asked = asked
	}
	return a, err
}

// refusedForGood reports whether it was this source's endpoint that refused:
// what another source that the call leans on was told is not meant.
func refusedForGood(err error) bool {
	var chained *tokenendpoint.AuthorizerError
	return errors.Is(err, ErrRefused) && !errors.As(err, &chained)
}

// grantRefused reports whether an error says that the refresh token is no good,
// for good, and not that the client or the request is at fault: that is mended
// in the settings. Servers tell a used refresh token in many ways
// (unauthorized_client, invalid_request): where it may have been used, any
// refusal of it counts.
func grantRefused(err error, doubt bool) bool {
	var ee *tokenendpoint.Error
	if !errors.As(err, &ee) {
		return false
	}
	if doubt && ee.Status == http.StatusBadRequest && ee.Code == "" {
		return true // all that Glewlwyd says
	}
	if !refusedForGood(err) {
		return false
	}
	switch ee.Code {
	case "invalid_client", "invalid_target":
		return false
	case "unauthorized_client", "unsupported_grant_type", "invalid_request", "invalid_scope":
		return doubt
	case "":
		return ee.Status != http.StatusUnauthorized || doubt
	}
	return true
}

func judge(err error) Verdict {
	var ee *tokenendpoint.Error
	var chained *tokenendpoint.AuthorizerError
	switch {
	case err == nil:
		return Works
	case errors.As(err, &chained):
		return Neutral
	case !errors.As(err, &ee), ee.Class == tokenendpoint.Throttled:
		return Neutral
	case ee.Class == tokenendpoint.Transient:
		return Fails
	case ee.Code == "invalid_client", ee.Code == "unauthorized_client", ee.Status == 401 && ee.Code == "":
		return Fails
	}
	return Works
}

// take makes a token of an answer and writes it, before anyone uses it. If
// the store fails the token serves from memory and the write is retried.
func (s *Source) take(ctx context.Context, e *entry, f *flight, cur *Token, a *tokenendpoint.Response) (*Token, error) {
	if !tokenendpoint.ValidToken(a.AccessToken.Reveal()) {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, tokenendpoint.ErrBadToken)
	}
	t := newToken(a.AccessToken.Reveal(), a.RefreshToken.Reveal())
	t.tokenType, t.fields = a.TokenType, a.Fields
	// The provider began to count at some time during the call: at its beginning,
	// to be sure.
	t.live(f.asked, expiryOf(a.Lifetime, s.cfg.Lifetime), s.cfg.RefreshAhead, random())
	t.generation, t.byCode = 1, f.code
	if cur != nil {
		t.generation = cur.generation + 1
	}
	var err error
	changes := s.storeChanges.Load()
	if f.unsettled {
		err = errUnsettled
	} else {
		t, err = s.save(ctx, e, f, t)
	}
	moved := err == nil && changes != s.storeChanges.Load() // it was written to the one before
	e.mu.Lock()
	e.unsaved = unsaved{
		is: err != nil || moved, unsettled: f.unsettled, copy: moved, next: time.Now().Add(backoffBase),
		check: s.store != nil && t.refresh != "",
	}
	if err == nil && !moved {
		e.unsaved.next = time.Now().Add(checkAfter)
	}
	e.mu.Unlock()
	if err != nil {
		s.log.Error("token not stored: it serves from memory and would be lost with this process",
			"source", s.cfg.Name, "key", e.key.String(), "error", err)
	}
	return t, nil
}
