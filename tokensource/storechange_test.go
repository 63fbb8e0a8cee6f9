package tokensource_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-bearer/caddy-bearer/tokensource"
	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenendpoint"

	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenstore"
)

// A store that becomes another one, loses a write, or is damaged, while tokens
// are renewed.

// A reload copies tokens to another store while a replica renews: its intent
// stays, and a third one waits for it.
func TestCopyKeepsAnothersIntent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &rotating{expiry: 10 * time.Minute}
		g, store := p.grant(), newMemStore()
		cfg := tokensource.Config{Grant: g, Store: store, MaxWait: -1}
		a, b, c := newSource(t, cfg), newSource(t, cfg), newSource(t, cfg)
		for _, s := range []*tokensource.Source{a, b, c} {
			want(t, s, noKey, "t1")
		}
		time.Sleep(time.Minute)
		tok := want(t, b, noKey, "t1")
		tok.Accepted()
		tokC := want(t, c, noKey, "t1")
		p.meanwhile(nil, 3*time.Second)
		go func() { _, _ = b.Renew(context.Background(), noKey, tok) }()
		time.Sleep(500 * time.Millisecond)
		a.StoreChanged() // a reload
		time.Sleep(200 * time.Millisecond)
		tokC.Accepted()
		_, err := c.Renew(context.Background(), noKey, tokC)
		t.Log("c:", err)
		time.Sleep(5 * time.Second)
		p.want(t, 2, 0)
	})
}

// The store becomes another one while a token is written to the one before.
func TestStoreChangedInMidWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		one, two := newMemStore(), newMemStore()
		sw := &switching{cur: one}
		slow := newLateStore(one, 0)
		p := &rotating{expiry: time.Hour, delay: time.Millisecond}
		sw.set(slow)
		s := newSource(t, tokensource.Config{Grant: p.grant(), Store: sw})
		want(t, s, noKey, "t1")
		p.meanwhile(func(n int) { slow.by.Store(int64(200 * time.Millisecond)) }, 0)
		tok := want(t, s, noKey, "t1")
		time.Sleep(time.Minute)
		go func() { _, _ = s.Renew(context.Background(), noKey, tok) }()
		time.Sleep(50 * time.Millisecond) // the answer is there, and is being written
		sw.set(two)
		s.StoreChanged()
		time.Sleep(10 * time.Minute)
		want(t, s, noKey, "t2")
		if two.count() == 0 || s.Stats().Unstored != 0 {
			t.Errorf("the new store has %d records; Unstored is %d", two.count(), s.Stats().Unstored)
		}
	})
}

// A damaged record that could not be set aside is not overwritten.
func TestDamagedRecordIsSetAsideLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newMemStore()
		g := &fakeGrant{}
		cfg := tokensource.Config{Grant: g, Store: store, MaxWait: 30 * time.Second}
		want(t, newSource(t, cfg), noKey, "granted-1")
		k, v := store.only(t)
		store.put(k, v[:len(v)-3])
		store.fail(nil, errDisk)
		s := newSource(t, cfg)
		s.Resume()
		time.Sleep(500 * time.Millisecond)
		store.fail(nil, nil)
		_, err := s.Token(context.Background(), noKey)
		t.Log(err)
		if store.count() != 2 {
			t.Errorf("%d records: it was not set aside", store.count())
		}
	})
}

