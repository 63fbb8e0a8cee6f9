package tokensource

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenendpoint"
	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenstore"
)

// The right to renew one stored token, among all processes that share the
// store. docs/decisions/0008-renewal-in-a-fleet.md says how and why.

const (
	// lapseAfter is for how long an intent must not have changed until its owner
	// is taken for dead. Some providers take a used refresh token for 15 s; a
	// killed holder is to be replaced within 10.
	lapseAfter = 5 * time.Second
	// lapseSoon is the same where nothing is lost by asking twice, and the least.
	lapseSoon = 2500 * time.Millisecond
	// lapseMax bounds what an intent may ask for.
	lapseMax = time.Minute
	// beatEvery is how often a live owner changes its intent.
	beatEvery = time.Second
	// pollEvery is how often another's intent is looked at, and up to as much
	// again at random.
	pollEvery = 100 * time.Millisecond
)

// errLeaseLost: another process took this one for dead, and renews.
var errLeaseLost = fmt.Errorf("another process took the renewal over: %w", ErrUnavailable)

// lease is one renewal's. Its flight alone uses it, but while a call is under
// way: then the beat does.
type lease struct {
	s *Source
	e *entry

	raw  []byte            // the record as it was last written
	rec  tokenstore.Record // the same, with the intent
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

// keep counts the intent's beat up until stop is called, so that a slow call is
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
		for sleep(ctx, beatEvery) == nil {
			if l.beat(context.WithoutCancel(ctx)) != nil {
				return
			}
		}
	}()
	return func() {
		cancel()
		<-done
	}
}

// beat writes the intent once more. The error is errLeaseLost; a store that
// does not take it may do so the next time.
func (l *lease) beat(ctx context.Context) error {
	next := l.rec
	i := *l.rec.Lease
	i.Heartbeat++
	i.TTL = l.s.lapse(&l.rec).Milliseconds()
	next.Lease = &i
	now := time.Now()
	raw, err := l.s.write(ctx, l.e, l.raw, &next)
	switch {
	case err == nil:
		l.raw, l.rec = raw, next
		l.sure(now)
	case errors.Is(err, tokenstore.ErrConflict):
		// It may be our own, of a beat whose outcome did not reach us, or with a code
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
	if err := l.beat(ctx); err != nil {
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
	l.e.mu.Lock()
	l.e.lastSent = true
	l.e.mu.Unlock()
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

// release withdraws the intent of a call that brought no token. What it said of
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
		case grantRefused(err, l.rec.Doubt > 0):
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

// withdraw writes the record without the intent, unless that is no longer
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

// uncertain reports whether a call may have used up what was sent with it.
func uncertain(err error) bool {
	var ee *tokenendpoint.Error
	return errors.As(err, &ee) && ee.Sent && (ee.Status == 0 || ee.Status < 300)
}
