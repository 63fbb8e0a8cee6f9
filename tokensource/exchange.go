package tokensource

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"

	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenendpoint"
	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenstore"
)

// exchange is the renewal by an authorization code. It waits for nobody: what
// a person brought last is what holds, and a renewal elsewhere finds it.
func (r *renewal) exchange(ctx context.Context, g CodeGrant, c Code, sum [sha256.Size]byte) (*Token, error) {
	s, e := r.s, r.e
	cur := e.current()
	r.code = true
	leave, err := s.enterCode(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	st, err := s.note(ctx, e, tokenstore.CodeHash(sum), true) // the generation goes on where the stored one is
	switch {
	case errors.Is(err, tokenstore.ErrUnreadable):
		return nil, unreadable{err}
	case errors.Is(err, ErrCodeRefused):
		return nil, err
	case err != nil:
		// The person is here now: their code is not refused over a store.
		s.log.Warn("token store fails; a code is exchanged without it", "source", s.cfg.Name, "error", err)
		r.unsettled = true
	case newer(st.token, cur):
		cur = st.token
	case cur != nil:
		cur.refresh.recall(st.rec.RefreshToken)
	}
	s.gate.push()
	r.entered = true
	res, err := r.call(ctx, callCode, func(ctx context.Context) (*tokenendpoint.Response, error) {
		return g.Exchange(ctx, Vars{s.cfg.KeyNames, e.key}, c)
	})
	r.leave()
	var t *Token
	if brings(res) && err != nil {
		// The code was good, though its token is dead. A refresh may bring a living one.
		if err = r.bury(ctx, cur, res, nil, err); errors.Is(err, errRevive) {
			r.code = false // what holds is no longer what a person brought last
			if t, err = r.renew(ctx); err == nil {
				t.byCode = true
			}
		}
		e.codeSent(codeMemory{sum: sum, err: err})
		return t, err
	}
	if err == nil {
		// Google gives a refresh token at the first consent alone, and it stays good.
		t, err = r.take(ctx, cur, res, cur != nil && !cur.orphan.Load())
	}
	if err != nil && (res != nil || spent(err)) {
		err = fmt.Errorf("%w: %w", ErrCodeRefused, err)
	}
	switch {
	case err == nil || errors.Is(err, ErrCodeRefused):
		e.codeSent(codeMemory{sum: sum, err: err})
	case s.store != nil: // it may be handed over once more
		if _, err := s.note(context.WithoutCancel(ctx), e, tokenstore.CodeHash(sum), false); err != nil {
			s.log.Warn("a code that was not used up stays noted as sent", "source", s.cfg.Name, "key", e.key.String(), "error", err)
		}
	}
	r.via = viaGrant
	return t, err
}

// note writes into the record that a code is about to be sent, or that it was
// not used up after all. A code that was sent before, by whomever, is an
// ErrCodeRefused: a second use makes providers revoke what the first brought
// (RFC 6749, section 4.1.2).
func (s *Source) note(ctx context.Context, e *entry, hash string, sent bool) (*stored, error) {
	for range maxConflicts {
		st, err := s.read(ctx, e)
		switch {
		case err != nil || s.store == nil:
			return st, err
		case sent && slices.Contains(st.rec.Codes, hash):
			return nil, fmt.Errorf("%w: it was sent before", ErrCodeRefused)
		}
		if _, err = s.write(ctx, e, st.raw, st.rec.WithCode(hash, sent)); !errors.Is(err, tokenstore.ErrConflict) {
			return st, err
		}
	}
	return nil, errConflicts
}
