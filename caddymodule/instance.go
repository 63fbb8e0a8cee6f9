package caddymodule

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"github.com/gofrs/flock"
)

// instanceID names this process to those that share its store: where it runs,
// and something random.
var instanceID = hostID() + "-" + randomHex()

func randomHex() string {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // it never fails
	return hex.EncodeToString(b)
}

// hostID is the same for processes between which a lock on a file tells the
// truth: those of one kernel, since it booted. A host's name alone is not
// enough, for containers on many hosts may share one, and a network's file
// system need not carry locks from host to host. Where there is no such id it
// is a random one, and nobody is ever known to be dead.
func hostID() string {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return randomHex()
	}
	name, err := os.Hostname()
	if err != nil {
		return randomHex()
	}
	sum := sha256.Sum256([]byte(strings.TrimSpace(string(boot)) + "/" + name))
	return hex.EncodeToString(sum[:16])
}

// validInstance keeps what a record says from being a path.
func validInstance(id string) bool {
	host, random, ok := strings.Cut(id, "-")
	hexadecimal := func(s string) bool { b, err := hex.DecodeString(s); return err == nil && len(b) == 16 }
	return ok && hexadecimal(host) && hexadecimal(random)
}

// instanceLock is a file that this process keeps locked for as long as it uses
// a folder. The kernel lets go of it when the process dies, however it dies.
type instanceLock struct {
	dir   string
	users int // guarded by instanceLocks.mu

	mu   sync.Mutex
	file *flock.Flock // nil: not yet made
}

// instanceLocks are those of this process, by folder: several configs, during
// a reload, share one.
var instanceLocks = struct {
	mu  sync.Mutex
	all map[string]*instanceLock
}{all: make(map[string]*instanceLock)}

func takeInstanceLock(dir string) *instanceLock {
	instanceLocks.mu.Lock()
	defer instanceLocks.mu.Unlock()
	l := instanceLocks.all[dir]
	if l == nil {
		l = &instanceLock{dir: dir}
		instanceLocks.all[dir] = l
	}
	l.users++
	return l
}

// release ends one use. With the last the file goes.
func (l *instanceLock) release() error {
	instanceLocks.mu.Lock()
	defer instanceLocks.mu.Unlock()
	if l.users--; l.users > 0 {
		return nil
	}
	delete(instanceLocks.all, l.dir)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		return nil
	}
	err := os.Remove(l.file.Path())
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return errors.Join(err, l.file.Close())
}

// hold makes sure that the file is there and locked. It must be before anything
// in the store names this process: to others a file that is not there means
// that its process has ended.
func (l *instanceLock) hold() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file != nil && l.inPlace() {
		return nil
	}
	if l.file != nil { // somebody has taken the file away
		_ = l.file.Close()
		l.file = nil
	}
	if err := os.MkdirAll(l.dir, 0o700); err != nil {
		return err
	}
	file := newLockFile(filepath.Join(l.dir, instanceID+".lock"))
	ok, err := file.TryLock()
	switch {
	case locksUnsupported(err):
		// The file must be there all the same. Nobody can lock it either, so
		// nobody takes us for dead.
		err = touch(file.Path())
	case err == nil && !ok:
		err = errors.New("another process holds it")
	}
	if err != nil {
		return fmt.Errorf("the lock file of this process: %w", err)
	}
	l.file = file
	return nil
}

// inPlace reports whether the file is still where others look for it.
func (l *instanceLock) inPlace() bool {
	there, err := os.Stat(l.file.Path())
	if err != nil {
		return false
	}
	ours, err := l.file.Stat()
	return err == nil && os.SameFile(there, ours)
}

// dead reports whether the process of that name has surely ended. One that
// runs elsewhere may or may not.
func (l *instanceLock) dead(id string) bool {
	if !validInstance(id) || id == instanceID || !strings.HasPrefix(id, hostPart(instanceID)) {
		return false
	}
	// with our own file in its place, this is the folder that the others use
	if err := l.hold(); err != nil {
		return false
	}
	path := filepath.Join(l.dir, id+".lock")
	file := flock.New(path, flock.SetFlag(os.O_RDWR)) // does not create it
	ok, err := file.TryLock()
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return true
	case err != nil || !ok:
		return false
	}
	_ = os.Remove(path)
	_ = file.Close()
	return true
}

// hostPart is an id's first part, with the hyphen.
func hostPart(id string) string {
	return id[:strings.IndexByte(id, '-')+1]
}

func newLockFile(path string) *flock.Flock {
	// for writing, which a network's file system wants of an exclusive lock
	return flock.New(path, flock.SetFlag(os.O_CREATE|os.O_RDWR), flock.SetPermissions(0o600))
}

// locksUnsupported reports whether a file system has no locks.
func locksUnsupported(err error) bool {
	return errors.Is(err, syscall.ENOTSUP) || errors.Is(err, syscall.ENOSYS) || errors.Is(err, syscall.ENOLCK) ||
		errors.Is(err, errors.ErrUnsupported)
}

func touch(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	return f.Close()
}
