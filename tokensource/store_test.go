package tokensource_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-bearer/caddy-bearer/tokensource"
	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenendpoint"
)

var errDisk = errors.New("disk full")

// A new token is written before anyone uses it.
func TestWrittenBeforeUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newMemStore()
		var written atomic.Bool
		store.onSave = func(string) {
			time.Sleep(5 * time.Second)
			written.Store(true)
		}
		g := &fakeGrant{person: true}
		s := newSource(t, tokensource.Config{Grant: g, Store: store})
		go func() { _, _ = s.Exchange(context.Background(), noKey, code("c")) }()
		synctest.Wait()
		crowd(s, context.Background(), func(tok *tokensource.Token, err error) {
			if err != nil || !written.Load() {
				t.Errorf("a caller has the token: %v, written: %v", err, written.Load())
			}
		})
		written.Store(false)
		time.Sleep(2 * time.Hour)
		want(t, s, noKey, "refreshed-2") // the timer's first, then this one
		if !written.Load() {
			t.Error("a refreshed token is used before it is written")
		}
	})
}

// A restart asks the store, and nobody else.
func TestRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, g := newMemStore(), &fakeGrant{onToken: func(context.Context, int, tokensource.Vars) (*tokenendpoint.Response, error) {
			a := answer("tok", "", time.Hour)
			a.Fields = []tokenendpoint.Field{{Name: "instance_url", Value: "https://eu"}}
			return a, nil
		}}
		cfg := tokensource.Config{Grant: g, Store: store, KeyNames: []string{"user"}}
		k := tokensource.NewKey("ann")
		before := want(t, newSource(t, cfg), k, "tok")
		time.Sleep(30 * time.Minute)
		after := want(t, newSource(t, cfg), k, "tok")
		wantCalls(t, g, 1, 0)
		value, _ := after.Field("instance_url")
		if !after.Expiry().Equal(before.Expiry()) || after.Generation() != before.Generation() || value != "https://eu" {
			t.Errorf("after the restart: expiry %v, generation %d, field %q, want %v, %d", after.Expiry(), after.Generation(), value, before.Expiry(), before.Generation())
		}
		time.Sleep(time.Hour)
		last := newSource(t, cfg)
		if tok := want(t, last, k, "tok"); tok.Generation() != 2 {
			t.Errorf("generation %d, want 2", tok.Generation())
		}
		wantCalls(t, g, 2, 0)
	})
}

// Tokens for ever survive, too.
func TestRestartWithATokenForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &fakeGrant{}
		cfg := tokensource.Config{Grant: g, Store: newMemStore(), Lifetime: tokensource.Lifetime{Forever: true}}
		want(t, newSource(t, cfg), noKey, "granted-1")
		time.Sleep(20 * 365 * 24 * time.Hour)
		if tok := want(t, newSource(t, cfg), noKey, "granted-1"); !tok.Expiry().IsZero() {
			t.Errorf("it expires at %v", tok.Expiry())
		}
		wantCalls(t, g, 1, 0)
	})
}

// Another client is another record, and the old one is there when the
// settings come back.
func TestOtherSettingsOtherRecord(t *testing.T) {
	store := newMemStore()
	for _, c := range []struct {
		client, name, access string
	}{{"a", "x", "a"}, {"b", "x", "b"}, {"a", "y", "y"}, {"a", "x", "a"}} {
		g := &fakeGrant{identity: []string{c.client}, onToken: issue(c.access, time.Hour)}
		want(t, newSource(t, tokensource.Config{Name: c.name, Grant: g, Store: store}), noKey, c.access)
	}
	if len(store.records) != 3 {
		t.Errorf("%d records, want 3", len(store.records))
	}
	for key := range store.records {
		if strings.Trim(key, "0123456789abcdef/") != "" {
			t.Errorf("the record's name %q is not of hashes", key)
		}
	}
}

