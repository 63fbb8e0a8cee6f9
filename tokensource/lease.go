package tokensource

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/caddy-bearer/caddy-bearer/internal/sleep"
	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenendpoint"
	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenstore"
)

// The right to renew one stored token, among all processes that share the
// store. docs/decisions/0008-renewal-in-a-fleet.md says how and why.

const (
	// leaseTTL is for how long a lease must not have changed until its holder
	// is taken for dead. Some providers take a used refresh token for 15 s; a
	// killed holder is to be replaced within 10.
	leaseTTL = 5 * time.Second
	// minLeaseTTL is the same where nothing is lost by asking twice, and the least.
	minLeaseTTL = 2500 * time.Millisecond
	// maxLeaseTTL bounds what a lease may ask for.
	maxLeaseTTL = time.Minute
	// heartbeatEvery is how often a live holder changes its lease.
	heartbeatEvery = time.Second
	// pollEvery is how often another's lease is read, and up to as much
	// again at random.
	pollEvery = 100 * time.Millisecond
)

// errLeaseLost: another process took this one for dead, and renews.
var errLeaseLost = fmt.Errorf("another process took the renewal over: %w", ErrUnavailable)

// claim takes the lease of the entry's record. enough is asked of each reading
// whether that ends it: with what somebody else has stored (done), or with an
// error. Then, and where nothing needs a lease, there is none.
func (r *renewal) claim(ctx context.Context, cur *Token, enough func(*stored) (bool, error)) (st *stored, l *lease, done bool, err error) {
	s, e := r.s, r.e
	var w watch
	for {
		if st, err = s.read(ctx, e); err != nil {
			return nil, nil, false, err
		}
		if done, err = enough(st); done || err != nil {
			return st, nil, done, err
		}
		switch waited, err := r.enter(ctx); {
		case err != nil:
			return st, nil, false, err
		case waited && s.store != nil:
			continue // it may have changed meanwhile
		}
		if s.needsNoLease(st, cur) {
			return st, nil, false, nil
		}
		if other := st.rec.Lease; other != nil && !own(e, other) {
			if !w.expired(time.Now(), other) && !s.store.Dead(ctx, other.By) {
				r.leave() // another process makes the call
				if sleep.For(ctx, pollEvery+time.Duration(random()*float64(pollEvery))) != nil || s.draining.Load() {
					return st, nil, false, fmt.Errorf("another process is renewing the token: %w", ErrUnavailable)
				}
				continue
			}
		}
		if s.notesPending() && !r.noted {
			if err = s.notePending(ctx, e.key); err != nil {
				return nil, nil, false, err
			}
			r.noted = true
		}
		l, err = s.takeLease(ctx, e, r.why, st, cur)
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
// none, or it is the first grant of one key of many, which can be repeated; a
// lease would leave a record behind for every key that is refused.
func (s *Source) needsNoLease(st *stored, cur *Token) bool {
	return s.store == nil || (s.single == nil && st.raw == nil && cur == nil && !s.grant.Interactive)
}

// ttl is for how long a lease asks to be waited for. It is longer where the store
// is slow, for what is written may be seen as late as that.
func (s *Source) ttl(rec *tokenstore.Record) time.Duration {
	d := minLeaseTTL
	if s.grant.Interactive || rec.RefreshToken != "" {
		d = leaseTTL
	}
	return min(d+2*s.store.WriteTook(), maxLeaseTTL)
}

// watch observes another's lease by this process's own clock: what the other's
// clock says counts for nothing.
type watch struct {
	id    string
	count uint64
	since time.Time
}

func (w *watch) expired(now time.Time, other *tokenstore.Lease) bool {
	if w.id != other.ID || w.count != other.Heartbeat {
		*w = watch{other.ID, other.Heartbeat, now}
	}
	return now.Sub(w.since) >= min(max(time.Duration(other.TTL)*time.Millisecond, minLeaseTTL), maxLeaseTTL)
}

// own reports whether a lease is one that this entry could not give back.
func own(e *entry, l *tokenstore.Lease) bool {
	own, _ := e.ownLease(l.ID)
	return own
}

const lostWrite = "token store has lost a write: an older token is there than was written; it is written again"

// takeLease writes a lease over what was read. If the store has less than memory,
// because it lost a write or never got it, memory's token goes back with it.
func (s *Source) takeLease(ctx context.Context, e *entry, call Reason, st *stored, cur *Token) (*lease, error) {
	l := &lease{s: s, e: e, rec: *st.rec}
	back := newer(cur, st.token)
	if back {
		e.mu.Lock()
		unsaved := e.unsaved().is
		e.mu.Unlock()
		if !unsaved {
			s.log.Error(lostWrite, "source", s.cfg.Name, "key", e.key.String(), "stored_generation", st.rec.Generation, "generation", cur.generation)
		}
		l.rec = tokenstore.Record{Renewed: st.rec.Renewed, Codes: st.rec.Codes}
		put(&l.rec, cur)
	} else if other := st.rec.Lease; other != nil {
		own, sent := e.ownLease(other.ID)
		if !own || sent {
			l.rec.Doubt++
		}
		if !own {
			s.log.Warn("a renewal was cut off before its outcome was stored: it is tried again",
				"source", s.cfg.Name, "key", e.key.String(), "by", other.By, "at", other.At, "call", other.Call, "times", l.rec.Doubt)
		}
	}
	l.rec.Lease = &tokenstore.Lease{ID: rand.Text(), Stamp: s.store.Stamp(), Call: string(call), TTL: s.ttl(&l.rec).Milliseconds()}
	e.leaseTaken(l.rec.Lease.ID)
	now := time.Now()
	raw, err := s.write(ctx, e, st.raw, &l.rec)
	if err != nil {
		return nil, err
	}
	l.raw = raw
	l.sure(now)
	if back {
		e.written(cur)
	}
	return l, nil
}

// lease is one renewal's. Its flight alone uses it, but while a call is under
// way: then the heartbeat does.
type lease struct {
	s *Source
	e *entry

	raw  []byte            // the record as it was last written
	rec  tokenstore.Record // the same, with the lease
	lost bool              // another process has taken it over
	sent string            // the refresh token that was sent under it

	// until is until when the lease is surely this process's. The call under way
	// asks too, before it sends.
	until atomic.Pointer[time.Time]
}

// sure notes that the record was written, not before now: for half the time
// that others wait, the lease is surely this process's.
func (l *lease) sure(now time.Time) {
	until := now.Add(time.Duration(l.rec.Lease.TTL) * time.Millisecond / 2)
	l.until.Store(&until)
}

// keep counts the lease's heartbeat up until stop is called, so that a slow call is
// not taken for a dead process. stop waits until nothing is written any more: a
// write that is cut off may come after what is written next.
func (l *lease) keep(ctx context.Context) (stop func()) {
	if l == nil {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for sleep.For(ctx, heartbeatEvery) == nil {
			if l.heartbeat(context.WithoutCancel(ctx)) != nil {
				return
			}
		}
	}()
	return func() {
		cancel()
		<-done
	}
}

// heartbeat writes the lease once more. The error is errLeaseLost; a store that
// does not take it may do so the next time.
func (l *lease) heartbeat(ctx context.Context) error {
	next := l.rec
	i := *l.rec.Lease
	i.Heartbeat++
	i.TTL = l.s.ttl(&l.rec).Milliseconds()
	next.Lease = &i
	now := time.Now()
	raw, err := l.s.write(ctx, l.e, l.raw, &next)
	switch {
	case err == nil:
		l.raw, l.rec = raw, next
		l.sure(now)
	case errors.Is(err, tokenstore.ErrConflict):
		// It may be our own, of a heartbeat whose outcome did not reach us, or with a code
		// that was noted meanwhile.
		st, err := l.s.read(ctx, l.e)
		switch {
		case err != nil:
		case st.rec.Lease != nil && st.rec.Lease.ID == i.ID:
			l.raw, l.rec = st.raw, *st.rec
		default:
			l.lost = true
			l.until.Store(new(time.Time))
			return errLeaseLost
		}
	}
	return nil
}

// ensure is called before anything is sent. If the lease was not written for
// so long that others may soon take it, for the host slept or the store is
// slow, it is written again first; if that fails nothing may be sent.
func (l *lease) ensure(ctx context.Context) error {
	switch {
	case l == nil:
		return nil
	case l.lost:
		return errLeaseLost
	case l.good():
		return nil
	}
	if err := l.heartbeat(ctx); err != nil {
		return err
	}
	if !l.good() {
		return storeFailed(&tokenstore.Error{Err: errors.New("too slow to renew safely")})
	}
	return nil
}

// good reports whether the lease is surely this process's for a while.
func (l *lease) good() bool {
	return before(time.Now(), *l.until.Load())
}

// calling gives a call its lease: just before it sends, the call asks whether
// the lease is still sure. What it waited for, another source's token, say, may
// have taken longer.
func (l *lease) calling(ctx context.Context) context.Context {
	if l == nil {
		return ctx
	}
	l.e.callSent()
	return tokenendpoint.WithBeforeSend(ctx, func() error {
		if !l.good() {
			return errLeaseLost
		}
		return nil
	})
}

// written returns the record as the lease last wrote it, and nil when there is
// none, or another process has taken it over.
func (l *lease) written() *stored {
	if l == nil || l.lost {
		return nil
	}
	return &stored{raw: l.raw, rec: &l.rec}
}

// sends notes which refresh token is about to be sent.
func (l *lease) sends(refresh tokenendpoint.Secret) {
	if l != nil {
		l.sent = refresh.Reveal()
	}
}

// inDoubt reports whether the refresh token may have been used before.
func (l *lease) inDoubt() bool { return l != nil && l.rec.Doubt > 0 }

// release gives back the lease of a call that brought no token. What it said of
// the refresh token stays in the record, for all who share it.
func (l *lease) release(ctx context.Context, err error) {
	if l == nil || l.lost {
		return
	}
	next := l.rec
	next.Lease = nil
	// what is said of another refresh token than the record's, or of a grant, is
	// not said of that
	if l.sent != "" && (l.sent == next.RefreshToken || next.Generation == 0) {
		switch {
		case FaultOf(err) == FaultConsent:
			at := l.s.store.Stamp()
			next.Refused = &at
		case uncertain(err):
			next.Doubt++
		}
	}
	if err := l.withdraw(context.WithoutCancel(ctx), &next); err != nil {
		l.s.log.Warn("a renewal that failed could not be withdrawn from the token store: others wait for it a while",
			"source", l.s.cfg.Name, "key", l.e.key.String(), "error", err)
	}
}

// withdraw writes the record without the lease, unless that is no longer
// there. A code may have been noted beside it.
func (l *lease) withdraw(ctx context.Context, next *tokenstore.Record) error {
	raw := l.raw
	for range maxConflicts {
		if _, err := l.s.write(ctx, l.e, raw, next); !errors.Is(err, tokenstore.ErrConflict) {
			return err
		}
		st, err := l.s.read(ctx, l.e)
		if err != nil {
			return err
		}
		if st.rec.Lease == nil || st.rec.Lease.ID != l.rec.Lease.ID {
			return nil
		}
		raw, next.Codes = st.raw, st.rec.Codes
	}
	return errConflicts
}
