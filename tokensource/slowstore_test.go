package tokensource_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-bearer/caddy-bearer/tokensource"
)

// hanging is a store that does not answer; deaf, it does not heed the context
// either, as a hung network's file system does not.
type hanging struct{ deaf chan struct{} }

func (h hanging) hang(ctx context.Context) error {
	select {
	case <-h.deaf:
		return errDisk
	case <-ctx.Done():
		if h.deaf != nil {
			<-h.deaf
		}
		return ctx.Err()
	}
}

func (h hanging) Load(ctx context.Context, _ string) ([]byte, error) { return nil, h.hang(ctx) }

func (h hanging) Swap(ctx context.Context, _ string, _, _ []byte) error { return h.hang(ctx) }

// A grant that can be repeated does not wait long for a store that hangs, and
// less when it is known to.
func TestHangingStore(t *testing.T) {
	for name, deaf := range map[string]chan struct{}{"heeds the context": nil, "does not": make(chan struct{})} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				if deaf != nil {
					deaf = make(chan struct{}) // of this bubble
				}
				cfg := tokensource.Config{Grant: &fakeGrant{}, Store: hanging{deaf}, KeyNames: []string{"user"}}
				s := openSource(t, cfg)
				for n, most := range []time.Duration{3 * time.Second, time.Second / 2, time.Second / 2} {
					start := time.Now()
					if _, err := s.Token(context.Background(), tokensource.NewKey(fmt.Sprint(n))); err != nil || time.Since(start) > most {
						t.Errorf("user %d: %v after %v, want a token within %v", n, err, time.Since(start), most)
					}
				}
				cfg.KeyNames = nil
				one := openSource(t, cfg)
				one.Resume()
				start := time.Now()
				if _, err := one.Token(context.Background(), noKey); err != nil || time.Since(start) > 4*time.Second {
					t.Errorf("%v after %v, want a token within 4s", err, time.Since(start))
				}
				ctx, cancel := context.WithTimeout(context.Background(), time.Second)
				defer cancel()
				_, _ = s.Close(ctx), one.Close(ctx)
				if deaf != nil {
					close(deaf)
				}
			})
		})
	}
}

// busy counts how many writes there are at once.
type busy struct {
	*memStore
	now, most atomic.Int64
}

func (b *busy) Swap(ctx context.Context, key string, old, value []byte) error {
	n := b.now.Add(1)
	defer b.now.Add(-1)
	for most := b.most.Load(); n > most && !b.most.CompareAndSwap(most, n); {
		most = b.most.Load()
	}
	time.Sleep(5 * time.Millisecond)
	return b.memStore.Swap(ctx, key, old, value)
}

// Another store does not get all tokens at once, neither in a reload nor at
// the end.
func TestTokensAreCopiedInTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const users, most = 2000, 32
		store := &busy{memStore: newMemStore()}
		s := openSource(t, tokensource.Config{Grant: &fakeGrant{}, Store: store, KeyNames: []string{"user"}})
		for n := range users {
			if _, err := s.Token(context.Background(), tokensource.NewKey(fmt.Sprint(n))); err != nil {
				t.Fatal(err)
			}
		}
		for name, copied := range map[string]func(){
			"reload": func() { time.Sleep(time.Minute) },
			"end":    func() { _ = s.Flush(context.Background()) },
		} {
			store.empty()
			store.most.Store(0)
			s.StoreChanged()
			copied()
			if n, got := store.most.Load(), store.count(); n > most || got != users {
				t.Errorf("%s: %d writes at once, want at most %d; %d records, want %d", name, n, most, got, users)
			}
			if st := s.Stats(); st.Unstored != 0 {
				t.Errorf("%s: %d tokens are not stored", name, st.Unstored)
			}
		}
	})
}
