package tokensource

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"
)

// Store keeps a source's records, for one process or for many that share it.
// Keys are hexadecimal hashes and a slash; values are opaque. See
// docs/decisions/0008-renewal-in-a-fleet.md for what hangs on it.
type Store interface {
	// Load returns the value under key. An error that is [fs.ErrNotExist] says
	// that there is none, and that the store has just shown that it answers:
	// an engine that is down must not look empty.
	Load(ctx context.Context, key string) ([]byte, error)
	// Swap replaces the value under key if it is old, which is what Load gave;
	// nil: if there is none. [ErrConflict] says that something else is there,
	// and that nothing was changed. After any other error the value may or may
	// not have been written. It returns when the value is durable: a token is
	// used only after that.
	Swap(ctx context.Context, key string, old, value []byte) error
}

// ErrConflict is a Store's answer when another process was faster.
var ErrConflict = errors.New("the stored value has changed")

// LivenessStore is a Store that may know whether a process that shares it
// still runs, so that what a dead one left behind is cleared up at once.
type LivenessStore interface {
	Store
	// Instance names this process to the others, for as long as it lives.
	Instance() string
	// Dead reports whether the process of that name surely runs no more. When
	// it cannot be known, it does not.
	Dead(ctx context.Context, instance string) bool
}

const (
	// storeTimeout bounds one call of the store.
	storeTimeout = 10 * time.Second
	// A grant that can be repeated does not wait as long for a store: it goes on
	// without, sooner if the store is known to fail.
	storeTimeoutSoon  = 3 * time.Second
	storeTimeoutKnown = 500 * time.Millisecond
)

// bounded makes a call of the store that may not heed its context.
func bounded[T any](ctx context.Context, call func(context.Context) (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	go func() {
		value, err := call(ctx)
		done <- result{value, err}
	}()
	select {
	case r := <-done:
		return r.value, r.err
	case <-ctx.Done():
		select { // both, when the store heeds it: what it says counts for more
		case r := <-done:
			return r.value, r.err
		default:
			var none T
			return none, ctx.Err()
		}
	}
}

// storeError is a failure of the store, not of the provider.
type storeError struct{ err error }

func (e *storeError) Error() string        { return "token store: " + e.err.Error() }
func (e *storeError) Unwrap() error        { return e.err }
func (e *storeError) Is(target error) bool { return target == ErrUnavailable }

// ofStore reports whether an error is of the store.
func ofStore(err error) bool {
	var store *storeError
	return errors.As(err, &store)
}

// stored is what the store has of one key.
type stored struct {
	raw     []byte // as the store gave it; nil: nothing is there
	rec     *record
	token   *Token // the record's; nil: none
	damaged bool   // there is a record, and it cannot be read
}

// recordKey names the record of one key. What the token belongs to (the
// endpoint, the client) is part of the name: with other settings it is
// another record, and putting the settings back brings the token back.
func (s *Source) recordKey(k Key) string {
	return s.recordPrefix + "/" + hashParts(k.encoded)
}

// read returns what is stored of the entry's key. A damaged record is set
// aside and read as none. The error is a storeError, or errUnreadable.
func (s *Source) read(ctx context.Context, e *entry) (*stored, error) {
	if s.cfg.Store == nil {
		return &stored{rec: &record{}}, nil
	}
	name := s.recordKey(e.key)
	ctx, cancel := context.WithTimeout(ctx, s.patienceWith(e))
	defer cancel()
	b, err := s.loadRaw(ctx, name)
	if err != nil || b == nil {
		return &stored{rec: &record{}}, err
	}
	r, err := s.sealer.decode(name, b)
	switch {
	case errors.Is(err, errDamaged):
		return &stored{raw: b, rec: &record{}, damaged: true}, s.setAside(ctx, e, name, b, err)
	case err != nil:
		return nil, err
	}
	return &stored{raw: b, rec: r, token: r.token(time.Now(), s.cfg.RefreshAhead, random())}, nil
}

// patienceWith is how long a reading of the entry's record may take: where
// requests wait for a grant that can be repeated, not as long.
func (s *Source) patienceWith(e *entry) time.Duration {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case s.cfg.Grant.NeedsPerson() || e.unsaved.is || stateAt(time.Now(), e.tok) != expired || (e.tok != nil && e.tok.refresh != ""):
		return storeTimeout
	case s.storeErr.Load() != nil:
		return storeTimeoutKnown
	}
	return storeTimeoutSoon
}

