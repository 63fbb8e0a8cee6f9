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

// instanceID names this process to others that share its store: the host on which it
// runs, and a random part.
var instanceID = hostID() + "-" + randomHex()

func randomHex() string {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // it never fails
	return hex.EncodeToString(b)
}

// hostID is the same for all processes among which file locks are reliable: those
// that run under one kernel, since it booted. The host's name alone is not enough,
// because containers on many hosts may have the same name, and a network file system
// need not carry locks from host to host. If the kernel has no such id, hostID is
// random, and no process is ever known to be dead.
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

// validInstance checks an id that comes from a record. It becomes part of a file
// name, so it must not be a path.
func validInstance(id string) bool {
	host, random, ok := strings.Cut(id, "-")
	hexadecimal := func(s string) bool { b, err := hex.DecodeString(s); return err == nil && len(b) == 16 }
	return ok && hexadecimal(host) && hexadecimal(random)
}

// instanceLock is a file that this process keeps locked as long as it uses a folder.
// The kernel releases the lock whenever the process dies. So another process that
// can take the lock knows that this one is dead.
type instanceLock struct {
	dir   string
	users int // guarded by instanceLocks.mu

	mu   sync.Mutex
	file *flock.Flock // nil: not yet made
}

// instanceLocks are the locks of this process, by folder. During a reload two configs
// share one lock.
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

// release ends one use. The last release removes the file.
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

// hold makes sure that the file exists and is locked. It is called before anything in
// the store names this process: if the file does not exist, other processes take
// this one for dead.
func (l *instanceLock) hold() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file != nil && l.inPlace() {
		return nil
	}
	if l.file != nil { // somebody has removed the file
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
		// Without locks the file must exist all the same. Nobody else can lock it
		// either, so nobody takes this process for dead.
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

// inPlace reports whether the locked file is still the one that others find by name.
func (l *instanceLock) inPlace() bool {
	there, err := os.Stat(l.file.Path())
	if err != nil {
		return false
	}
	ours, err := l.file.Stat()
	return err == nil && os.SameFile(there, ours)
}

// dead reports whether the process of that name has surely ended. Of a process on
// another host this is never known.
func (l *instanceLock) dead(id string) bool {
	if !validInstance(id) || id == instanceID || !strings.HasPrefix(id, hostPart(instanceID)) {
		return false
	}
	// If our own file is in its place, this is the folder that the others use, too.
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
	// Opened for writing: network file systems require that for an exclusive lock.
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
