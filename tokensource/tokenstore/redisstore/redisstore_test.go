//go:build redis

package redisstore_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/caddy-bearer/caddy-bearer/tests/redistest"
	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenstore/redisstore"

	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenstore"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t *testing.T, cfg redisstore.Config, addrs ...string) *redisstore.Store {
	t.Helper()
	cfg.Addresses = addrs
	s, err := redisstore.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func want(t *testing.T, s tokenstore.Store, key, value string) {
	t.Helper()
	got, err := s.Load(t.Context(), key)
	if err != nil || string(got) != value {
		t.Fatalf("%s: got %q, %v: want %q", key, got, err, value)
	}
}

func TestLoadAndSwap(t *testing.T) {
	server := redistest.Start(t)
	s := open(t, redisstore.Config{}, server.Addr)
	ctx := t.Context()
	if got, err := s.Load(ctx, "a"); got != nil || !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("of nothing: %q, %v", got, err)
	}
	if err := s.Swap(ctx, "a", []byte("x"), []byte("one")); !errors.Is(err, tokenstore.ErrConflict) {
		t.Fatalf("from a value that is not there: %v", err)
	}
	must(t, s.Swap(ctx, "a", nil, []byte("one")))
	if err := s.Swap(ctx, "a", nil, []byte("two")); !errors.Is(err, tokenstore.ErrConflict) {
		t.Fatalf("from nothing, where something is: %v", err)
	}
	must(t, s.Swap(ctx, "a", []byte("one"), []byte("two")))
	if err := s.Swap(ctx, "a", []byte("one"), []byte("three")); !errors.Is(err, tokenstore.ErrConflict) {
		t.Fatalf("from an old value: %v", err)
	}
	want(t, s, "a", "two")
	odd := bytes.Repeat([]byte{0, 255, '\r', '\n', '$'}, 20_000)
	must(t, s.Swap(ctx, "a", []byte("two"), odd))
	want(t, s, "a", string(odd))
	must(t, s.Swap(ctx, "b", nil, []byte{}))
	if err := s.Swap(ctx, "b", nil, []byte("x")); !errors.Is(err, tokenstore.ErrConflict) {
		t.Fatalf("from nothing, where an empty value is: %v", err)
	}
	must(t, s.Swap(ctx, "b", []byte{}, []byte("full")))
	if got := server.Do(t, "EXISTS token_sources/b"); got != ":1" {
		t.Errorf("the key's prefix is another: %s", got)
	}
}

// TestCount lets many count one number up: no step may be lost.
func TestCount(t *testing.T) {
	server := redistest.Start(t)
	const clients, routines, steps = 4, 5, 20
	var wg sync.WaitGroup
	var conflicts atomic.Int64
	for range clients {
		s := open(t, redisstore.Config{}, server.Addr)
		for range routines {
			wg.Go(func() {
				for range steps {
					n, err := countUp(t.Context(), s)
					if err != nil {
						t.Error(err)
						return
					}
					conflicts.Add(n)
				}
			})
		}
	}
	wg.Wait()
	want(t, open(t, redisstore.Config{}, server.Addr), "n", strconv.Itoa(clients*routines*steps))
	if conflicts.Load() == 0 {
		t.Error("nobody was in anybody's way: the test shows nothing")
	}
}

// countUp counts the number up once, however often others are faster.
func countUp(ctx context.Context, s tokenstore.Store) (conflicts int64, err error) {
	for {
		old, err := s.Load(ctx, "n")
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return conflicts, err
		}
		n, _ := strconv.Atoi(string(old)) // nothing is 0
		err = s.Swap(ctx, "n", old, []byte(strconv.Itoa(n+1)))
		if !errors.Is(err, tokenstore.ErrConflict) {
			return conflicts, err
		}
		conflicts++
	}
}

// failing wants an error that is neither of the two that mean something.
func failing(t *testing.T, what string, err error) {
	t.Helper()
	if err == nil || errors.Is(err, fs.ErrNotExist) || errors.Is(err, tokenstore.ErrConflict) {
		t.Errorf("%s: got %v: want another error", what, err)
	}
}

// TestFault29_DownIsNotEmpty: whatever keeps a server from answering, it is not
// taken for one that has no record.
func TestFault29_DownIsNotEmpty(t *testing.T) {
	server := redistest.Start(t, "--appendonly", "yes", "--appendfsync", "always")
	s := open(t, redisstore.Config{Timeout: time.Second}, server.Addr)
	ctx := t.Context()
	must(t, s.Swap(ctx, "a", nil, []byte("one")))
	both := func(what string, within time.Duration) {
		t.Helper()
		for _, key := range []string{"a", "none"} {
			started := time.Now()
			_, err := s.Load(ctx, key)
			failing(t, what+": Load", err)
			if took := time.Since(started); took > within {
				t.Errorf("%s: Load took %v", what, took)
			}
		}
		failing(t, what+": Swap", s.Swap(ctx, "a", []byte("one"), []byte("never")))
	}
	server.Kill()
	both("down", time.Second)
	server.Restart(t)
	want(t, s, "a", "one")

	server.Pause()
	both("paused", 1500*time.Millisecond)
	server.Resume()
	// the paused server may have read what it was sent
	if got, err := s.Load(ctx, "a"); err != nil || (string(got) != "one" && string(got) != "never") {
		t.Errorf("resumed: %q, %v", got, err)
	}
}

