package tokensource

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenstore"
)

// checkAfter is how long after it was written it is looked whether a refresh
// token is still in the store. A fail-over may lose the last write and leave
// the intent before it: then others send the old refresh token after
// lapseAfter, unless the new one is written back before.
const checkAfter = 2 * time.Second

// errUnsettled: the store could not be read, so what generation the token is
// of is known only when it is written.
var errUnsettled = errors.New("the store could not be read before")

// save writes a token over the intent of the renewal that brought it. The end
// of ctx does not cut it off: by then the provider has given the token, and
// may give no other. If somebody else has stored one meanwhile, that one is
// returned, unless ours is what a person brought just now.
func (s *Source) save(ctx context.Context, e *entry, f *flight, t *Token) (*Token, error) {
	if s.store == nil {
		return t, nil
	}
	ctx = context.WithoutCancel(ctx)
	at := s.store.Stamp()
	over := f.lease.written()
	for range maxConflicts {
		if over != nil {
			rec := tokenstore.Record{Renewed: &at, Codes: over.rec.Codes}
			put(&rec, t)
			if _, err := s.write(ctx, e, over.raw, &rec); !errors.Is(err, tokenstore.ErrConflict) {
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
					"generation", st.rec.Generation, "by", st.rec.Writer())
			}
			return st.token, nil
		}
		over = st
	}
	return t, errConflicts
}

// maxConflicts bounds the writes that meet somebody else's.
const maxConflicts = 50

var errConflicts = storeFailed(&tokenstore.Error{Err: fmt.Errorf("%d times in a row: %w", maxConflicts, tokenstore.ErrConflict)})

// rewrite writes a token that the store did not take before. If another
// process has written a newer one meanwhile, that one is taken instead.
func (s *Source) rewrite(ctx context.Context, e *entry, _ *flight) (*Token, string, error) {
	e.mu.Lock()
	was, state := e.tok, e.unsaved
	e.mu.Unlock()
	cur, at := was, s.store.Stamp()
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
			rec = tokenstore.Record{Renewed: &at, Codes: st.rec.Codes}
			put(&rec, cur)
			if cur.orphan.Load() {
				rec.Refused = &at
			}
		}
		_, err = s.write(context.WithoutCancel(ctx), e, st.raw, &rec)
		switch {
		case errors.Is(err, tokenstore.ErrConflict):
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
