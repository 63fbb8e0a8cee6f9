package caddymodule

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/certmagic"

	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenstore"
)

// slowStore takes its time, and knows when it was closed.
type slowStore struct {
	name   string
	closed atomic.Bool
	early  atomic.Bool // closed under a call
}

func (s *slowStore) Load(context.Context, string) ([]byte, error) {
	time.Sleep(time.Second)
	s.early.CompareAndSwap(false, s.closed.Load())
	return []byte(s.name), nil
}

func (s *slowStore) Swap(ctx context.Context, key string, _, _ []byte) error {
	_, err := s.Load(ctx, key)
	return err
}

func (s *slowStore) String() string { return s.name }

func (s *slowStore) Close() error {
	s.closed.Store(true)
	return nil
}

// TestStoreOverReloads: a config's store is closed when the config has ended,
// the sources have gone on to another's, and no call is under way.
func TestStoreOverReloads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ps := pooled(t)
		log := slog.New(slog.DiscardHandler)
		one, two := &slowStore{name: "one"}, &slowStore{name: "two"}
		first := newEnvironment(one, log, nil)
		ps.adopt(first)
		ps.attach(first)
		go func() { _ = ps.env.Swap(t.Context(), "a", nil, nil) }()
		synctest.Wait()

		second := newEnvironment(two, log, nil)
		ps.adopt(second)
		ps.attach(second)
		ps.detach(first)
		first.release()
		if one.closed.Load() {
			t.Error("closed under a call")
		}
		time.Sleep(2 * time.Second)
		if !one.closed.Load() || one.early.Load() {
			t.Errorf("closed %v, under a call %v", one.closed.Load(), one.early.Load())
		}
		if got, err := ps.env.Load(t.Context(), "a"); string(got) != "two" {
			t.Errorf("got %s, %v", got, err)
		}

		// the config ends before its source, which serves its last requests
		ps.detach(second)
		second.release()
		if two.closed.Load() {
			t.Error("closed before the source")
		}
		must(t, ps.close(closeTimeout))
		if !two.closed.Load() {
			t.Error("not closed with the source")
		}
		if err := ps.env.Swap(t.Context(), "a", nil, nil); err == nil {
			t.Error("a closed source has a store")
		}
	})
}

// TestStoreOfAFailedReload: a config that does not start takes its own store
// with it, and no other.
func TestStoreOfAFailedReload(t *testing.T) {
	ps := pooled(t)
	log := slog.New(slog.DiscardHandler)
	one, two := &slowStore{name: "one"}, &slowStore{name: "two"}
	running, failing := newEnvironment(one, log, nil), newEnvironment(two, log, nil)
	ps.attach(running)
	ps.adopt(failing)
	ps.detach(failing)
	failing.release()
	if one.closed.Load() || !two.closed.Load() {
		t.Errorf("closed: the running one's %v, the other's %v", one.closed.Load(), two.closed.Load())
	}
	running.release()
	must(t, ps.close(closeTimeout))
}

func TestSameStore(t *testing.T) {
	here, there := certmagic.FileStorage{Path: "/here"}, certmagic.FileStorage{Path: "/there"}
	files := func(s certmagic.FileStorage) tokenstore.Store { return &fileStore{storage: &s} }
	if !sameStore(files(here), files(here)) || sameStore(files(here), files(there)) {
		t.Error("files are told by their folder")
	}
	type settings struct {
		certmagic.Storage `json:"-"`
		Bucket, Password  string `json:",omitempty"`
	}
	bucket := func(name string) tokenstore.Store {
		return newStorageStore(settings{Bucket: name, Password: "canary"})
	}
	if !sameStore(bucket("a"), bucket("a")) || sameStore(bucket("a"), bucket("b")) || strings.Contains(fmt.Sprint(bucket("a")), "canary") {
		t.Error("storages that do not say where they are are told by their settings, which are not shown")
	}
	if none := newStorageStore(struct {
		certmagic.Storage `json:"-"`
	}{}); sameStore(none, none) {
		t.Error("storages of which nothing is known need not be the same")
	}
	if sameStore(nil, files(here)) || sameStore(files(here), newStorageStore(new(memory))) {
		t.Error("different kinds are the same")
	}
}

// TestLivenessOfStores: a source may ask any store; one that does not know
// says so.
func TestLivenessOfStores(t *testing.T) {
	es := new(environmentStack)
	if es.Instance() == "" || es.Dead(t.Context(), es.Instance()) {
		t.Error("without a store")
	}
	es.set([]*environment{newEnvironment(&slowStore{}, slog.Default(), nil)})
	if es.Instance() == "" || es.Dead(t.Context(), "x") {
		t.Error("with a store that does not know")
	}
	es.set([]*environment{newEnvironment(openFiles(t, t.TempDir()), slog.Default(), nil)})
	if es.Instance() != instanceID || es.Dead(t.Context(), instanceID) || !es.Dead(t.Context(), hostPart(instanceID)+randomHex()) {
		t.Error("with files")
	}
}
