package caddymodule

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/caddyserver/certmagic"

	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenstore"
)

// storagePrefix is the folder of our records in Caddy's storage.
const storagePrefix = "token_sources/"

func recordName(key string) string { return storagePrefix + key + ".json" }

// fileStore keeps records in the files of Caddy's file system storage. It uses the
// kernel's locks (flock) and not the storage's. The storage's locks are files: a
// killed process leaves its file behind for 10 s, a former holder may keep it alive
// for ever, and waiting for one takes a second. The kernel releases its locks when
// the process dies.
type fileStore struct {
	storage  *certmagic.FileStorage
	instance *instanceLock
	unlocked *storageStore // where the file system has no locks
}

func newFileStore(s *certmagic.FileStorage) *fileStore {
	return &fileStore{
		storage:  s,
		instance: takeInstanceLock(s.Filename(storagePrefix + "instances")),
		unlocked: newStorageStore(s),
	}
}

// Load implements [tokenstore.Store].
func (s *fileStore) Load(ctx context.Context, key string) ([]byte, error) {
	return s.storage.Load(ctx, recordName(key))
}

// Swap implements [tokenstore.Store].
func (s *fileStore) Swap(ctx context.Context, key string, old, value []byte) error {
	if err := s.instance.hold(); err != nil {
		return err
	}
	unlock, err := s.lock(ctx, key)
	if locksUnsupported(err) {
		return s.unlocked.Swap(ctx, key, old, value)
	}
	if err != nil {
		return err
	}
	defer unlock()
	name := recordName(key)
	current, err := s.storage.Load(ctx, name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if !same(current, err, old) {
		return tokenstore.ErrConflict
	}
	// The storage writes another file, syncs that, and renames it.
	if err := s.storage.Store(ctx, name, value); err != nil {
		return err
	}
	return s.syncFolders(name, old == nil)
}

// same reports whether the result of Load is the old value that Swap expects. An old
// value of nil means that there must be no record.
func same(current []byte, loaded error, old []byte) bool {
	if old == nil {
		return errors.Is(loaded, fs.ErrNotExist)
	}
	return loaded == nil && bytes.Equal(current, old)
}

// Lock files are never removed, because removing one races with taking it. So there
// is not one for each record: records share them, and wait a few milliseconds for
// each other.
const (
	lockFiles     = 64
	lockPollDelay = 2 * time.Millisecond
)

func (s *fileStore) lock(ctx context.Context, key string) (unlock func(), err error) {
	dir := s.storage.Filename(storagePrefix + "locks")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	file := newLockFile(filepath.Join(dir, fmt.Sprintf("%02d.lock", stripe(key, lockFiles))))
	if _, err := file.TryLockContext(ctx, lockPollDelay); err != nil {
		return nil, fmt.Errorf("locking the record: %w", err)
	}
	return func() { _ = file.Close() }, nil
}

// stripe maps a key to one of n shared things.
func stripe(key string, n uint32) uint32 {
	h := fnv.New32a()
	_, _ = h.Write([]byte(key))
	return h.Sum32() % n
}

// syncFolders makes a rename survive a power failure. For a new record it also syncs
// the folders above, which may be new.
func (s *fileStore) syncFolders(name string, above bool) error {
	if runtime.GOOS == "windows" { // folders cannot be synced there
		return nil
	}
	root := s.storage.Filename("")
	for dir := filepath.Dir(s.storage.Filename(name)); ; dir = filepath.Dir(dir) {
		if err := syncFolder(dir); err != nil {
			return err
		}
		if !above || dir == root || dir == filepath.Dir(dir) {
			return nil
		}
	}
}

func syncFolder(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// Instance implements [tokenstore.LivenessStore].
func (s *fileStore) Instance() string { return instanceID }

// Dead implements [tokenstore.LivenessStore].
func (s *fileStore) Dead(_ context.Context, instance string) bool { return s.instance.dead(instance) }

// String names the place.
func (s *fileStore) String() string { return s.storage.String() }

// Close implements [io.Closer].
func (s *fileStore) Close() error { return s.instance.release() }

// Interface guard
var _ tokenstore.LivenessStore = (*fileStore)(nil)
