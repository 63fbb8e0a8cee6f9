package tokensource_test

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-bearer/caddy-bearer/tokensource"
	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenendpoint"
	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenstore"
)

// docs/faults.md, attack 13: there is a storage key, and a record in the store is
// sealed with none. Whoever can write to the store may have made it.

// forged are records of an attacker's that would be used without a key: each has a
// higher generation than any that is there, and something that decides something.
func forged() map[string]tokenstore.Record {
	planted := tokenstore.Record{Generation: 9, AccessToken: "planted-access", RefreshToken: "planted-refresh", Issued: time.Now(), Expiry: time.Now().Add(time.Hour)}
	with := func(change func(*tokenstore.Record)) tokenstore.Record {
		r := planted
		change(&r)
		return r
	}
	stranger := tokenstore.Stamp{At: time.Now(), By: "stranger"}
	return map[string]tokenstore.Record{
		"a token": planted,
		"an expired one": with(func(r *tokenstore.Record) {
			r.Issued, r.Expiry = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
		}),
		"a lease":         with(func(r *tokenstore.Record) { r.Lease = &tokenstore.Lease{ID: "x", Stamp: stranger, TTL: 60_000} }),
		"a lease alone":   {Lease: &tokenstore.Lease{ID: "x", Stamp: stranger, TTL: 60_000}},
		"a refusal":       with(func(r *tokenstore.Record) { r.Refused = &stranger }),
		"a refusal alone": {Refused: &stranger},
		"a doubt":         with(func(r *tokenstore.Record) { r.Doubt = 5 }),
		"codes":           {Codes: []string{"x"}},
	}
}

// unsealed writes a record as it is without a key.
func unsealed(t *testing.T, name string, r tokenstore.Record) []byte {
	t.Helper()
	c, err := tokenstore.NewCodec(nil, false)
	if err != nil {
		t.Fatal(err)
	}
	b, err := c.Encode(name, &r)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// first is a record of version 1, which had no checksum either.
func first(t *testing.T, r tokenstore.Record) []byte {
	t.Helper()
	b := unsealed(t, "", r)
	_, inside, _ := bytes.Cut(b, []byte(`"record":{`))
	return append([]byte(`{"version":1,`), bytes.TrimSuffix(inside, []byte("}"))...)
}

// tokenRecord names the one sealed record of a token that there is.
func tokenRecord(t *testing.T, store *memStore, key []byte) (name string) {
	t.Helper()
	c, err := tokenstore.NewCodec([][]byte{key}, false)
	if err != nil {
		t.Fatal(err)
	}
	for n, record := range store.all() {
		if r, err := c.Decode(n, record); err == nil && r.Generation > 0 {
			name = n
		}
	}
	if name == "" {
		t.Fatal("there is no token in the store")
	}
	return name
}

// eachForgery runs a test with every forged record, of both versions.
func eachForgery(t *testing.T, test func(t *testing.T, forge func(name string) []byte)) {
	t.Helper()
	for what := range forged() {
		for version, make := range map[string]func(name string) []byte{
			"version 2": func(name string) []byte { return unsealed(t, name, forged()[what]) },
			"version 1": func(string) []byte { return first(t, forged()[what]) },
		} {
			t.Run(what+", "+version, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { test(t, make) })
			})
		}
	}
}

// honest is a provider that takes only what it has issued itself.
func honest(t *testing.T, person bool, seed string) *fakeGrant {
	t.Helper()
	return &fakeGrant{person: person, seed: seed, onRefresh: func(_ context.Context, n int, refresh string) (*tokenendpoint.Response, error) {
		if strings.Contains(refresh, "planted") {
			t.Errorf("the planted refresh token was sent")
		}
		return answer("refreshed-"+refresh, refresh, time.Hour), nil
	}}
}

