//go:build redis

package redisstore_test

import (
	"errors"
	"io/fs"
	"strings"
	"testing"
	"time"

	"github.com/caddy-bearer/caddy-bearer/tests/redistest"
	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenstore/redisstore"

	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenstore"
)

// TestReplicas: with Replicas a write counts when a replica has it, so that it
// survives the master.
func TestReplicas(t *testing.T) {
	master, replica := redistest.Start(t), redistest.Start(t)
	replica.Follow(t, master.Addr)
	s := open(t, redisstore.Config{Replicas: 1, Timeout: time.Second}, master.Addr)
	must(t, s.Swap(t.Context(), "a", nil, []byte("one")))

	replica.Pause()
	started := time.Now()
	err := s.Swap(t.Context(), "a", []byte("one"), []byte("two"))
	failing(t, "the replica does not answer", err)
	if took := time.Since(started); took > 900*time.Millisecond || !strings.Contains(err.Error(), "0 of 1") {
		t.Errorf("after %v: %v", took, err)
	}
	// what is there is put there again, and now it lasts
	replica.Resume()
	must(t, s.Swap(t.Context(), "a", []byte("two"), []byte("two")))

	master.Kill()
	replica.Promote(t)
	want(t, open(t, redisstore.Config{}, replica.Addr), "a", "two")
}

// TestLostAnswerIsNotDurable: the attempt that finds its value written makes
// sure that a replica has it, though another connection wrote it.
func TestLostAnswerIsNotDurable(t *testing.T) {
	master, replica := redistest.Start(t), redistest.Start(t)
	replica.Follow(t, master.Addr)
	proxy := redistest.NewProxy(t, master.Addr)
	s := open(t, redisstore.Config{Replicas: 1, Timeout: time.Second}, proxy.Addr)
	must(t, s.Swap(t.Context(), "a", nil, []byte("one")))
	replica.Pause()
	defer replica.Resume()
	proxy.LoseAnswers(1)
	failing(t, "no replica", s.Swap(t.Context(), "a", []byte("one"), []byte("two")))
}

// TestReplicaIsNoStore: a server that follows another may lack what was
// written. It is not asked for what is not there.
func TestReplicaIsNoStore(t *testing.T) {
	master, replica := redistest.Start(t), redistest.Start(t)
	s := open(t, redisstore.Config{}, replica.Addr)
	must(t, s.Swap(t.Context(), "a", nil, []byte("one")))
	if _, err := s.Load(t.Context(), "b"); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("of a master: %v", err)
	}
	replica.Follow(t, master.Addr) // and drops what it had
	_, err := s.Load(t.Context(), "a")
	failing(t, "READONLY", err)
	failing(t, "Swap", s.Swap(t.Context(), "b", nil, []byte("one")))
	master.Kill()
	replica.Do(t, "CONFIG SET replica-serve-stale-data no")
	_, err = s.Load(t.Context(), "a")
	failing(t, "MASTERDOWN", err)
}

// TestFault31_FailoverLosesAWrite: the older record is what there is, and a
// writer who knew the newer is told.
func TestFault31_FailoverLosesAWrite(t *testing.T) {
	master, replica := redistest.Start(t), redistest.Start(t)
	replica.Follow(t, master.Addr)
	proxy := redistest.NewProxy(t, master.Addr)
	s := open(t, redisstore.Config{}, proxy.Addr)
	ctx := t.Context()
	synced := open(t, redisstore.Config{Replicas: 1}, proxy.Addr)
	must(t, synced.Swap(ctx, "a", nil, []byte("one")))
	replica.Pause()
	must(t, s.Swap(ctx, "a", []byte("one"), []byte("two")))
	master.Kill()
	replica.Resume()
	replica.Promote(t)
	proxy.SetTarget(replica.Addr)
	got, err := s.Load(ctx, "a")
	must(t, err)
	// the write may have been in the paused replica's socket
	if string(got) == "one" {
		if err := s.Swap(ctx, "a", []byte("two"), []byte("three")); !errors.Is(err, tokenstore.ErrConflict) {
			t.Errorf("got %v", err)
		}
	}
	must(t, s.Swap(ctx, "a", got, []byte("four")))
	want(t, s, "a", "four")
}