// docs/faults.md, faults 28 and 30: the store fails; the token serves from memory, the
// write is tried again, no token call is made for it, and somebody is told.
func TestStoreThatDoesNotTakeIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, text := capture()
		store, g := newMemStore(), &fakeGrant{person: true, seed: "r"}
		store.failNth(2) // the intent is written, the token is not
		s := newSource(t, tokensource.Config{Grant: g, Store: store, Logger: log, MaxWait: -1})
		want(t, s, noKey, "refreshed-1")
		for range 58 {
			time.Sleep(time.Minute)
			want(t, s, noKey, "refreshed-1")
		}
		wantCalls(t, g, 0, 1) // rotation pauses, due though it is
		// so often, for others wait for it
		if n := store.saved(); n < 1800 || n > 7200 {
			t.Errorf("%d writes were tried in an hour, want about one a second", n)
		}
		mustLog(t, text, "level=ERROR", "refreshed")
		store.fail(nil, nil)
		time.Sleep(6 * time.Minute)
		if _, record := store.only(t); !strings.Contains(string(record), "refreshed") {
			t.Error("the record is not written")
		}
	})
}

// What has no refresh token to lose is not held up by a disk: when the token
// dies, the next is granted, at once.
func TestReadOnlyDiskDoesNotStopGrants(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, g := newMemStore(), &fakeGrant{}
		store.fail(nil, errDisk)
		s := newSource(t, tokensource.Config{Grant: g, Store: store})
		for range 600 {
			start := time.Now()
			if _, err := s.Token(context.Background(), noKey); err != nil || time.Since(start) > 0 {
				t.Fatalf("Token after %v: %v", time.Since(start), err)
			}
			time.Sleep(time.Minute)
		}
		store.fail(nil, nil) // Close says what it could not write
	})
}

// docs/faults.md, fault 29: the store is down. A token serves; one that hangs on a
// refresh token is not renewed, one that does not is.
func TestStoreDown(t *testing.T) {
	for _, person := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			store, g := newMemStore(), &fakeGrant{person: person}
			if person {
				g.seed = "r"
			}
			s := newSource(t, tokensource.Config{Grant: g, Store: store, KeyNames: []string{"user"}, MaxWait: -1})
			k := tokensource.NewKey("ann")
			first, err := s.Token(context.Background(), k)
			if err != nil {
				t.Fatal(err)
			}
			store.fail(errDisk, errDisk)
			time.Sleep(57 * time.Minute)
			want(t, s, k, first.AccessToken())
			synctest.Wait()
			time.Sleep(time.Hour)
			if person {
				wantErr(t, s, k, tokensource.ErrUnavailable)
				wantCalls(t, g, 0, 1)
			} else if _, err := s.Token(context.Background(), k); err != nil {
				t.Errorf("%v, want a new grant", err)
			}
			store.fail(nil, nil) // Close says what it could not write
		})
	}
}

// docs/faults.md, fault 27: a damaged record is set aside, and told of once.
func TestCorruptRecord(t *testing.T) {
	for _, text := range []string{"", "{", "null", "[]", `{"version":1}`, `{"version":1,"generation":1,"access_token":"a\nb"}`, `{"version":0,"generation":1,"access_token":"canary"}`, "canary canary"} {
		synctest.Test(t, func(t *testing.T) {
			log, logged := capture()
			store, g := newMemStore(), &fakeGrant{}
			cfg := tokensource.Config{Grant: g, Store: store, Logger: log}
			want(t, newSource(t, cfg), noKey, "granted-1")
			key, _ := store.only(t)
			store.put(key, []byte(text))
			want(t, newSource(t, cfg), noKey, "granted-2")
			if aside := string(store.records[key+".corrupt"]); aside != text {
				t.Errorf("set aside: %q, want %q", aside, text)
			}
			mustLog(t, logged, "set aside", "canary")
			want(t, newSource(t, cfg), noKey, "granted-2")
		})
	}
}