func TestLoadingIsNotEmpty(t *testing.T) {
	server := redistest.Start(t)
	s := open(t, redisstore.Config{}, server.Addr)
	long := rand.Text() + rand.Text() + rand.Text() + rand.Text() // more than the server reads at once
	for i := range 100 {
		must(t, s.Swap(t.Context(), fmt.Sprint(i), nil, []byte(long)))
	}
	server.Do(t, "SAVE")
	server.Kill()
	server.SetArgs("--key-load-delay", "10000", "--loading-process-events-interval-bytes", "1024") // 10 ms for each key
	server.RestartLoading(t)
	loading := 0
	for deadline := time.Now().Add(20 * time.Second); ; {
		got, err := s.Load(t.Context(), "99")
		if err == nil {
			if string(got) != long {
				t.Fatalf("got %q", got)
			}
			break
		}
		failing(t, "loading", err)
		if strings.HasPrefix(err.Error(), "LOADING") {
			loading++
		}
		if time.Now().After(deadline) {
			t.Fatal("still loading")
		}
	}
	if loading == 0 {
		t.Error("the server was never seen loading: the test shows nothing")
	}
}

// TestSlow: a server that needs 2 s for each answer serves, even with a
// connection to be made first.
func TestSlow(t *testing.T) {
	server := redistest.Start(t)
	proxy := redistest.NewProxy(t, server.Addr)
	proxy.SetLatency(2 * time.Second)
	s := open(t, redisstore.Config{}, proxy.Addr)
	must(t, s.Swap(t.Context(), "a", nil, []byte("one")))
	want(t, s, "a", "one")
}

func TestContextEnds(t *testing.T) {
	server := redistest.Start(t)
	s := open(t, redisstore.Config{}, server.Addr)
	server.Pause()
	defer server.Resume()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	started := time.Now()
	_, err := s.Load(ctx, "a")
	failing(t, "Load", err)
	if took := time.Since(started); took > time.Second {
		t.Errorf("took %v", took)
	}
}

// TestLostAnswer: the call is made again, finds its own value, and says so.
func TestLostAnswer(t *testing.T) {
	server := redistest.Start(t)
	proxy := redistest.NewProxy(t, server.Addr)
	s := open(t, redisstore.Config{}, proxy.Addr)
	other := open(t, redisstore.Config{}, server.Addr)
	ctx := t.Context()
	must(t, s.Swap(ctx, "a", nil, []byte("one")))

	proxy.LoseAnswers(1)
	must(t, s.Swap(ctx, "a", []byte("one"), []byte("two")))
	want(t, s, "a", "two")

	// The next answers are lost too, so the caller has to make the call again.
	proxy.LoseAnswers(10)
	failing(t, "all answers lost", s.Swap(ctx, "a", []byte("two"), []byte("three")))
	proxy.LoseAnswers(0)
	if err := s.Swap(ctx, "a", []byte("two"), []byte("three")); !errors.Is(err, tokenstore.ErrConflict) {
		t.Errorf("a call of its own, from what is there no more: %v", err)
	}
	must(t, s.Swap(ctx, "a", []byte("three"), []byte("three")))

	// Another was faster before anything was sent: a conflict all the same.
	must(t, other.Swap(ctx, "a", []byte("three"), []byte("theirs")))
	if err := s.Swap(ctx, "a", []byte("three"), []byte("mine")); !errors.Is(err, tokenstore.ErrConflict) {
		t.Errorf("got %v", err)
	}
	// The same with an answer lost: now it cannot be known that nothing changed.
	proxy.LoseAnswers(1)
	failing(t, "lost and overwritten", s.Swap(ctx, "a", []byte("three"), []byte("mine")))
}

func TestRestartedWithoutDisk(t *testing.T) {
	server := redistest.Start(t)
	s := open(t, redisstore.Config{}, server.Addr)
	must(t, s.Swap(t.Context(), "a", nil, []byte("one")))
	server.Restart(t)
	if _, err := s.Load(t.Context(), "a"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a server that has nothing and answers: %v", err)
	}
	if err := s.Swap(t.Context(), "a", []byte("one"), []byte("two")); !errors.Is(err, tokenstore.ErrConflict) {
		t.Errorf("from what is lost: %v", err)
	}
}
