package caddymodule

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"time"

	"github.com/caddyserver/certmagic"

	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenstore"
)

// storageStore keeps records in any storage of Caddy's. It knows nothing of the
// storage but the interface, and implementations differ. Some locks do nothing, fail
// at once, ignore the context, or belong to a dead process for a minute. Some
// storages look empty while they are down.
//
// The store builds the best compare-and-swap that this allows: under the storage's
// lock if it gets the lock in time, and with a second read after the write.
type storageStore struct {
	storage certmagic.Storage
	turns   [64]chan struct{} // one swap at a time within this process, whatever the locks do
	probes  chan string       // names of probes that are not in use
	stuck   sync.Map          // names of locks for which a call still waits
}

// Time limits of a storageStore.
const (
	// A lock that takes longer belongs to a dead process, or to one that keeps it
	// alive without knowing.
	storageLockTimeout = 5 * time.Second
	// How soon a lock that fails at once is tried again.
	storageLockRetry = 100 * time.Millisecond
	// How long to wait before the second read. Another process that has read the
	// same old value may take so long to write its own.
	settleLocked   = 50 * time.Millisecond
	settleUnlocked = 500 * time.Millisecond
	// A lock that was held for longer may belong to another process by now, so it is
	// not released.
	storageLockOurs = 4 * time.Second
)

func newStorageStore(s certmagic.Storage) *storageStore {
	store := &storageStore{storage: s, probes: make(chan string, 16)}
	for i := range store.turns {
		store.turns[i] = make(chan struct{}, 1)
	}
	// Each store has probes of its own: during a reload there are two stores.
	id := randomHex()
	for i := range cap(store.probes) {
		store.probes <- fmt.Sprintf("%sprobe/%s-%d", storagePrefix, id, i)
	}
	return store
}

// Load implements [tokenstore.Store].
func (s *storageStore) Load(ctx context.Context, key string) ([]byte, error) {
	value, err := s.storage.Load(ctx, recordName(key))
	if !errors.Is(err, fs.ErrNotExist) {
		return value, err
	}
	return s.loadAgain(ctx, recordName(key))
}

var errUnreliable = errors.New("the store does not respond reliably")

// loadAgain proves that a record is absent. Some storages say "not there" of
// everything while they are down, and of some records for a moment after that. So
// loadAgain writes a probe and reads the record between reads of the probe. Only if
// the storage finds the probe each time is the record believed to be absent.
func (s *storageStore) loadAgain(ctx context.Context, name string) (value []byte, err error) {
	var probe string
	select {
	case probe = <-s.probes:
		defer func() { s.probes <- probe }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	text := []byte(randomHex())
	if err := s.storage.Store(ctx, probe, text); err != nil {
		return nil, fmt.Errorf("%w: writing a probe: %w", errUnreliable, notAbsent(err))
	}
	defer func() { _ = s.storage.Delete(context.WithoutCancel(ctx), probe) }()
	for range 2 {
		if err := s.readBack(ctx, probe, text); err != nil {
			return nil, err
		}
		value, err = s.storage.Load(ctx, name)
		if !errors.Is(err, fs.ErrNotExist) {
			return value, err
		}
	}
	if err := s.readBack(ctx, probe, text); err != nil {
		return nil, err
	}
	return nil, err
}

func (s *storageStore) readBack(ctx context.Context, name string, text []byte) error {
	got, err := s.storage.Load(ctx, name)
	if err != nil {
		return fmt.Errorf("%w: reading a probe: %w", errUnreliable, notAbsent(err))
	}
	if !bytes.Equal(got, text) {
		return fmt.Errorf("%w: a probe reads as something else", errUnreliable)
	}
	return nil
}

// notAbsent returns err without its type if it says that a record is absent. A lost
// probe must not be mistaken for an absent record.
func notAbsent(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return errors.New(err.Error())
	}
	return err
}

// Swap implements [tokenstore.Store].
func (s *storageStore) Swap(ctx context.Context, key string, old, value []byte) error {
	turn := s.turns[stripe(key, uint32(len(s.turns)))]
	select {
	case turn <- struct{}{}:
		defer func() { <-turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	locked, unlock := s.lock(ctx, storagePrefix+key)
	defer unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	current, err := s.Load(ctx, key)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if !same(current, err, old) {
		return tokenstore.ErrConflict
	}
	if err := s.storage.Store(ctx, recordName(key), value); err != nil {
		return err
	}
	settle := settleLocked
	if !locked {
		settle = settleUnlocked
	}
	select {
	case <-time.After(settle):
	case <-ctx.Done():
		return ctx.Err()
	}
	current, err = s.storage.Load(ctx, recordName(key))
	if err != nil {
		return fmt.Errorf("%w: reading what was written: %w", errUnreliable, notAbsent(err))
	}
	if !bytes.Equal(current, value) {
		return tokenstore.ErrConflict
	}
	return nil
}

// lock takes the storage's lock if it gets the lock in time. The caller may call
// unlock in any case. Some storages ignore the context and wait for ever. While such
// a call hangs, no other call waits for that lock, or goroutines would pile up.
func (s *storageStore) lock(ctx context.Context, name string) (ok bool, unlock func()) {
	ctx, cancel := context.WithTimeout(ctx, storageLockTimeout)
	defer cancel()
	for {
		if _, stuck := s.stuck.LoadOrStore(name, true); stuck {
			return false, func() {}
		}
		result := make(chan error)
		go func() {
			err := s.storage.Lock(ctx, name)
			s.stuck.Delete(name)
			select {
			case result <- err:
			case <-ctx.Done():
				if err == nil { // too late
					s.unlock(ctx, name)
				}
			}
		}()
		select {
		case err := <-result:
			if err == nil {
				since := time.Now()
				return true, func() {
					if time.Since(since) < storageLockOurs {
						s.unlock(ctx, name)
					}
				}
			}
		case <-ctx.Done():
			return false, func() {}
		}
		select {
		case <-time.After(storageLockRetry):
		case <-ctx.Done():
			return false, func() {}
		}
	}
}

func (s *storageStore) unlock(ctx context.Context, name string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storageLockOurs)
	defer cancel()
	_ = s.storage.Unlock(ctx, name) // if this fails, the lock expires by itself
}

// String names the place. If the storage has no name, the name is a hash of its
// settings, because those may hold a password. It is "" if there are no settings.
func (s *storageStore) String() string {
	if named, ok := s.storage.(fmt.Stringer); ok {
		return named.String()
	}
	settings, err := json.Marshal(s.storage)
	if err != nil || len(settings) <= len("{}") {
		return ""
	}
	return fmt.Sprintf("%T %x", s.storage, sha256.Sum256(settings))
}

// Interface guard
var _ tokenstore.Store = (*storageStore)(nil)
