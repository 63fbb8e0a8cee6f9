package tokensource

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenstore"
)

// What happens to a source as a whole: at the start, when settings are loaded
// again, when its store is another one, at the end.

// Resume lets a source without keys look for its token in the store, and obtain
// one if there is none, unless it is Lazy or needs a person for that: so it is
// known from the start whether the settings work, and the token is renewed with
// no traffic at all. One with keys looks for renewals that were cut off. It
// returns at once. If the store fails, it looks again until it does not.
func (s *Source) Resume() {
	if s.notesPending() && s.resumed.CompareAndSwap(false, true) {
		go s.resumePending()
	}
	if s.single == nil {
		return
	}
	e := s.single
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.tok != nil || e.flight != nil:
	case s.store != nil:
		s.launch(s.life, e, reasonResume, nil, (*renewal).look)
	case s.Eager():
		s.launchUrgent(s.life, e, ReasonFirst, nil, (*renewal).renew, false)
	}
}

// Eager reports whether the first token is obtained before it is wanted, see
// [Source.Resume].
func (s *Source) Eager() bool {
	return s.single != nil && !s.cfg.Lazy && (!s.grant.Interactive || !s.grant.InitialRefreshToken.Empty())
}

// look takes what is stored. It calls no provider, unless the very first call
// was cut off.
func (r *renewal) look(ctx context.Context) (*Token, error) {
	st, err := r.s.read(ctx, r.e)
	if errors.Is(err, tokenstore.ErrUnreadable) {
		err = unreadable{err}
	}
	if err != nil {
		return nil, err
	}
	cur := r.e.current()
	if cur == nil && !newer(st.token, cur) && st.rec.Lease != nil {
		return r.renew(ctx)
	}
	r.via = viaStore
	if newer(st.token, cur) {
		return st.token, nil
	}
	return cur, nil
}

// Retry has everything tried again that was refused or failed, at once: also
// refresh tokens that count as refused for good, in this process and in the
// store, for somebody says that they are good. It is for a person who has put
// something right. The error is the store's.
func (s *Source) Retry(ctx context.Context) error {
	var errs []error
	s.each(func(e *entry) {
		if err := s.forgive(ctx, e); err != nil {
			errs = append(errs, err)
		}
	})
	s.Reconsider(false)
	return errors.Join(errs...)
}

// RetryKey is Retry for one key. The error is ErrKey, or the store's.
func (s *Source) RetryKey(ctx context.Context, k Key) error {
	e, err := s.entry(k, time.Now())
	if err != nil {
		return err
	}
	if err := s.forgive(ctx, e); err != nil {
		return err
	}
	s.gate.reconsider(false)
	s.reconsider(e, time.Now())
	return nil
}

// forgive takes back that the entry's refresh token is refused for good.
func (s *Source) forgive(ctx context.Context, e *entry) error {
	if !e.forgive() || s.store == nil {
		return nil
	}
	for range maxConflicts {
		st, err := s.read(ctx, e)
		if err != nil || st.raw == nil || st.rec.Refused == nil {
			return err
		}
		rec := *st.rec
		rec.Refused = nil
		if _, err = s.write(ctx, e, st.raw, &rec); !errors.Is(err, tokenstore.ErrConflict) {
			return err
		}
	}
	return errConflicts
}

// lookEvery is how often a source without keys that was refused for good looks
// into the store, where another process may have put what a person brought.
const lookEvery = 10 * time.Second

// looks reports whether only the store can help the source's one token, or it
// could not be read at the start. The caller holds e.mu.
func (s *Source) looks(e *entry, now time.Time) bool {
	return s.single != nil && s.store != nil &&
		(now.Before(e.failure().callAt) || (e.unread && e.tok == nil && e.failure().err == nil))
}

// Reconsider has the refusals that are remembered looked at again at once: what
// was wrong may have been put right. newClient says that the client's
// credentials are others now. Refresh tokens that are refused for good stay so:
// see [Source.Retry].
func (s *Source) Reconsider(newClient bool) {
	s.gate.reconsider(newClient)
	now := time.Now()
	s.each(func(e *entry) { s.reconsider(e, now) })
}

