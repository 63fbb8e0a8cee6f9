package tokensource

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// entry is the state of one key.
type entry struct {
	key Key

	// cur is what a request may take without asking: tok, or nil while tok
	// must not be handed out before a renewal has been tried.
	cur  atomic.Pointer[Token]
	used atomic.Int64 // Unix nanoseconds, to the second

	mu      sync.Mutex // never held across I/O or a callback
	tok     *Token     // the newest token, be it expired or refused
	unsaved unsaved
	flight  *flight     // the renewal that runs, if any
	failure failure     // of the last renewal; zero after one that worked
	renewed time.Time   // when a token call last brought a token
	code    *codeMemory // nil: none
	timer   *time.Timer
	evicted bool
	size    int64 // in memory, see entries.weigh
	unread  bool  // the store could not be read at the start

	deadRefresh string // a refresh token that was refused
	lost        bool   // and only a person can bring the next
	setAside    string // sum of the damaged record that was set aside
	lastIntent  string // the last intent of this entry's own
	lastSent    bool   // and something was sent under it
}

// flight is one renewal, shared by all who wait for it.
type flight struct {
	done   chan struct{} // closed at the end, after tok and err are set
	why    Reason
	tok    *Token
	err    error
	forced *Token // the token that the API refused, if one did
	aside  bool   // it obtains nothing: it only writes, or only reads, the store

	// The flight's own:

	lease *lease // the right to renew, among processes; nil: none is needed
	// unsettled: the store could not be read, see errUnsettled.
	unsettled bool
	code      bool      // it exchanges a code
	asked     time.Time // when the call that brought the token began
	noSeed    bool      // the seed is known to be refused for good
}

// unsaved is the state of a token that the store has not taken yet, or that is
// to be looked after.
type unsaved struct {
	is        bool
	unsettled bool
	copy      bool      // another store has it, which was this one's before
	check     bool      // it was written: is it still there?
	tries     int       // that failed
	next      time.Time // when to try again
}

// pending reports whether the store is to be called for it.
func (u *unsaved) pending() bool { return u.is || u.check }

// failure is what is remembered of a renewal that did not work.
type failure struct {
	attempts  int       // in a row
	err       error     // nil: none
	until     time.Time // no attempt before
	permanent bool      // no attempt until the settings or the store change
}

// codeMemory remembers the last authorization code by its hash, so that a
// code that is handed over twice is sent once.
type codeMemory struct {
	sum [sha256.Size]byte
	err error
}

// recheckStore is how often a remembered refusal looks into the store, where
// another process may have put a newer token.
const recheckStore = 2 * time.Second

// mayTry reports whether a renewal may start now; if not, the error to give
// and how long until it may.
func (s *Source) mayTry(e *entry, now time.Time) (time.Duration, error) {
	if e.failure.err != nil && now.Before(e.failure.until) {
		return e.failure.until.Sub(now), e.failure.err
	}
	if until := s.throttled.Load(); until != nil && now.Before(*until) {
		return until.Sub(now), errThrottled
	}
	return 0, nil
}

var errThrottled = fmt.Errorf("the token endpoint asked for fewer calls: %w", ErrUnavailable)

// lock locks an entry, or the one that has taken its place since it was
// evicted.
func (s *Source) lock(ctx context.Context, e *entry) (*entry, error) {
	for {
		e.mu.Lock()
		if !e.evicted {
			return e, nil
		}
		e.mu.Unlock()
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		e = s.entry(e.key, time.Now())
	}
}

// await is Token's slow path: the token is due, expired, refused or missing.
func (s *Source) await(ctx context.Context, e *entry) (*Token, error) {
	giveUp := time.Now().Add(s.cfg.Patience)
	for {
		var err error
		if e, err = s.lock(ctx, e); err != nil {
			return nil, err
		}
		now := time.Now()
		t, f := e.tok, e.flight
		forced := f != nil && f.forced != nil
		st := stateAt(now, t)
		if st != expired && !forced {
			if st == due && f == nil {
				if _, err := s.mayTry(e, now); err == nil {
					s.launch(ctx, e, ReasonAhead, nil, s.renew)
				}
			}
			e.mu.Unlock()
			return t, nil
		}
		if e.failure.err != nil && s.inGrace(now, t) && (f != nil && !forced) {
			e.mu.Unlock() // a renewal is under way, after one that failed
			return t, nil
		}
		var wait time.Duration
		if f == nil {
			var err error
			if wait, err = s.mayTry(e, now); err != nil {
				e.mu.Unlock()
				if s.inGrace(now, t) {
					return t, nil
				}
				if final(err) {
					return nil, err
				}
				if now.Add(wait).After(giveUp) {
					return nil, &delayedError{err, wait}
				}
				if err := sleep(ctx, wait); err != nil {
					return nil, err
				}
				continue
			}
			reason := ReasonExpired
			if t == nil {
				reason = ReasonFirst
			}
			if f = s.launch(ctx, e, reason, nil, s.renew); f == nil {
				e.mu.Unlock()
				return nil, ErrClosed
			}
		}
		e.mu.Unlock()
		if err := f.wait(ctx); err != nil {
			return nil, err
		}
		if f.err == nil && !f.aside {
			return f.tok, nil
		}
	}
}

