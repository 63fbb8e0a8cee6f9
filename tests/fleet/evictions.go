package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-bearer/caddy-bearer/tests/fleet/rig"
	"github.com/caddy-bearer/caddy-bearer/tokensource"
	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenendpoint"

	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenstore"
)

// shelf is a Store in memory.
type shelf struct {
	parts        [64]shelfPart
	loads, swaps atomic.Int64
}

type shelfPart struct {
	mu     sync.Mutex
	values map[string][]byte
}

func newShelf() *shelf {
	s := &shelf{}
	for i := range s.parts {
		s.parts[i].values = map[string][]byte{}
	}
	return s
}

func (s *shelf) part(key string) *shelfPart {
	n := 0
	for _, c := range []byte(key[max(0, len(key)-8):]) {
		n = n*31 + int(c)
	}
	return &s.parts[n%len(s.parts)]
}

// Load implements tokenstore.Store.
func (s *shelf) Load(_ context.Context, key string) ([]byte, error) {
	s.loads.Add(1)
	p := s.part(key)
	p.mu.Lock()
	defer p.mu.Unlock()
	value, ok := p.values[key]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return bytes.Clone(value), nil
}

// Swap implements tokenstore.Store.
func (s *shelf) Swap(_ context.Context, key string, old, value []byte) error {
	s.swaps.Add(1)
	p := s.part(key)
	p.mu.Lock()
	defer p.mu.Unlock()
	there, ok := p.values[key]
	if ok != (old != nil) || !bytes.Equal(there, old) {
		return tokenstore.ErrConflict
	}
	p.values[key] = bytes.Clone(value)
	return nil
}

// tokenOf is a user's token, of a size. It is worked out from the name, so that nothing of a million has to be remembered.
func tokenOf(kind, user string, size int) string {
	sum := sha256.Sum256([]byte(kind + " " + user))
	text := hex.EncodeToString(sum[:])
	return strings.Repeat(text, size/len(text)+1)[:size]
}

// granted is a grant that asks nobody.
type granted struct {
	size  int
	calls atomic.Int64
}

func (g *granted) answer(v tokensource.Vars) (*tokenendpoint.Response, error) {
	g.calls.Add(1)
	user, ok := v.Lookup("key.user")
	if !ok {
		return nil, errors.New("no user")
	}
	return &tokenendpoint.Response{
		AccessToken:  tokenendpoint.NewSecret(tokenOf("access", user, g.size)),
		RefreshToken: tokenendpoint.NewSecret(tokenOf("refresh", user, 64)),
		TokenType:    "Bearer", Expiry: tokenendpoint.ExpiresIn(24 * time.Hour),
	}, nil
}

func (g *granted) Token(_ context.Context, v tokensource.Vars) (*tokenendpoint.Response, error) {
	return g.answer(v)
}

func (g *granted) Refresh(_ context.Context, v tokensource.Vars, _ tokenendpoint.Secret) (*tokenendpoint.Response, error) {
	return g.answer(v)
}

func (*granted) Info() tokensource.GrantInfo {
	return tokensource.GrantInfo{Type: "granted", Refreshable: true, SameEndpoint: true}
}

// inLibrary uses many more keys than are kept in memory.
func (s *memory) inLibrary(ctx context.Context, r *report) error {
	store, grant := newShelf(), &granted{size: s.size}
	src, err := tokensource.New(tokensource.Config{
		Name: "users", Grant: grant, KeyNames: []string{"user"}, MaxKeys: s.maxKeys, Store: store,
	})
	if err != nil {
		return err
	}
	most := 0
	use := func(user string) error {
		token, err := src.Token(ctx, tokensource.NewKey(user))
		if err == nil && token.AccessToken() != tokenOf("access", user, s.size) {
			err = errors.New("another's token")
		}
		return err
	}
	for _, pass := range []string{"first", "second", "third"} {
		start := time.Now()
		wrong, err := everyKey(ctx, s.more, use)
		if err != nil {
			return err
		}
		r.must(wrong == nil, pass+" use of each of the more keys", result(wrong), "its own token")
		r.note("  time", "%.0f s", time.Since(start).Seconds())
		most = max(most, src.Stats().Tokens)
	}
	r.exactly("token calls for them", int(grant.calls.Load()), s.more)
	r.must(most <= s.maxKeys, "tokens in memory", most, fmt.Sprintf("<= %d", s.maxKeys))
	used := heap()
	if err := src.Close(ctx); err != nil {
		return err
	}
	src = nil //nolint:ineffassign,wastedassign // so that the collector finds it
	// What it ran ends a moment later, and keeps it until then: it is gone when the tokens are, at least.
	own, perKey := 0, 0
	late := rig.Until(ctx, 10*time.Second, "the closed source is collected", func() bool {
		_ = pause(ctx, 20*time.Millisecond)
		own = used - heap()
		perKey = own / min(s.maxKeys, s.more)
		return perKey >= s.size
	})
	r.bound(late == nil, "heap that a closed source gives back", fmt.Sprintf("%d bytes a key", perKey), fmt.Sprintf(">= %d", s.size))
	r.bound(perKey < s.size+s.overhead, "heap of the source, for each key in memory", fmt.Sprintf("%d bytes", perKey), fmt.Sprintf("< %d", s.size+s.overhead))
	r.note("heap of the source; with the store's", "%s, %s", mb(own), mb(used))
	r.note("reads and writes of the store", "%d, %d", store.loads.Load(), store.swaps.Load())
	runtime.KeepAlive(store)
	return nil
}

// heap is what is left after a collection.
func heap() int {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc) //nolint:gosec // it fits
}

// Interface guards
var (
	_ tokenstore.Store  = (*shelf)(nil)
	_ tokensource.Grant = (*granted)(nil)
)
