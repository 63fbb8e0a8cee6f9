package caddymodule

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/certmagic"

	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenstore"
)

// memory is a storage that a test can break. What is not set works, but for
// the lock, which does nothing.
type memory struct {
	certmagic.Storage // of which nothing else is called

	latency time.Duration
	down    func() bool // looks empty, and writes nothing
	onLock  func(ctx context.Context) error
	onStore func(key string)

	mu     sync.Mutex
	values map[string][]byte
	locks  int // taken and not released
}

func (m *memory) isDown() bool { return m.down != nil && m.down() }

func (m *memory) Load(_ context.Context, key string) ([]byte, error) {
	time.Sleep(m.latency)
	m.mu.Lock()
	defer m.mu.Unlock()
	value, ok := m.values[key]
	if !ok || m.isDown() {
		return nil, fs.ErrNotExist
	}
	return slices.Clone(value), nil
}

func (m *memory) Store(_ context.Context, key string, value []byte) error {
	time.Sleep(m.latency)
	if m.onStore != nil {
		defer m.onStore(key)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.isDown() {
		return errors.New("connection refused")
	}
	if m.values == nil {
		m.values = make(map[string][]byte)
	}
	m.values[key] = slices.Clone(value)
	return nil
}

func (m *memory) Delete(_ context.Context, key string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.values, key)
	return nil
}

func (m *memory) Lock(ctx context.Context, _ string) error {
	if m.onLock != nil {
		if err := m.onLock(ctx); err != nil {
			return err
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.locks++
	return nil
}

func (m *memory) Unlock(context.Context, string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.locks--
	return nil
}

func (m *memory) held() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.locks
}

func TestStorageStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := new(memory)
		s := newStorageStore(m)
		ctx := t.Context()
		if _, err := s.Load(ctx, "p/a"); !errors.Is(err, fs.ErrNotExist) {
			t.Fatalf("of nothing: %v", err)
		}
		if err := s.Swap(ctx, "p/a", []byte("x"), []byte("one")); !errors.Is(err, tokenstore.ErrConflict) {
			t.Errorf("from what is not there: %v", err)
		}
		must(t, s.Swap(ctx, "p/a", nil, []byte("one")))
		if err := s.Swap(ctx, "p/a", nil, []byte("two")); !errors.Is(err, tokenstore.ErrConflict) {
			t.Errorf("from nothing: %v", err)
		}
		must(t, s.Swap(ctx, "p/a", []byte("one"), []byte("two")))
		if got, err := s.Load(ctx, "p/a"); string(got) != "two" {
			t.Errorf("got %q, %v", got, err)
		}
		if len(m.values) != 1 || m.values["token_sources/p/a.json"] == nil || m.held() != 0 {
			t.Errorf("%d values, %d locks: want the record alone", len(m.values), m.held())
		}
	})
}

// TestStorageWithoutLock: where the lock does nothing, of the processes that
// see the same old value one alone believes that it replaced it.
func TestStorageWithoutLock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memory{latency: time.Millisecond, values: map[string][]byte{recordName("a"): []byte("old")}}
		old := []byte("old")
		for range 20 {
			var wg sync.WaitGroup
			var won atomic.Pointer[string]
			for range 5 { // processes
				s := newStorageStore(m)
				wg.Go(func() {
					value := randomHex()
					switch err := s.Swap(t.Context(), "a", old, []byte(value)); {
					case err == nil:
						if !won.CompareAndSwap(nil, &value) {
							t.Error("two have won")
						}
					case !errors.Is(err, tokenstore.ErrConflict):
						t.Error(err)
					}
				})
			}
			wg.Wait()
			if won.Load() == nil || *won.Load() != string(m.values[recordName("a")]) {
				t.Fatalf("%v has won, and %s is there", won.Load(), m.values[recordName("a")])
			}
			old = m.values[recordName("a")]
		}
	})
}

// TestStorageLocks is about locks that do not do what they should: a Swap goes
// on within the bound, and takes longer to look whether it was alone.
func TestStorageLocks(t *testing.T) {
	failures := func(n int) func(context.Context) error {
		return func(context.Context) error {
			if n--; n >= 0 {
				return errors.New("locked by somebody")
			}
			return nil
		}
	}
	for name, c := range map[string]struct {
		onLock func(context.Context) error
		took   time.Duration
	}{
		"at once":             {nil, settleLocked},
		"fails at first":      {failures(7), 7*storageLockRetry + settleLocked},
		"fails":               {failures(1000), storageLockTimeout + settleUnlocked},
		"a dead holder's":     {func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }, storageLockTimeout + settleUnlocked},
		"ignores the context": {func(context.Context) error { time.Sleep(time.Minute); return nil }, storageLockTimeout + settleUnlocked},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := &memory{onLock: c.onLock}
				s := newStorageStore(m)
				started := time.Now()
				must(t, s.Swap(t.Context(), "a", nil, []byte("one")))
				if took := time.Since(started); took != c.took {
					t.Errorf("took %v: want %v", took, c.took)
				}
				time.Sleep(2 * time.Minute)
				if m.held() != 0 {
					t.Error("a lock that came too late is kept")
				}
			})
		})
	}
}

