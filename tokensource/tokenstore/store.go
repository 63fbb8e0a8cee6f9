package tokenstore

import (
	"context"
	"errors"
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
