package tokensource_test

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-bearer/caddy-bearer/tokensource"
)

// killedForAnn returns the store as a process leaves it that is killed while
// it renews one of many users' tokens.
func killedForAnn(t *testing.T, grace time.Duration, keys ...[]byte) (*memStore, *rotating, tokensource.Config) {
	t.Helper()
	store, left := newMemStore(), newMemStore()
	p := &rotating{grace: grace, expiry: time.Hour}
	g := p.grant()
	g.seed = ""
	p.n = 100 // its pairs are others than those of codes
	cfg := tokensource.Config{Grant: g, Store: store, KeyNames: []string{"user"}, StorageKeys: keys}
	s := newSource(t, cfg)
	for _, user := range []string{"ann", "bob", "cid", "dan"} {
		if _, err := s.Exchange(context.Background(), tokensource.NewKey(user), code(user)); err != nil {
			t.Fatal(err)
		}
	}
	p.meanwhile(func(int) {
		for key, value := range store.all() {
			left.put(key, value)
		}
	}, 0)
	ann := tokensource.NewKey("ann")
	time.Sleep(time.Minute)
	if _, err := s.Renew(context.Background(), ann, want(t, s, ann, "exchanged-ann")); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	p.meanwhile(nil, 0)
	p.want(t, 1, 0)
	cfg.Store = left
	return left, p, cfg
}

// docs/faults.md, fault 37, with a key: the start knows, though nobody asks for that key,
// and its token would have lived for long.
func TestKilledForOneKey(t *testing.T) {
	for name, keys := range map[string][][]byte{"plain": nil, "sealed": {storageKey(1)}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				_, p, cfg := killedForAnn(t, 15*time.Second, keys...)
				s := newSource(t, cfg)
				s.Resume()
				ann := tokensource.NewKey("ann")
				time.Sleep(500 * time.Millisecond)
				start := time.Now()
				want(t, s, ann, "exchanged-ann") // it is valid, and nobody waits
				if waited := time.Since(start); waited > 0 {
					t.Errorf("a request waited %v", waited)
				}
				time.Sleep(10 * time.Second)
				p.want(t, 2, 0)
				want(t, s, ann, "t102")
				if n := s.Stats().Tokens; n != 1 {
					t.Errorf("%d tokens in memory, want that one", n)
				}
			})
		})
	}
}

// At a strict provider it is noticed at the start, and told.
func TestLostForOneKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, p, cfg := killedForAnn(t, 0)
		told := &witness{}
		cfg.Observer = told
		s := newSource(t, cfg)
		s.Resume()
		time.Sleep(20 * time.Second)
		if st := s.Stats(); st.NeedPerson != 1 || told.lost.Load() != 1 {
			t.Errorf("NeedPerson %d, told %d times, want 1 and 1", st.NeedPerson, told.lost.Load())
		}
		p.want(t, 2, 1)
	})
}

// The store is down at the start: it is looked into when it is back.
func TestKilledForOneKeyAndTheStoreIsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, p, cfg := killedForAnn(t, time.Hour)
		store.fail(errDisk, errDisk)
		s := newSource(t, cfg)
		s.Resume()
		time.Sleep(time.Minute)
		p.want(t, 1, 0)
		store.fail(nil, nil)
		time.Sleep(20 * time.Second)
		p.want(t, 2, 0)
	})
}

// Other replicas, which renew other keys meanwhile, leave the note where it is.
func TestNoteOfTheDeadStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, p, cfg := killedForAnn(t, time.Hour)
		others := cfg
		others.Grant = &fakeGrant{person: true}
		alive := newSource(t, others)
		for n := range 100 { // some are noted in the same place
			k := tokensource.NewKey(fmt.Sprint(n))
			if _, err := alive.Exchange(context.Background(), k, code(fmt.Sprint(n))); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Minute)
		for n := range 100 {
			k := tokensource.NewKey(fmt.Sprint(n))
			if _, err := alive.Renew(context.Background(), k, anyToken(t, alive, k)); err != nil {
				t.Fatal(err)
			}
		}
		newSource(t, cfg).Resume()
		time.Sleep(20 * time.Second)
		p.want(t, 2, 0)
	})
}

// Notes are taken away: after a day of renewals of many keys few are left.
func TestNotesAreTakenAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const users = 300
		store := newMemStore()
		s := newSource(t, tokensource.Config{Grant: &fakeGrant{person: true}, Store: store, KeyNames: []string{"user"}})
		for n := range users {
			if _, err := s.Exchange(context.Background(), tokensource.NewKey(fmt.Sprint(n)), code(fmt.Sprint(n))); err != nil {
				t.Fatal(err)
			}
		}
		for range 24 {
			time.Sleep(time.Hour)
			for n := range users {
				if _, err := s.Token(context.Background(), tokensource.NewKey(fmt.Sprint(n))); err != nil {
					t.Fatal(err)
				}
			}
		}
		synctest.Wait()
		records, notes := 0, 0
		for _, value := range store.all() {
			var r struct {
				Record struct{ Pending []any }
			}
			if err := json.Unmarshal(value, &r); err != nil {
				t.Fatal(err)
			}
			if r.Record.Pending == nil {
				continue
			}
			records++
			notes += len(r.Record.Pending)
		}
		if records == 0 || records > 16 || notes > 3*records {
			t.Errorf("%d notes in %d records", notes, records)
		}
	})
}