// A fail-over lost a write, and another replica wrote that generation: there is
// one token for both, and no refusal is written onto the other's.
func TestTwoTokensOfOneGeneration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newMemStore()
		valid := map[string]bool{"r0": true}
		last := time.Time{}
		n := 0
		// A provider that takes the old one for 15 s more, and of which only the newest pair lives.
		g := &fakeGrant{person: true, seed: "r0", onRefresh: func(_ context.Context, _ int, r string) (*tokenendpoint.Response, error) {
			_ = last
			if !valid[r] {
				return nil, refusal("invalid_grant")
			}
			n++
			next := fmt.Sprintf("r%d", n)
			valid = map[string]bool{r: true, next: true}
			return answer(fmt.Sprintf("t%d", n), next, 10*time.Minute), nil
		}}
		cfg := tokensource.Config{Grant: g, Store: store}
		a := newSource(t, cfg)
		want(t, a, noKey, "t1")
		k, old := store.only(t)
		time.Sleep(time.Minute)
		tok := want(t, a, noKey, "t1")
		if _, err := a.Renew(context.Background(), noKey, tok); err != nil { // a: generation 2, r2
			t.Fatal(err)
		}
		store.put(k, old) // fail-over, the last write is lost
		b := newSource(t, cfg)
		tokB := want(t, b, noKey, "t1")
		if _, err := b.Renew(context.Background(), noKey, tokB); err != nil { // b: generation 2, r3, in the store
			t.Fatal(err)
		}
		time.Sleep(9 * time.Minute)
		time.Sleep(20 * time.Second)
		_, errA := a.Token(context.Background(), noKey)
		_, errB := b.Token(context.Background(), noKey)
		time.Sleep(10 * time.Minute)
		_, errA2 := a.Token(context.Background(), noKey)
		_, errB2 := b.Token(context.Background(), noKey)
		_, v := store.only(t)
		if errA != nil || errB != nil || errA2 != nil || errB2 != nil {
			t.Errorf("a %v, b %v, later a %v, b %v; %s", errA, errB, errA2, errB2, v)
		}
	})
}

// docs/faults.md, fault 31: a fail-over loses the last write and leaves the intent. The
// replica that has the token writes it back before another takes it for dead.
func TestLostWriteIsWrittenBackInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newMemStore()
		p := &rotating{expiry: time.Hour, delay: 10 * time.Millisecond}
		var k string
		var old []byte
		g := p.grant()
		p.meanwhile(func(n int) { k, old = store.only(t) }, 0)
		cfg := tokensource.Config{Grant: g, Store: store}
		a, b := newSource(t, cfg), newSource(t, cfg)
		tok := want(t, a, noKey, "t1")
		want(t, b, noKey, "t1")
		time.Sleep(time.Minute)
		if _, err := a.Renew(context.Background(), noKey, tok); err != nil {
			t.Fatal(err)
		}
		p.meanwhile(nil, 0)
		store.put(k, old)
		c := newSource(t, cfg) // a replica starts
		c.Resume()
		time.Sleep(20 * time.Second)
		p.want(t, 2, 0)
	})
}

// A damaged record says that the first refresh token was used: a new replica
// does not send it, and waits for who has a newer one.
func TestDamagedRecordDoesNotBringBackTheSeed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newMemStore()
		p := &rotating{expiry: time.Hour}
		cfg := tokensource.Config{Grant: p.grant(), Store: store}
		a := newSource(t, cfg)
		want(t, a, noKey, "t1")
		k, v := store.only(t)
		store.put(k, v[:len(v)-3])
		time.Sleep(time.Minute)
		c := newSource(t, cfg)
		_, err := c.Token(context.Background(), noKey)
		t.Log(err)
		p.want(t, 1, 0)
	})
}

// A token that is copied takes its refusal along.
func TestCopyKeepsTheRefusal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, n := newMemStore(), 0
		g := &fakeGrant{person: true, seed: "r0"}
		cfg := tokensource.Config{Grant: g, Store: store, MaxWait: -1}
		a := newSource(t, cfg)
		tok := want(t, a, noKey, "refreshed-1")
		g.onRefresh = func(context.Context, int, string) (*tokenendpoint.Response, error) {
			n++
			return nil, refusal("invalid_grant")
		}
		time.Sleep(10 * time.Minute)
		_, _ = a.Renew(context.Background(), noKey, tok)
		a.StoreChanged()
		time.Sleep(time.Hour)
		b := newSource(t, cfg)
		_, err := b.Token(context.Background(), noKey)
		t.Log(err)
		if n != 1 {
			t.Errorf("refused refresh token sent %d times", n)
		}
	})
}

// switching is what environments is
type switching struct {
	mu  sync.Mutex
	cur tokenstore.Store
}

func (s *switching) get() tokenstore.Store { s.mu.Lock(); defer s.mu.Unlock(); return s.cur }

func (s *switching) set(n tokenstore.Store) { s.mu.Lock(); defer s.mu.Unlock(); s.cur = n }

func (s *switching) Load(ctx context.Context, key string) ([]byte, error) {
	return s.get().Load(ctx, key)
}

func (s *switching) Swap(ctx context.Context, key string, old, value []byte) error {
	return s.get().Swap(ctx, key, old, value)
}