// A source whose grant can be repeated sets the record aside and goes on: nobody who
// can write to the store takes it out of service.
func TestUnsealedAndTheGrantIsRepeatable(t *testing.T) {
	eachForgery(t, func(t *testing.T, forge func(string) []byte) {
		log, text := capture()
		store, g := newMemStore(), honest(t, false, "")
		cfg := tokensource.Config{Grant: g, Store: store, StorageKeys: [][]byte{storageKey(1)}, Logger: log}
		want(t, newSource(t, cfg), noKey, "granted-1")
		name, _ := store.only(t)
		planted := forge(name)
		store.put(name, planted)
		start := time.Now()
		s := newSource(t, cfg)
		want(t, s, noKey, "granted-2")
		if took := time.Since(start); took > 0 {
			t.Errorf("it took %v: it waited for what the record says", took)
		}
		if aside := store.all()[name+".corrupt"]; !bytes.Equal(aside, planted) {
			t.Errorf("set aside: %s", aside)
		}
		mustLog(t, text, "level=ERROR", "planted")
		mustLog(t, text, "record="+name, "planted")
		want(t, newSource(t, cfg), noKey, "granted-2")
		wantCalls(t, g, 2, 0)
		if st := s.Stats(); st.NeedPerson != 0 || len(s.Troubles()) > 0 {
			t.Errorf("%+v, %v", st, s.Troubles())
		}
	})
}

// A person's consent may be in it, so it is left alone and nobody is called: neither
// with what it holds, nor with the initial refresh token. The operator is told what
// to do, and either way out works with no restart.
func TestUnsealedAndAPersonIsNeeded(t *testing.T) {
	for name, keys := range map[string][]string{"one token": nil, "keyed": {"user"}} {
		t.Run(name, func(t *testing.T) {
			eachForgery(t, func(t *testing.T, forge func(string) []byte) {
				var k tokensource.Key
				if keys != nil {
					k = tokensource.NewKey("ann")
				}
				log, text := capture()
				store, g := newMemStore(), honest(t, true, "seed")
				cfg := tokensource.Config{Grant: g, Store: store, StorageKeys: [][]byte{storageKey(1)}, Logger: log, KeyNames: keys}
				begun := newSource(t, cfg)
				want(t, begun, k, "refreshed-seed")
				name := tokenRecord(t, store, storageKey(1))
				if err := begun.Close(t.Context()); err != nil {
					t.Fatal(err)
				}
				planted := forge(name)
				store.put(name, planted)
				since := time.Now()
				s := newSource(t, cfg)
				s.Resume()
				for range 100 {
					err := wantErr(t, s, k, tokensource.ErrUnreadable)
					if !errors.Is(err, tokensource.ErrRefused) || tokensource.FaultOf(err) != tokensource.FaultRecord {
						t.Errorf("%v is of %q", err, tokensource.FaultOf(err))
					}
					for _, word := range []string{"not sealed", "migrate", "removal", "left alone"} {
						if !strings.Contains(err.Error(), word) {
							t.Errorf("%v does not say %q", err, word)
						}
					}
					time.Sleep(10 * time.Second)
				}
				if now := store.all()[name]; !bytes.Equal(now, planted) {
					t.Errorf("it was written over: %s", now)
				}
				wantCalls(t, g, 0, 1)
				var trouble *tokensource.Trouble
				for _, tr := range s.Troubles() {
					if tr.Fault == tokensource.FaultRecord {
						trouble = &tr
					}
				}
				if trouble == nil || trouble.Keys != 1 || !trouble.Since.Equal(since) || !trouble.Next.IsZero() {
					t.Errorf("troubles: %+v, since %v", s.Troubles(), since)
				}
				mustLog(t, text, "record="+name, "planted")
				told := 0
				for line := range strings.Lines(text.String()) {
					if strings.Contains(line, "not sealed") && !strings.Contains(line, "level=DEBUG") {
						told++
					}
				}
				if told != 1 {
					t.Errorf("told %d times in 1000 s:\n%s", told, text.String())
				}

				store.remove(name)
				time.Sleep(10 * time.Second)
				want(t, s, k, "refreshed-seed")
				if len(s.Troubles()) > 0 {
					t.Errorf("it was removed, and there is still %+v", s.Troubles())
				}
			})
		})
	}
}

