package tokensource

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"
)

// obtain makes the token calls.
func (s *Source) obtain(ctx context.Context, e *entry, f *flight, cur *Token) (*Token, string, error) {
	v := Vars{s.cfg.KeyNames, e.key}
	g := s.cfg.Grant
	var failed error // the refresh, for a reason that passes
	if refresh := s.refreshToken(e, f, cur); !refresh.Empty() {
		f.lease.sends(refresh)
		a, err := s.guarded(ctx, f, func(ctx context.Context) (*Answer, error) { return g.Refresh(ctx, v, refresh) })
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
	a, err := s.guarded(ctx, f, func(ctx context.Context) (*Answer, error) { return g.Token(ctx, v) })
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
func (s *Source) refreshToken(e *entry, f *flight, cur *Token) Secret {
	g := s.cfg.Grant
	// Without a store nobody knows who else may be sending it.
	if !g.CanRefresh() || f.noSeed || (f.unsettled && !g.NeedsPerson()) {
		return Secret{}
	}
	refresh := g.Seed()
	if cur != nil && cur.refresh != "" {
		if cur.orphan.Load() {
			return Secret{}
		}
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
//
// The call has all its time, however long it took until it may be made: an
// answer must not be cut off, for it may hold the only good refresh token.
func (s *Source) guarded(ctx context.Context, f *flight, call func(context.Context) (*Answer, error)) (a *Answer, err error) {
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

// grantRefused reports whether an error says that the refresh token is no good,
// for good, and not that the client or the request is at fault: that is mended
// in the settings. Servers tell a used refresh token in many ways
// (unauthorized_client, invalid_request): where it may have been used, any
// refusal of it counts.
func grantRefused(err error, doubt bool) bool {
	var ee *EndpointError
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
	changes := s.storeChanges.Load()
	if f.unsettled {
		err = errUnsettled
	} else {
		t, err = s.store(ctx, e, f, t)
	}
	moved := err == nil && changes != s.storeChanges.Load() // it was written to the one before
	e.mu.Lock()
	e.unsaved = unsaved{
		is: err != nil || moved, unsettled: f.unsettled, copy: moved, next: time.Now().Add(backoffBase),
		check: s.cfg.Store != nil && t.refresh != "",
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

// checkAfter is how long after it was written it is looked whether a refresh
// token is still in the store. A fail-over may lose the last write and leave
// the intent before it: then others send the old refresh token after
// lapseAfter, unless the new one is written back before.
const checkAfter = 2 * time.Second

// errUnsettled: the store could not be read, so what generation the token is
// of is known only when it is written.
var errUnsettled = errors.New("the store could not be read before")

// store writes a token over the intent of the renewal that brought it. The end
// of ctx does not cut it off: by then the provider has given the token, and
// may give no other. If somebody else has stored one meanwhile, that one is
// returned, unless ours is what a person brought just now.
func (s *Source) store(ctx context.Context, e *entry, f *flight, t *Token) (*Token, error) {
	if s.cfg.Store == nil {
		return t, nil
	}
	ctx = context.WithoutCancel(ctx)
	at := s.stamp()
	over := f.lease.written()
	for range maxConflicts {
		if over != nil {
			rec := record{Renewed: &at, Codes: over.rec.Codes}
			rec.put(t)
			if _, err := s.write(ctx, e, over.raw, &rec); !errors.Is(err, ErrConflict) {
				return t, err
			}
		}
		st, err := s.read(ctx, e)
		switch {
		case err != nil:
			return t, err
		case f.code && st.rec.Generation >= t.generation:
			t = t.withGeneration(st.rec.Generation + 1)
		case st.token != nil && st.rec.Generation >= t.generation:
			if st.token.AccessToken() != t.AccessToken() {
				s.log.Warn("another process has stored a newer token meanwhile: it is used", "source", s.cfg.Name, "key", e.key.String(),
					"generation", st.rec.Generation, "by", st.rec.by())
			}
			return st.token, nil
		}
		over = st
	}
	return t, errConflicts
}

// maxConflicts bounds the writes that meet somebody else's.
const maxConflicts = 50

var errConflicts = &storeError{fmt.Errorf("%d times in a row: %w", maxConflicts, ErrConflict)}

// rewrite writes a token that the store did not take before. If another
// process has written a newer one meanwhile, that one is taken instead.
func (s *Source) rewrite(ctx context.Context, e *entry, _ *flight) (*Token, string, error) {
	e.mu.Lock()
	was, state := e.tok, e.unsaved
	e.mu.Unlock()
	cur, at := was, s.stamp()
	for range maxConflicts {
		st, err := s.read(ctx, e)
		if err != nil {
			return nil, "", err
		}
		same := st.token != nil && st.rec.Generation == cur.generation && st.token.AccessToken() == cur.AccessToken()
		switch {
		case same && !state.is: // and durable
			s.settle(e, was)
			return cur, viaStore, nil
		case same: // written, perhaps, but not known to be durable
		case state.unsettled && st.rec.Generation >= cur.generation:
			cur = cur.withGeneration(st.rec.Generation + 1)
		case st.token != nil && st.rec.Generation >= cur.generation:
			s.settle(e, was)
			return st.token, viaStore, nil // somebody else got there first
		}
		rec := *st.rec // of this very token: another's intent, doubt and refusal stay
		if !same {
			if !state.is {
				s.log.Error(lostWrite, "source", s.cfg.Name, "key", e.key.String(), "stored_generation", st.rec.Generation, "generation", cur.generation)
			}
			rec = record{Renewed: &at, Codes: st.rec.Codes}
			rec.put(cur)
			if cur.orphan.Load() {
				rec.Refused = &at
			}
		}
		_, err = s.write(context.WithoutCancel(ctx), e, st.raw, &rec)
		switch {
		case errors.Is(err, ErrConflict):
			continue
		case err != nil:
			return nil, "", err
		}
		s.settle(e, was)
		return cur, viaStore, nil
	}
	return nil, "", errConflicts
}

// settle notes that the token is stored, if it is still the one.
func (s *Source) settle(e *entry, t *Token) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.tok == t {
		e.unsaved = unsaved{}
	}
}

// exchange is the renewal by an authorization code. It waits for nobody: what
// a person brought last is what holds, and a renewal elsewhere finds it.
func (s *Source) exchange(ctx context.Context, g CodeGrant, e *entry, f *flight, c Code, sum [sha256.Size]byte) (*Token, string, error) {
	e.mu.Lock()
	cur := e.tok
	e.mu.Unlock()
	f.code = true
	st, err := s.note(ctx, e, codeHash(sum), true) // the generation goes on where the stored one is
	switch {
	case errors.Is(err, errUnreadable):
		return nil, "", fmt.Errorf("%w: %w", ErrRefused, err)
	case errors.Is(err, ErrCodeRefused):
		return nil, "", err
	case err != nil:
		// The person is here now: their code is not refused over a store.
		s.log.Warn("token store fails; a code is exchanged without it", "source", s.cfg.Name, "error", err)
		f.unsettled = true
	case newer(st.token, cur):
		cur = st.token
	}
	a, err := s.guarded(ctx, f, func(ctx context.Context) (*Answer, error) { return g.Exchange(ctx, Vars{s.cfg.KeyNames, e.key}, c) })
	var t *Token
	if err == nil {
		t, err = s.take(ctx, e, f, cur, a)
	}
	if err != nil && (a != nil || spent(err)) {
		err = fmt.Errorf("%w: %w", ErrCodeRefused, err)
	}
	switch {
	case err == nil || errors.Is(err, ErrCodeRefused):
		e.mu.Lock()
		e.code = &codeMemory{sum: sum, err: err}
		e.mu.Unlock()
	case s.cfg.Store != nil: // it may be handed over once more
		if _, err := s.note(context.WithoutCancel(ctx), e, codeHash(sum), false); err != nil {
			s.log.Warn("a code that was not used up stays noted as sent", "source", s.cfg.Name, "key", e.key.String(), "error", err)
		}
	}
	return t, viaGrant, err
}

// note writes into the record that a code is about to be sent, or that it was
// not used up after all. A code that was sent before, by whomever, is an
// ErrCodeRefused: a second use makes providers revoke what the first brought
// (RFC 6749, section 4.1.2).
func (s *Source) note(ctx context.Context, e *entry, hash string, sent bool) (*stored, error) {
	for range maxConflicts {
		st, err := s.read(ctx, e)
		switch {
		case err != nil || s.cfg.Store == nil:
			return st, err
		case sent && slices.Contains(st.rec.Codes, hash):
			return nil, fmt.Errorf("%w: it was sent before", ErrCodeRefused)
		}
		if _, err = s.write(ctx, e, st.raw, st.rec.withCode(hash, sent)); !errors.Is(err, ErrConflict) {
			return st, err
		}
	}
	return nil, errConflicts
}

// spent reports whether a code that was sent is no good any more: refused,
// taken by an answer that could not be read, or perhaps so by one that did not
// come. When the endpoint was out of order or throttling, or was never
// reached, it is good still.
func spent(err error) bool {
	var ee *EndpointError
	return errors.As(err, &ee) && ee.Sent && ee.Status < 500 && ee.Class != Throttled
}
