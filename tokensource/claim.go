package tokensource

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenstore"
)

// claim takes the lease of the entry's record. enough is asked of each reading
// whether that ends it: with what somebody else has stored (done), or with an
// error. Then, and where nothing needs a lease, there is none.
func (s *Source) claim(ctx context.Context, e *entry, call Reason, cur *Token, enough func(*stored) (bool, error)) (st *stored, l *lease, done bool, err error) {
	var w watch
	noted := false
	for {
		if st, err = s.read(ctx, e); err != nil {
			return nil, nil, false, err
		}
		if done, err = enough(st); done || err != nil || s.needsNoLease(st, cur) {
			return st, nil, done, err
		}
		if other := st.rec.Lease; other != nil && !s.left(e, other) {
			if !w.lapsed(time.Now(), other) && !s.store.Dead(ctx, other.By) {
				if sleep(ctx, pollEvery+time.Duration(random()*float64(pollEvery))) != nil || s.draining.Load() {
					return st, nil, false, fmt.Errorf("another process is renewing the token: %w", ErrUnavailable)
				}
				continue
			}
		}
		if s.notesPending() && !noted {
			if err = s.notePending(ctx, e.key); err != nil {
				return nil, nil, false, err
			}
			noted = true
		}
		l, err = s.intend(ctx, e, call, st, cur)
		switch {
		case errors.Is(err, tokenstore.ErrConflict):
			continue // another contender won
		case err != nil:
			return nil, nil, false, err
		}
		return st, l, false, nil
	}
}

// needsNoLease reports whether a renewal needs no leave of others: there are
// none, or it is the first grant of one key of many, which can be repeated; an
// intent would leave a record behind for every key that is refused.
func (s *Source) needsNoLease(st *stored, cur *Token) bool {
	return s.store == nil || (s.single == nil && st.raw == nil && cur == nil && !s.cfg.Grant.NeedsPerson())
}

// lapse is for how long an intent asks to be waited for: longer where the store
// is slow, for what is written may be seen as late as that.
func (s *Source) lapse(rec *tokenstore.Record) time.Duration {
	d := lapseSoon
	if s.cfg.Grant.NeedsPerson() || rec.RefreshToken != "" {
		d = lapseAfter
	}
	return min(d+2*s.store.WriteTook(), lapseMax)
}

// watch observes another's intent by this process's own clock: what the other's
// clock says counts for nothing.
type watch struct {
	id    string
	beat  uint64
	since time.Time
}

func (w *watch) lapsed(now time.Time, other *tokenstore.Lease) bool {
	if w.id != other.ID || w.beat != other.Heartbeat {
		*w = watch{other.ID, other.Heartbeat, now}
	}
	return now.Sub(w.since) >= min(max(time.Duration(other.TTL)*time.Millisecond, lapseSoon), lapseMax)
}

// left reports whether an intent is one that this entry could not withdraw.
func (s *Source) left(e *entry, i *tokenstore.Lease) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.lastIntent == i.ID
}

const lostWrite = "token store has lost a write: an older token is there than was written; it is written again"

// intend writes an intent over what was read. If the store has less than memory,
// because it lost a write or never got it, memory's token goes back with it.
func (s *Source) intend(ctx context.Context, e *entry, call Reason, st *stored, cur *Token) (*lease, error) {
	l := &lease{s: s, e: e, rec: *st.rec}
	back := newer(cur, st.token)
	if back {
		e.mu.Lock()
		unsaved := e.unsaved.is
		e.mu.Unlock()
		if !unsaved {
			s.log.Error(lostWrite, "source", s.cfg.Name, "key", e.key.String(), "stored_generation", st.rec.Generation, "generation", cur.generation)
		}
		l.rec = tokenstore.Record{Renewed: st.rec.Renewed, Codes: st.rec.Codes}
		put(&l.rec, cur)
	} else if other := st.rec.Lease; other != nil {
		left := s.left(e, other)
		if !left || e.sentUnder(other) {
			l.rec.Doubt++
		}
		if !left {
			s.log.Warn("a renewal was cut off before its outcome was stored: it is tried again",
				"source", s.cfg.Name, "key", e.key.String(), "by", other.By, "at", other.At, "call", other.Call, "times", l.rec.Doubt)
		}
	}
	l.rec.Lease = &tokenstore.Lease{ID: rand.Text(), Stamp: s.store.Stamp(), Call: string(call), TTL: s.lapse(&l.rec).Milliseconds()}
	e.mu.Lock()
	e.lastIntent, e.lastSent = l.rec.Lease.ID, false
	e.mu.Unlock()
	now := time.Now()
	raw, err := s.write(ctx, e, st.raw, &l.rec)
	if err != nil {
		return nil, err
	}
	l.raw = raw
	l.sure(now)
	if back {
		s.settle(e, cur)
	}
	return l, nil
}

// sentUnder reports whether anything was sent under an intent of this entry's.
func (e *entry) sentUnder(i *tokenstore.Lease) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.lastIntent == i.ID && e.lastSent
}