// Without traffic, too, a source is well again when the record is gone.
func TestUnsealedIsRemoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, g := newMemStore(), honest(t, true, "")
		cfg := tokensource.Config{Grant: g, Store: store, StorageKeys: [][]byte{storageKey(1)}}
		begun := newSource(t, cfg)
		if _, err := begun.Exchange(t.Context(), noKey, code("c")); err != nil {
			t.Fatal(err)
		}
		name, good := store.only(t)
		if err := begun.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		for what, put := range map[string]func(){"removed": func() { store.remove(name) }, "put back": func() { store.put(name, good) }} {
			store.put(name, first(t, forged()["a token"]))
			s := newSource(t, cfg)
			s.Resume()
			time.Sleep(time.Second)
			if len(s.Troubles()) != 1 || s.Stats().Failing != 1 {
				t.Fatalf("%+v, %+v", s.Troubles(), s.Stats())
			}
			put()
			time.Sleep(11 * time.Second)
			if len(s.Troubles()) != 0 || s.Stats().Failing != 0 {
				t.Errorf("%s: %+v, %+v", what, s.Troubles(), s.Stats())
			}
		}
	})
}

// A process that has the token itself writes it back: what was planted is set aside,
// and costs nothing but the write.
func TestUnsealedAndTheTokenIsInMemory(t *testing.T) {
	eachForgery(t, func(t *testing.T, forge func(string) []byte) {
		store := newMemStore()
		p := &rotating{expiry: time.Hour}
		cfg := tokensource.Config{Grant: p.grant(), Store: store, StorageKeys: [][]byte{storageKey(1)}}
		s := newSource(t, cfg)
		want(t, s, noKey, "t1")
		name, _ := store.only(t)
		planted := forge(name)
		time.Sleep(10 * time.Minute) // past the reading that looks for lost writes
		store.put(name, planted)
		time.Sleep(time.Hour)
		want(t, s, noKey, "t2")
		p.want(t, 2, 0)
		if aside := store.all()[name+".corrupt"]; !bytes.Equal(aside, planted) {
			t.Errorf("set aside: %s", aside)
		}
		want(t, newSource(t, cfg), noKey, "t2")
		p.want(t, 2, 0)
	})
}

// While a token is on the way the record is replaced: the token is not lost.
func TestUnsealedInMidRenewal(t *testing.T) {
	eachForgery(t, func(t *testing.T, forge func(string) []byte) {
		store := newMemStore()
		p := &rotating{expiry: time.Hour, delay: 2500 * time.Millisecond}
		g := p.grant()
		p.during = func(int) {
			name, _ := store.only(t)
			store.put(name, forge(name))
		}
		cfg := tokensource.Config{Grant: g, Store: store, StorageKeys: [][]byte{storageKey(1)}}
		s := newSource(t, cfg)
		want(t, s, noKey, "t1")
		p.meanwhile(nil, 0)
		time.Sleep(10 * time.Second) // it may have been stored at the second attempt
		if n := s.Stats().Unstored; n > 0 {
			t.Errorf("%d tokens are not stored", n)
		}
		want(t, newSource(t, cfg), noKey, "t1")
		p.want(t, 1, 0)
	})
}

// A code that a person has just brought is worth more than what the record may hold.
func TestUnsealedAndAPersonBringsACode(t *testing.T) {
	eachForgery(t, func(t *testing.T, forge func(string) []byte) {
		store, g := newMemStore(), honest(t, true, "")
		cfg := tokensource.Config{Grant: g, Store: store, StorageKeys: [][]byte{storageKey(1)}}
		begun := newSource(t, cfg)
		if _, err := begun.Exchange(t.Context(), noKey, code("c1")); err != nil {
			t.Fatal(err)
		}
		if err := begun.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		name, _ := store.only(t)
		planted := forge(name)
		store.put(name, planted)
		s := newSource(t, cfg)
		wantErr(t, s, noKey, tokensource.ErrUnreadable)
		if _, err := s.Exchange(t.Context(), noKey, code("c2")); err != nil {
			t.Fatal(err)
		}
		want(t, s, noKey, "exchanged-c2")
		want(t, newSource(t, cfg), noKey, "exchanged-c2")
		if aside := store.all()[name+".corrupt"]; !bytes.Equal(aside, planted) {
			t.Errorf("set aside: %s", aside)
		}
	})
}

