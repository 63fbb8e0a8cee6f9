package tokenstore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync/atomic"
	"time"
)

// callTimeout bounds one call of the store.
const callTimeout = 10 * time.Second

// Error is a failure of the store, not of the provider.
type Error struct{ Err error }

// Error says that it was the store.
func (e *Error) Error() string { return "token store: " + e.Err.Error() }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Client reads and writes records in a [Store]. It bounds every call, for a
// store may ignore its context, and keeps account of whether the store works.
type Client struct {
	store   Store
	codec   *Codec
	self    string
	changed func(err error)
	sealed  func(name string)

	failure   atomic.Pointer[failure]
	writeTook atomic.Int64 // the last write, in nanoseconds
}

// failure is the store's last failure.
type failure struct {
	err     error
	writing bool
	since   time.Time
}

// NewClient returns a client of a store. self names this process in records if
// the store has no name for it. changed is called when the store begins to
// fail, with the error, and when it works again, with nil. sealed is called with
// the name of each record that was not sealed before it was read.
func NewClient(s Store, codec *Codec, self string, changed func(err error), sealed func(name string)) *Client {
	return &Client{store: s, codec: codec, self: self, changed: changed, sealed: sealed}
}

// maxSealConflicts bounds the readings of a record that others keep writing.
const maxSealConflicts = 3

// Read returns the record under name, and its bytes as the store has them. Both
// are nil when there is none. A record that must not be used is an [ErrDamaged],
// an [ErrUnreadable] or an [ErrUnsealed]; its bytes are returned with the error.
// Any other error is an [*Error].
//
// A codec that migrates reads a record that is not sealed. Read then seals it at
// once, not at its next write, which may be months away. The exception is a record
// with a lease: its holder may have no key yet, and could not write the token over
// it that is on the way.
func (c *Client) Read(ctx context.Context, name string) (r *Record, raw []byte, err error) {
	for range maxSealConflicts {
		if raw, err = c.load(ctx, name); err != nil || raw == nil {
			return nil, nil, err
		}
		var unsealed bool
		r, unsealed, err = c.codec.decode(name, raw)
		if err != nil || !unsealed || r.Lease != nil {
			return r, raw, err
		}
		b, err := c.Write(ctx, name, raw, r)
		switch {
		case err == nil:
			c.sealed(name)
			return r, b, nil
		case !errors.Is(err, ErrConflict):
			// It may or may not be sealed now. The account has the failure, and what
			// was read is good.
			return r, raw, nil
		}
	}
	return r, raw, nil
}

// Write stores r under name in the place of old, and returns the bytes that it
// wrote. The error is [ErrConflict] or an [*Error].
func (c *Client) Write(ctx context.Context, name string, old []byte, r *Record) ([]byte, error) {
	b, err := c.codec.Encode(name, r)
	if err != nil {
		return nil, fmt.Errorf("writing the token: %w", err)
	}
	return b, c.swap(ctx, name, old, b)
}

// SetAside keeps the bytes of a damaged record under another name, for a person
// to look at. What follows may overwrite the record itself.
func (c *Client) SetAside(ctx context.Context, name string, damaged []byte) error {
	aside := name + ".corrupt"
	old, err := c.load(ctx, aside)
	if err == nil {
		err = c.swap(ctx, aside, old, damaged)
	}
	if err != nil {
		return fmt.Errorf("setting a damaged record aside: %w", err)
	}
	return nil
}

// Err is the store's last failure; nil: it works, or was not used yet. A store
// that does not write does not work, though it may read.
func (c *Client) Err() error {
	_, err := c.Failing()
	return err
}

// Failing is Err, and since when.
func (c *Client) Failing() (since time.Time, err error) {
	if f := c.failure.Load(); f != nil {
		return f.since, f.err
	}
	return time.Time{}, nil
}

// WriteTook is how long the last write took.
func (c *Client) WriteTook() time.Duration { return time.Duration(c.writeTook.Load()) }

// Instance names this process in records.
func (c *Client) Instance() string {
	if ls, ok := c.store.(LivenessStore); ok {
		return ls.Instance()
	}
	return c.self
}

// Dead reports whether another process surely runs no more.
func (c *Client) Dead(ctx context.Context, instance string) bool {
	ls, ok := c.store.(LivenessStore)
	return ok && instance != c.Instance() && ls.Dead(ctx, instance)
}

// Stamp is a stamp of this process and moment.
func (c *Client) Stamp() Stamp { return Stamp{At: time.Now().UTC(), By: c.Instance()} }

// load returns nil and no error where there is nothing.
func (c *Client) load(ctx context.Context, name string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	b, err := bounded(ctx, func(ctx context.Context) ([]byte, error) { return c.store.Load(ctx, name) })
	switch {
	case errors.Is(err, fs.ErrNotExist):
		b, err = nil, nil
	case err == nil && b == nil:
		b = []byte{} // there, and empty
	}
	return b, c.account(ctx, "reading", err)
}

// swap returns ErrConflict as it is.
func (c *Client) swap(ctx context.Context, name string, old, b []byte) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	start := time.Now()
	_, err := bounded(ctx, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, c.store.Swap(ctx, name, old, b)
	})
	c.writeTook.Store(int64(time.Since(start)))
	if errors.Is(err, ErrConflict) {
		return err
	}
	return c.account(ctx, "writing", err)
}

// account keeps account of whether the store works, and tells when that
// changes.
func (c *Client) account(ctx context.Context, doing string, err error) error {
	writing := doing == "writing"
	if err != nil {
		err = &Error{fmt.Errorf("%s: %w", doing, err)}
		if errors.Is(ctx.Err(), context.Canceled) {
			return err // cut off from this side
		}
	}
	before := c.failure.Load()
	switch {
	case err == nil && before != nil && (writing || !before.writing):
		if c.failure.CompareAndSwap(before, nil) {
			c.changed(nil)
		}
	case err != nil && before == nil:
		if c.failure.CompareAndSwap(nil, &failure{err, writing, time.Now()}) {
			c.changed(err)
		}
	}
	return err
}

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
