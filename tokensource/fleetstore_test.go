package tokensource_test

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-bearer/caddy-bearer/tokensource"
)

// A fleet whose store fails, for some or for all.

// docs/faults.md, fault 34: a process is taken for dead while it waits for the provider,
// for the store does not take its beats. Whoever stores first has the token;
// the other takes that, and nobody's write is undone.
func TestTakenForDead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &rotating{grace: time.Hour, delay: 20 * time.Second}
		g, shared := p.grant(), newMemStore()
		cut := &cuttable{memStore: shared}
		a := newSource(t, tokensource.Config{Grant: g, Store: cut})
		b := newSource(t, tokensource.Config{Grant: g, Store: shared})
		got := make(chan *tokensource.Token)
		go func() {
			tok, err := a.Token(context.Background(), noKey)
			if err != nil {
				t.Error(err)
			}
			got <- tok
		}()
		synctest.Wait()
		cut.set(true)
		go func() {
			time.Sleep(19 * time.Second) // before a's answer comes
			cut.set(false)
		}()
		theirs := anyToken(t, b, noKey)
		ours := <-got
		if ours.AccessToken() != theirs.AccessToken() || ours.Generation() != 1 {
			t.Errorf("one has %s, the other %s", ours.AccessToken(), theirs.AccessToken())
		}
		p.want(t, 2, 0)
	})
}

// cuttable is a store that one process is cut off from.
type cuttable struct {
	*memStore
	mu  sync.Mutex
	off bool
}

func (c *cuttable) set(off bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.off = off
}

func (c *cuttable) err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.off {
		return errDisk
	}
	return nil
}

func (c *cuttable) Load(ctx context.Context, key string) ([]byte, error) {
	if err := c.err(); err != nil {
		return nil, err
	}
	return c.memStore.Load(ctx, key)
}

func (c *cuttable) Swap(ctx context.Context, key string, old, value []byte) error {
	if err := c.err(); err != nil {
		return err
	}
	return c.memStore.Swap(ctx, key, old, value)
}

// docs/faults.md, fault 45: the side without a store does not rotate; what is valid serves.
func TestSideWithoutAStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &rotating{expiry: time.Hour}
		g, shared := p.grant(), newMemStore()
		told := &witness{}
		cut := &cuttable{memStore: shared}
		a := newSource(t, tokensource.Config{Grant: g, Store: cut, Observer: told})
		b := newSource(t, tokensource.Config{Grant: g, Store: shared})
		want(t, a, noKey, "t1")
		want(t, b, noKey, "t1")
		cut.set(true)
		time.Sleep(time.Hour - 10*time.Second)
		want(t, a, noKey, "t1")
		want(t, b, noKey, "t2")
		p.want(t, 2, 0)
		if told.down.Load() != 1 || a.StoreError() == nil {
			t.Errorf("told %d times that the store is down, want once; StoreError is %v", told.down.Load(), a.StoreError())
		}
		cut.set(false)
		time.Sleep(3 * time.Second)
		want(t, a, noKey, "t2")
		if told.up.Load() != 1 || a.StoreError() != nil {
			t.Errorf("told %d times that it works again, want once; StoreError is %v", told.up.Load(), a.StoreError())
		}
		p.want(t, 2, 0)
	})
}

// The store goes down between the provider's answer and the write, for
// everybody, and comes back: the process that has the token writes it before
// another takes it for dead.
func TestStoreDownBetweenAnswerAndWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &rotating{expiry: 10 * time.Minute}
		g, store := p.grant(), newMemStore()
		cfg := tokensource.Config{Grant: g, Store: store}
		a, b := newSource(t, cfg), newSource(t, cfg)
		want(t, a, noKey, "t1")
		want(t, b, noKey, "t1")
		p.meanwhile(func(n int) {
			if n == 2 {
				store.fail(errDisk, errDisk)
			}
		}, 0)
		time.Sleep(9 * time.Minute) // one of them renews
		p.want(t, 2, 0)
		time.Sleep(30 * time.Second)
		store.fail(nil, nil)
		time.Sleep(20 * time.Second)
		want(t, a, noKey, "t2")
		want(t, b, noKey, "t2")
		p.want(t, 2, 0)
		if a.Stats().Unstored+b.Stats().Unstored != 0 {
			t.Error("not written")
		}
	})
}

// docs/faults.md, fault 31: the store fails over and loses the last write. That is told
// of, and the newer token is written back.
func TestLostWriteIsNoticed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, text := capture()
		p := &rotating{}
		store := newMemStore()
		s := newSource(t, tokensource.Config{Grant: p.grant(), Store: store, Logger: log})
		want(t, s, noKey, "t1")
		key, old := store.only(t)
		time.Sleep(time.Minute)
		want(t, s, noKey, "t2")
		store.put(key, old)
		time.Sleep(time.Minute)
		want(t, s, noKey, "t3")
		p.want(t, 3, 0)
		mustLog(t, text, "lost a write", "r1")
	})
}