// Notes that are not sealed send nobody anywhere, and hold up no renewal.
func TestUnsealedNotes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		left, p, cfg := killedForAnn(t, time.Hour, storageKey(1))
		var notes string
		for name, record := range left.all() { // ann's note, sealed; now it is not
			c, err := tokenstore.NewCodec(cfg.StorageKeys, false)
			if err != nil {
				t.Fatal(err)
			}
			if r, err := c.Decode(name, record); err == nil && r.Notes != nil {
				notes = name
				left.put(name, unsealed(t, name, *r))
			}
		}
		if notes == "" {
			t.Fatal("there is no note")
		}
		log, text := capture()
		cfg.Logger = log
		s := newSource(t, cfg)
		s.Resume()
		time.Sleep(time.Minute)
		p.want(t, 1, 0)
		if n := s.Remembered(); n > 0 {
			t.Errorf("%d keys in memory", n)
		}
		mustLog(t, text, "record="+notes, "ann")

		ann := tokensource.NewKey("ann") // a request finds the renewal that was cut off
		want(t, s, ann, "exchanged-ann")
		want(t, s, ann, "exchanged-ann")
		time.Sleep(10 * time.Second)
		p.want(t, 2, 0)
		want(t, s, ann, "t102")
		if b := left.all()[notes]; bytes.Contains(b, []byte("pending")) {
			t.Errorf("the notes were not written over: %s", b)
		}
	})
}

// A key is added to a store that is in use: each record is sealed when it is read,
// with all that it says, and told of once.
func TestMigrateUnsealed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		left, p, cfg := killedForAnn(t, 15*time.Second) // notes, a lease of a dead process, three users' tokens
		log, text := capture()
		cfg.Logger, cfg.StorageKeys, cfg.MigrateUnsealed = log, [][]byte{storageKey(1)}, true
		s := newSource(t, cfg)
		s.Resume()
		time.Sleep(10 * time.Second)
		p.want(t, 2, 0) // ann's renewal was found by its note, and looked after
		want(t, s, tokensource.NewKey("ann"), "t102")
		for _, user := range []string{"bob", "cid", "dan"} {
			want(t, s, tokensource.NewKey(user), "exchanged-"+user)
		}
		plain := func() (n int) {
			for _, record := range left.all() {
				if bytes.Contains(record, []byte(`"record"`)) {
					n++
				}
			}
			return n
		}
		if n := plain(); n > 0 {
			t.Errorf("%d records are not sealed", n)
		}
		told := strings.Count(text.String(), "is sealed now")
		if told != 4 { // the notes, and three users; ann's was written over
			t.Errorf("told of %d records:\n%s", told, text.String())
		}
		cfg.MigrateUnsealed = false
		after := newSource(t, cfg)
		for _, user := range []string{"bob", "cid", "dan"} {
			want(t, after, tokensource.NewKey(user), "exchanged-"+user)
		}
		p.want(t, 2, 0)
		if again := strings.Count(text.String(), "is sealed now"); again != told {
			t.Errorf("told of %d records once more", again-told)
		}
	})
}

// A fleet gets its first key replica by replica. One that has none yet is renewing
// when another one, which has it, reads the record: what the renewal brings is
// stored, and then sealed, and no refresh token is sent twice.
func TestMigrateWhileAnotherRenewsWithoutAKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newMemStore()
		p := &rotating{expiry: time.Hour}
		cfg := tokensource.Config{Grant: p.grant(), Store: store}
		old := newSource(t, cfg)
		want(t, old, noKey, "t1")
		var migrated atomic.Pointer[tokensource.Source]
		cfg.StorageKeys, cfg.MigrateUnsealed = [][]byte{storageKey(1)}, true
		p.meanwhile(func(n int) {
			s := newSource(t, cfg)
			s.Resume()
			migrated.Store(s)
		}, 8*time.Second)
		time.Sleep(time.Minute)
		tok := want(t, old, noKey, "t1")
		if _, err := old.Renew(context.Background(), noKey, tok); err != nil {
			t.Fatal(err)
		}
		p.meanwhile(nil, 0)
		time.Sleep(time.Minute)
		s := migrated.Load()
		want(t, s, noKey, "t2")
		if _, record := store.only(t); bytes.Contains(record, []byte("access_token")) {
			t.Errorf("it is not sealed: %s", record)
		}
		if n := old.Stats().Unstored; n > 0 {
			t.Errorf("%d tokens are in the old replica's memory alone", n)
		}
		time.Sleep(57 * time.Minute)
		want(t, old, noKey, "t2") // it serves what it has
		want(t, s, noKey, "t3")
		p.want(t, 3, 0)
	})
}