// Nothing replaces the damaged record while a person is awaited: it is told of
// once, all the same.
func TestCorruptRecordIsToldOfOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, text := capture()
		store, g := newMemStore(), &fakeGrant{person: true}
		cfg := tokensource.Config{Grant: g, Store: store, Logger: log}
		first := newSource(t, cfg)
		if _, err := first.Exchange(context.Background(), noKey, code("c")); err != nil {
			t.Fatal(err)
		}
		if err := first.Close(context.Background()); err != nil { // it would write the token back
			t.Fatal(err)
		}
		key, _ := store.only(t)
		store.put(key, []byte("damaged"))
		s := newSource(t, cfg)
		for range 100 {
			wantErr(t, s, noKey, tokensource.ErrAuthorizationRequired)
			time.Sleep(10 * time.Second)
		}
		if n := strings.Count(text.String(), "set aside"); n > 2 {
			t.Errorf("told of %d times in 1000 s", n)
		}
	})
}

// docs/faults.md, fault 35: what a newer release wrote is never overwritten, and when it
// is gone, or older again, work goes on.
func TestRecordOfANewerRelease(t *testing.T) {
	for name, exchange := range map[string]bool{"token": false, "exchange": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store, g := newMemStore(), &fakeGrant{}
				cfg := tokensource.Config{Grant: g, Store: store}
				want(t, newSource(t, cfg), noKey, "granted-1")
				key, old := store.only(t)
				var record map[string]any
				if err := json.Unmarshal(old, &record); err != nil {
					t.Fatal(err)
				}
				record["version"] = 3
				newer, err := json.Marshal(record)
				if err != nil {
					t.Fatal(err)
				}
				store.put(key, newer)
				s := newSource(t, cfg)
				if exchange {
					if _, err := s.Exchange(context.Background(), noKey, code("c")); !errors.Is(err, tokensource.ErrRefused) {
						t.Errorf("Exchange: %v, want ErrRefused", err)
					}
				}
				err = wantErr(t, s, noKey, tokensource.ErrRefused)
				if !strings.Contains(err.Error(), "newer release") {
					t.Errorf("%v does not say why", err)
				}
				if _, now := store.only(t); string(now) != string(newer) {
					t.Error("the record was overwritten")
				}
				wantCalls(t, g, 1, 0)
				store.remove(key)
				time.Sleep(time.Minute)
				want(t, s, noKey, "granted-2")
			})
		})
	}
}

// docs/faults.md, fault 31: the store lost the last write; the older generation is not
// taken for the truth.
func TestStoreThatForgets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, g := newMemStore(), &fakeGrant{seed: "r", person: true}
		s := newSource(t, tokensource.Config{Grant: g, Store: store, KeyNames: []string{"user"}})
		k := tokensource.NewKey("ann")
		want(t, s, k, "refreshed-1")
		key, old := store.only(t)
		time.Sleep(2 * time.Hour)
		want(t, s, k, "refreshed-2")
		store.put(key, old)
		time.Sleep(2 * time.Hour)
		if tok := want(t, s, k, "refreshed-3"); tok.Generation() != 3 {
			t.Errorf("generation %d, want 3", tok.Generation())
		}
	})
}

// A token that was not written is refused by the API just as the store comes
// back: the write is not taken for the renewal.
func TestRefusedBeforeItWasWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, g := newMemStore(), &fakeGrant{}
		store.fail(nil, errDisk)
		s := newSource(t, tokensource.Config{Grant: g, Store: store, KeyNames: []string{"user"}, MinInterval: time.Nanosecond})
		k := tokensource.NewKey("ann")
		tok := want(t, s, k, "granted-1")
		time.Sleep(time.Millisecond) // before the first retry of the write
		store.fail(nil, nil)
		if got, err := s.Renew(context.Background(), k, tok); err != nil || got.AccessToken() != "granted-2" {
			t.Errorf("Renew: %v, want granted-2", err)
		}
	})
}
