package tests

import (
	"context"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/certmagic"

	"github.com/caddy-bearer/caddy-bearer/tests/provider"
)

func init() { caddy.RegisterModule(new(brokenStorage)) }

// brokenStorage is a Caddy storage that fails on demand: a disk that root, too, cannot write to.
type brokenStorage struct{ certmagic.FileStorage }

var storageBroken atomic.Bool

func storageError(op string) error {
	if storageBroken.Load() {
		return &os.PathError{Op: op, Path: "/disk", Err: syscall.EIO}
	}
	return nil
}

// CaddyModule implements caddy.Module.
func (*brokenStorage) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "caddy.storage.test_broken", New: func() caddy.Module { return new(brokenStorage) }}
}

// CertMagicStorage implements caddy.StorageConverter.
func (s *brokenStorage) CertMagicStorage() (certmagic.Storage, error) {
	s.Path = caddy.AppDataDir()
	return s, nil
}

// UnmarshalCaddyfile implements caddyfile.Unmarshaler.
func (*brokenStorage) UnmarshalCaddyfile(*caddyfile.Dispenser) error { return nil }

// Load implements certmagic.Storage.
func (s *brokenStorage) Load(ctx context.Context, key string) ([]byte, error) {
	if err := storageError("open"); err != nil {
		return nil, err
	}
	return s.FileStorage.Load(ctx, key)
}

// Store implements certmagic.Storage.
func (s *brokenStorage) Store(ctx context.Context, key string, value []byte) error {
	if err := storageError("write"); err != nil {
		return err
	}
	return s.FileStorage.Store(ctx, key, value)
}

// TestFailingStoreIsNoticed: no request fails while the store does, rotation pauses, and it is told in every way there is:
// once when it begins, once when it ends. A token that could not be written is told of until it is.
func TestFailingStoreIsNoticed(t *testing.T) {
	p := provider.New(provider.Generic)
	c := codes(p, freePort(t))
	c.global, c.source = "storage test_broken", alwaysDue
	s := watch(t, p, c)
	s.p.SetRotate(true)
	s.load(t, s.config)
	s.searchAtEnd(t)
	s.handOver(t)
	if up := s.metric(t, storeUp); up != "1" {
		t.Errorf("store_up is %q", up)
	}
	storageBroken.Store(true)
	t.Cleanup(func() { storageBroken.Store(false) })
	eventually(t, "the store is seen to fail", func() bool {
		s.get(t).wantOK(t)
		return s.metric(t, storeUp) == "0"
	})
	s.wantReady(t, "degraded", "store_down")
	s.wantEvents(t, "token_source.store_down [error:input/output error source:api]")
	calls := s.p.TokenCount()
	for range 20 {
		s.get(t).wantOK(t)
	}

	s.handOver(t) // the person is here now: the code is taken all the same
	s.get(t).wantOK(t)
	if n := s.metric(t, unstored); n != "1" {
		t.Errorf("unstored_tokens is %q", n)
	}
	s.wantReady(t, "degraded", "store_down", "unstored")
	if n := s.p.TokenCount(); n != calls+1 {
		t.Errorf("%d token calls while the store was down, and one code", n-calls)
	}
	if more := takeEvents(); len(more) > 0 {
		t.Errorf("further events: %v", more)
	}

	storageBroken.Store(false)
	s.wantReady(t, "ready")
	s.wantEvents(t, "token_source.store_up [source:api]")
	if up, n := s.metric(t, storeUp), s.metric(t, unstored); up != "1" || n != "0" {
		t.Errorf("store_up is %q, unstored_tokens %q", up, n)
	}
	log := s.logged(t)
	for _, line := range []string{`"token store fails: `, `"token store works again"`} {
		if n := countLines(log, line); n != 1 {
			t.Errorf("%d log lines %s", n, line)
		}
	}
	if !strings.Contains(log, `"token not stored: `) {
		t.Error("no log line says that a token is not stored")
	}
}

// TestStoreDownWithoutAToken: a source that has nothing to serve with is unavailable, and comes back by itself.
func TestStoreDownWithoutAToken(t *testing.T) {
	p := provider.New(provider.Generic)
	c := codes(p, freePort(t))
	c.global, c.source = "storage test_broken", answersAtOnce
	s := watch(t, p, c)
	s.load(t, s.config)
	s.handOver(t)
	stop(t)
	storageBroken.Store(true)
	t.Cleanup(func() { storageBroken.Store(false) })
	s.load(t, s.config)
	s.searchAtEnd(t)
	s.wantReady(t, "degraded", "store_down") // nobody has asked for a token yet
	s.get(t).wantProblem(t, http.StatusServiceUnavailable, "token-unavailable")
	s.wantReadyNow(t, "unavailable", "store_down")
	storageBroken.Store(false)
	s.wantReady(t, "ready")
	s.get(t).wantOK(t)
	s.wantEvents(t, "token_source.store_down [error:input/output error source:api]", "token_source.store_up [source:api]")
	if n := s.p.TokenCount(); n != 1 {
		t.Errorf("%d token calls, want the one for the code", n)
	}
}