// TestStorageLockStuck: while a call hangs in a lock, nobody waits for that
// lock again, and no more calls hang.
func TestStorageLockStuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls atomic.Int32
		m := &memory{onLock: func(context.Context) error { calls.Add(1); time.Sleep(time.Minute); return nil }}
		s := newStorageStore(m)
		must(t, s.Swap(t.Context(), "a", nil, []byte("one")))
		started := time.Now()
		must(t, s.Swap(t.Context(), "a", []byte("one"), []byte("two")))
		if took := time.Since(started); took != settleUnlocked || calls.Load() != 1 {
			t.Errorf("took %v, %d calls", took, calls.Load())
		}
		time.Sleep(2 * time.Minute)
	})
}

// TestFault34_LockLost: a lock held for so long that another may have taken it
// over is not released.
func TestFault34_LockLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := new(memory)
		m.onStore = func(string) { time.Sleep(storageLockOurs) }
		must(t, newStorageStore(m).Swap(t.Context(), "a", nil, []byte("one")))
		if m.held() != 1 {
			t.Error("another's lock was released")
		}
	})
}

// TestStorageOverwritten: one that finds another's value in place of its own
// has lost.
func TestStorageOverwritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := new(memory)
		m.onStore = func(key string) {
			if strings.HasSuffix(key, ".json") {
				m.onStore = nil
				must(t, m.Store(context.Background(), key, []byte("another's")))
			}
		}
		s := newStorageStore(m)
		if err := s.Swap(t.Context(), "a", nil, []byte("ours")); !errors.Is(err, tokenstore.ErrConflict) {
			t.Errorf("got %v", err)
		}
		m.onStore = func(key string) { must(t, m.Delete(context.Background(), key)) }
		err := s.Swap(t.Context(), "a", []byte("another's"), []byte("ours"))
		if !errors.Is(err, errUnreliable) || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("gone again: %v", err)
		}
	})
}

// TestFault29_StorageLooksEmpty: a storage that says "not there" while it is
// down is not believed, whenever it goes down and comes back.
func TestFault29_StorageLooksEmpty(t *testing.T) {
	for _, gone := range [][2]int{{0, 1000}, {0, 3}, {2, 1000}, {3, 1000}, {4, 1000}, {5, 1000}, {6, 1000}, {0, 2}, {3, 4}, {5, 6}} {
		synctest.Test(t, func(t *testing.T) {
			calls := 0
			m := &memory{values: map[string][]byte{recordName("a"): []byte("one")}}
			m.down = func() bool { calls++; return gone[0] < calls && calls <= gone[1] }
			s := newStorageStore(m)
			for range 3 {
				got, err := s.Load(t.Context(), "a")
				if errors.Is(err, fs.ErrNotExist) || (err == nil && string(got) != "one") {
					t.Fatalf("down in calls %v: %q, %v", gone, got, err)
				}
			}
			calls = 0
			if err := s.Swap(t.Context(), "a", nil, []byte("two")); err == nil {
				t.Errorf("down in calls %v: swapped from nothing", gone)
			}
			if !bytes.Equal(m.values[recordName("a")], []byte("one")) {
				t.Errorf("down in calls %v: the record is overwritten", gone)
			}
		})
	}
}

func TestStorageContextEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memory{onLock: func(context.Context) error { time.Sleep(time.Minute); return nil }}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := newStorageStore(m).Swap(ctx, "a", nil, []byte("one")); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		if len(m.values) != 0 {
			t.Error("written after all")
		}
		time.Sleep(2 * time.Minute)
	})
}

// TestStorageOfFiles runs the same over real files: with Caddy's locks, where
// the file system has none of its own.
func TestStorageOfFiles(t *testing.T) {
	files := &certmagic.FileStorage{Path: t.TempDir()}
	var wg sync.WaitGroup
	for range 2 {
		s := newStorageStore(files)
		wg.Go(func() {
			if err := countUp(t.Context(), s, 2); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got, err := files.Load(t.Context(), recordName("n")); count(got) != 4 {
		t.Errorf("got %s, %v", got, err)
	}
}