// reconsider has one entry's refusal looked at again, by its timer if it has one.
func (s *Source) reconsider(e *entry, now time.Time) {
	if !e.reconsider() {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.flight == nil && !e.evicted {
		s.schedule(e, now)
	}
}

// StoreChanged tells that the store is another one: the tokens are written to
// it too, unless it has newer ones.
func (s *Source) StoreChanged() {
	s.storeChanges.Add(1) // a write under way goes to the old one
	now := time.Now()
	n := 0
	s.each(func(e *entry) {
		e.mu.Lock()
		defer e.mu.Unlock()
		// one after the other: a store is not built for all of them at once
		if e.copyLater(now.Add(backoffMin + time.Duration(n)*copyEvery)) {
			n++
			if e.flight == nil {
				s.schedule(e, now)
			}
		}
	})
}

// copyEvery is the distance between tokens that are written to another store.
const copyEvery = time.Millisecond

// Drain is called before Flush when the process is about to end: no renewal
// waits for another process's any more, or it might begin its call too late.
func (s *Source) Drain() { s.draining.Store(true) }

// Flush waits for the renewals in flight and writes what is not written yet.
func (s *Source) Flush(ctx context.Context) error {
	var wg sync.WaitGroup
	var mu sync.Mutex
	var errs []error
	turn := make(chan struct{}, flushAtOnce)
	s.each(func(e *entry) {
		e.mu.Lock()
		busy := e.flight != nil || e.unsaved().is
		e.mu.Unlock()
		if !busy {
			return
		}
		turn <- struct{}{}
		wg.Go(func() {
			defer func() { <-turn }()
			if err := s.flush(ctx, e); err != nil {
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, err)
			}
		})
	})
	wg.Wait()
	return errors.Join(errs...)
}

// flushAtOnce is how many tokens are written at once at the end.
const flushAtOnce = 16

func (s *Source) flush(ctx context.Context, e *entry) error {
	e.mu.Lock()
	f := e.flight
	e.mu.Unlock()
	if f != nil && f.wait(ctx) != nil {
		return fmt.Errorf("token source %s: a renewal was cut off: %w", s.cfg.Name, ctx.Err())
	}
	e.mu.Lock()
	unwritten := e.unsaved().is
	e.mu.Unlock()
	if !unwritten {
		return nil
	}
	if _, err := (&renewal{s: s, e: e}).rewrite(ctx); err != nil {
		return fmt.Errorf("token source %s: a token was not stored: %w", s.cfg.Name, err)
	}
	return nil
}

// Close ends the source: timers stop and no renewal begins. A renewal in
// flight is finished and written, no longer than ctx: a refresh token may
// hang on its answer. What could not be written so far is tried once more.
func (s *Source) Close(ctx context.Context) error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.Drain()
	defer s.end()
	defer s.gate.close()
	s.each((*entry).stopTimer)
	return s.Flush(ctx)
}

func (s *Source) isClosed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

// schedule sets the timer: of a source without keys, so that its token is
// renewed, and its failures are mended, with no traffic at all: there will be
// none as long as this process is reported as not ready. And of a token that is
// not stored yet. The caller holds e.mu.
func (s *Source) schedule(e *entry, now time.Time) {
	f, u := e.failure(), e.unsaved()
	wait, ok := time.Duration(0), false
	switch {
	case s.single == nil:
	case s.looks(e, now):
		wait, ok = lookEvery, true
		if e.unread {
			wait = storeRetryMax
		}
		if at := f.callAt.Sub(now); at > 0 {
			wait = min(wait, at)
		}
	case f.err != nil && !f.callAt.IsZero() && f.callAt.Sub(now) > never/2:
	default:
		wait, ok = nextWake(now, e.tok)
		if f.err != nil {
			wait, ok = max(wait, f.until.Sub(now), f.callAt.Sub(now), s.opens(e, now)), true
		}
	}
	if u.due() {
		if write := u.next.Sub(now); !ok || write < wait {
			wait, ok = write, true
		}
	}
	if !ok {
		e.noTimer()
		return
	}
	if s.isClosed() {
		return
	}
	// Not even a clock that jumps makes this a busy loop.
	wait = max(wait, backoffMin)
	e.wakeAfter(wait, func() { s.wake(e) })
}

// opens returns how long it takes until the gate lets a renewal through that
// nobody waits for. The caller holds e.mu.
func (s *Source) opens(e *entry, now time.Time) time.Duration {
	wait := s.gate.wakes().Sub(now)
	if hurryAt := e.failure().hurryAt; !hurryAt.IsZero() {
		wait = min(wait, max(hurryAt.Sub(now), probeEvery))
	}
	return wait
}

// wake does what the timer was set for.
func (s *Source) wake(e *entry) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.flight != nil || e.evicted {
		return // a flight schedules the next
	}
	now, u := time.Now(), e.unsaved()
	_, err := s.mayTry(e, now, false)
	switch st := stateAt(now, e.tok); {
	case s.single != nil && st != fresh && err == nil && !s.looks(e, now):
		s.launchUrgent(s.life, e, ReasonAhead, nil, (*renewal).renew, s.hurries(e, now))
	case u.due() && !now.Before(u.next):
		s.launch(s.life, e, reasonWrite, nil, (*renewal).rewrite)
	case s.looks(e, now):
		s.launch(s.life, e, reasonResume, nil, (*renewal).look)
	default:
		s.schedule(e, now)
	}
}