// setAside keeps a damaged record for a person to look at; what follows may
// overwrite it. It is told of once.
func (s *Source) setAside(ctx context.Context, e *entry, name string, b []byte, why error) error {
	sum := sumOf(name, b)
	e.mu.Lock()
	known := e.setAside == sum
	e.mu.Unlock()
	if known {
		return nil
	}
	s.log.Error("stored token set aside", "source", s.cfg.Name, "key", e.key.String(), "error", why)
	aside := name + ".corrupt"
	old, err := s.loadRaw(ctx, aside)
	if err == nil {
		err = s.swapRaw(ctx, aside, old, b)
	}
	if err != nil {
		return fmt.Errorf("setting a damaged record aside: %w", err)
	}
	e.mu.Lock()
	e.setAside = sum
	e.mu.Unlock()
	return nil
}

// write stores r over old, and returns what it wrote.
func (s *Source) write(ctx context.Context, e *entry, old []byte, r *record) ([]byte, error) {
	name := s.recordKey(e.key)
	b, err := s.sealer.encode(name, r)
	if err != nil {
		return nil, fmt.Errorf("writing the token: %w", err)
	}
	return b, s.swapRaw(ctx, name, old, b)
}

// loadRaw returns nil and no error where there is nothing.
func (s *Source) loadRaw(ctx context.Context, name string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	b, err := bounded(ctx, func(ctx context.Context) ([]byte, error) { return s.cfg.Store.Load(ctx, name) })
	switch {
	case errors.Is(err, fs.ErrNotExist):
		b, err = nil, nil
	case err == nil && b == nil:
		b = []byte{} // there, and empty
	}
	return b, s.storeSaid(ctx, false, err)
}

// swapRaw returns ErrConflict as it is.
func (s *Source) swapRaw(ctx context.Context, name string, old, b []byte) error {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	start := time.Now()
	_, err := bounded(ctx, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, s.cfg.Store.Swap(ctx, name, old, b)
	})
	s.storeTook.Store(int64(time.Since(start)))
	if errors.Is(err, ErrConflict) {
		return err
	}
	return s.storeSaid(ctx, true, err)
}

// storeFailure is the store's last failure.
type storeFailure struct {
	err     error
	writing bool
}

// storeSaid keeps account of whether the store works, and tells when that
// changes. One that does not write does not work, though it may read.
func (s *Source) storeSaid(ctx context.Context, writing bool, err error) error {
	if err != nil {
		err = &storeError{fmt.Errorf("%s: %w", map[bool]string{true: "writing", false: "reading"}[writing], err)}
		if errors.Is(ctx.Err(), context.Canceled) {
			return err // cut off from this side
		}
	}
	before := s.storeErr.Load()
	switch {
	case err == nil && before != nil && (writing || !before.writing):
		if s.storeErr.CompareAndSwap(before, nil) {
			s.log.Info("token store works again", "source", s.cfg.Name)
			s.cfg.Observer.Store(s.cfg.Name, nil)
		}
	case err != nil && before == nil:
		if s.storeErr.CompareAndSwap(nil, &storeFailure{err, writing}) {
			s.log.Error("token store fails: tokens that are valid serve on, those that hang on a refresh token are not renewed",
				"source", s.cfg.Name, "error", err)
			s.cfg.Observer.Store(s.cfg.Name, err)
		}
	}
	return err
}

// instance names this process in records.
func (s *Source) instance() string {
	if ls, ok := s.cfg.Store.(LivenessStore); ok {
		return ls.Instance()
	}
	return s.self
}

func (s *Source) dead(ctx context.Context, instance string) bool {
	ls, ok := s.cfg.Store.(LivenessStore)
	return ok && instance != s.instance() && ls.Dead(ctx, instance)
}
