package tokensource

import (
	"context"
	"errors"
	"time"

	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenstore"
)

// checkAfter is the delay before a newly written refresh token is read back. A
// fail-over of the store may lose the last write and leave the lease before it.
// Then others send the old refresh token after leaseTTL, unless the new one is
// written again first.
const checkAfter = 2 * time.Second

// rewrite writes a token that the store did not take before. If another
// process has written a newer one meanwhile, that one is taken instead.
func (r *renewal) rewrite(ctx context.Context) (*Token, error) {
	s, e := r.s, r.e
	r.via = viaStore
	e.mu.Lock()
	was, state := e.tok, e.unsaved()
	e.mu.Unlock()
	cur, at := was, s.store.Stamp()
	for range maxConflicts {
		st, err := s.read(ctx, e)
		if err != nil {
			return nil, err
		}
		cur.refresh.recall(st.rec.RefreshToken)
		same := st.token != nil && st.rec.Generation == cur.generation && st.token.AccessToken() == cur.AccessToken()
		switch {
		case same && !state.is: // and durable
			e.written(was)
			return cur, nil
		case same: // written, perhaps, but not known to be durable
		case state.unsettled && st.rec.Generation >= cur.generation:
			cur = cur.withGeneration(st.rec.Generation + 1)
		case st.token != nil && st.rec.Generation >= cur.generation:
			e.written(was)
			return st.token, nil // somebody else got there first
		}
		rec := *st.rec // of this very token: another's lease, doubt and refusal stay
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
			return nil, err
		}
		e.written(was)
		return cur, nil
	}
	return nil, errConflicts
}