func (s *Source) inGrace(now time.Time, t *Token) bool {
	return t != nil && s.cfg.Grace > 0 && before(now, t.expiry.Add(s.cfg.Grace))
}

// Renew replaces a token that the API refused, and returns the one to use
// instead. If the current token is no longer the refused one, that is it, and
// nothing is renewed. Errors, besides those of Token: ErrTooSoon, and
// ErrSameToken. Whatever the error, the refused token stays: the API may be
// wrong.
func (s *Source) Renew(ctx context.Context, k Key, refused *Token) (*Token, error) {
	e := s.entry(k, time.Now())
	giveUp := time.Now().Add(s.cfg.Patience)
	for {
		var err error
		if e, err = s.lock(ctx, e); err != nil {
			return nil, err
		}
		now := time.Now()
		if e.tok == nil || e.tok.AccessToken() != refused.AccessToken() {
			e.mu.Unlock()
			return s.Token(ctx, k)
		}
		f := e.flight
		if f == nil {
			wait, err := s.mayForce(e, now)
			if err != nil {
				e.mu.Unlock()
				// A token that worked was revoked: worth the wait. One that never
				// did would be refused again.
				if final(err) || !refused.accepted.Load() || now.Add(wait).After(giveUp) {
					return nil, &delayedError{err, wait}
				}
				if err := sleep(ctx, wait); err != nil {
					return nil, err
				}
				continue
			}
			if f = s.launch(ctx, e, ReasonRefused, refused, s.renew); f == nil {
				e.mu.Unlock()
				return nil, ErrClosed
			}
		} else if f.forced == nil && !f.aside {
			f.forced = refused // the renewal that runs anyway answers for it
		}
		if !f.aside {
			e.cur.Store(nil) // nobody takes the refused token while its successor is on the way
		}
		e.mu.Unlock()
		if err := f.wait(ctx); err != nil {
			return nil, err
		}
		if !f.aside {
			return f.tok, f.err
		}
	}
}

// mayForce is mayTry for a renewal that the API's refusal asks for.
func (s *Source) mayForce(e *entry, now time.Time) (time.Duration, error) {
	if !s.CanRenew(e.tok) {
		return 0, ErrAuthorizationRequired
	}
	if wait, err := s.mayTry(e, now); err != nil {
		return wait, err
	}
	last := e.renewed
	if e.tok != nil && e.tok.issued.After(last) && !e.tok.issued.After(now) {
		last = e.tok.issued // by another process: the provider is one for all
	}
	if next := last.Add(s.cfg.MinInterval); now.Before(next) {
		return min(next.Sub(now), s.cfg.MinInterval), ErrTooSoon
	}
	return 0, nil
}

// Exchange gives the source an authorization code for the key. The code is
// sent once: the same code again returns the first outcome. It waits for the
// answer no longer than ctx, but the answer is taken whatever becomes of ctx.
func (s *Source) Exchange(ctx context.Context, k Key, c Code) (*Token, error) {
	g, ok := s.cfg.Grant.(CodeGrant)
	if !ok {
		return nil, fmt.Errorf("token source %s: its grant takes no code: %w", s.cfg.Name, errors.ErrUnsupported)
	}
	sum := sha256.Sum256([]byte(c.Code.Reveal()))
	e := s.entry(k, time.Now())
	for {
		var err error
		if e, err = s.lock(ctx, e); err != nil {
			return nil, err
		}
		if e.flight != nil { // one at a time; a first look into the store counts too
			f := e.flight
			e.mu.Unlock()
			if err := f.wait(ctx); err != nil {
				return nil, err
			}
			continue
		}
		if e.code != nil && e.code.sum == sum {
			t, err := e.tok, e.code.err
			e.mu.Unlock()
			return t, err
		}
		f := s.launch(ctx, e, ReasonCode, nil, func(ctx context.Context, e *entry, f *flight) (*Token, string, error) {
			return s.exchange(ctx, g, e, f, c, sum)
		})
		e.mu.Unlock()
		if f == nil {
			return nil, ErrClosed
		}
		if err := f.wait(ctx); err != nil {
			return nil, err
		}
		return f.tok, f.err
	}
}

// evict marks the entry as gone, unless that would lose something.
func (e *entry) evict(es *entries) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.flight != nil || e.unsaved.is || (es.keep && e.tok != nil) {
		return false
	}
	e.evicted = true
	es.bytes.Add(-e.size)
	return true
}

func (f *flight) wait(ctx context.Context) error {
	select {
	case <-f.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// damageIsNew reports whether a damaged record, named by its sum, was not seen
// before.
func (e *entry) damageIsNew(sum string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.setAside != sum
}

func (e *entry) damageSeen(sum string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.setAside = sum
}
