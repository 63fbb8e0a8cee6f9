package tokensource_test

import (
	"bytes"
	"context"
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-bearer/caddy-bearer/tokensource"
	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenendpoint"

	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenstore"
)

func storageKey(fill byte) []byte { return bytes.Repeat([]byte{fill}, tokenstore.KeySize) }

// Sealed records hold no token, and every key that is given opens them: keys
// are changed without downtime.
func TestSealedRecords(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ann := tokensource.NewKey("ann") // of a source that renews nothing by timer
		store, g := newMemStore(), &fakeGrant{onToken: func(context.Context, int, tokensource.Vars) (*tokenendpoint.Response, error) {
			return answer("canary-token", "canary-refresh", time.Hour), nil
		}}
		with := func(keys ...[]byte) *tokensource.Source {
			return newSource(t, tokensource.Config{Grant: g, Store: store, StorageKeys: keys, KeyNames: []string{"user"}})
		}
		plain := with()
		want(t, plain, ann, "canary-token")
		_, before := store.only(t)
		if !bytes.Contains(before, []byte("canary")) {
			t.Fatal("there is nothing to seal")
		}
		one, two := storageKey(1), storageKey(2)
		// a record from before there was a key
		migrating := newSource(t, tokensource.Config{Grant: g, Store: store, StorageKeys: [][]byte{one}, MigrateUnsealed: true, KeyNames: []string{"user"}})
		want(t, migrating, ann, "canary-token")
		_, sealed := store.only(t)
		if bytes.Contains(sealed, []byte("canary")) {
			t.Errorf("it was read, and is not sealed: %s", sealed)
		}
		time.Sleep(2 * time.Hour)
		want(t, with(one), ann, "refreshed-1")
		if _, sealed = store.only(t); bytes.Contains(sealed, []byte("refresh")) {
			t.Errorf("the record shows its inside: %s", sealed)
		}
		want(t, with(two, one), ann, "refreshed-1")
		time.Sleep(2 * time.Hour)
		want(t, with(two, one), ann, "refreshed-2") // sealed with the first
		want(t, with(two), ann, "refreshed-2")
		wantCalls(t, g, 1, 2)
	})
}

// A wrong or missing key is a clear error, and never overwrites. When the key
// is back, so is the token.
func TestWrongStorageKey(t *testing.T) {
	for name, keys := range map[string][][]byte{"wrong": {storageKey(2)}, "missing": nil} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ann := tokensource.NewKey("ann") // of a source that renews nothing by timer
				store, g := newMemStore(), &fakeGrant{}
				cfg := tokensource.Config{Grant: g, Store: store, KeyNames: []string{"user"}, StorageKeys: [][]byte{storageKey(1)}}
				want(t, newSource(t, cfg), ann, "granted-1")
				_, record := store.only(t)
				record = bytes.Clone(record)

				cfg.StorageKeys = keys
				s := newSource(t, cfg)
				err := wantErr(t, s, ann, tokensource.ErrRefused)
				if !strings.Contains(err.Error(), "sealed") || !strings.Contains(err.Error(), "storage_key") {
					t.Errorf("%v does not say what is wrong", err)
				}
				if _, err := s.Exchange(context.Background(), ann, code("c")); err == nil {
					t.Error("a code was exchanged for a token that cannot be stored")
				}
				for range 24 {
					time.Sleep(time.Hour)
					wantErr(t, s, ann, tokensource.ErrRefused)
				}
				if _, now := store.only(t); !bytes.Equal(now, record) {
					t.Error("the record was overwritten")
				}
				wantCalls(t, g, 1, 0)
			})
		})
	}
}

func TestStorageKeyOfAnotherSize(t *testing.T) {
	for _, size := range []int{0, 16, 31, 33} {
		_, err := tokensource.New(tokensource.Config{Name: "test", Grant: &fakeGrant{}, StorageKeys: [][]byte{storageKey(1), make([]byte, size)}})
		if err == nil || !strings.Contains(err.Error(), "storage key 2") || !strings.Contains(err.Error(), "expected 32") {
			t.Errorf("a key of %d bytes: %v", size, err)
		}
	}
}

// One user's record under another's name is noticed, and not used: neither the
// seal nor the checksum is good there.
func TestRecordOfAnotherUser(t *testing.T) {
	for name, keys := range map[string][][]byte{"sealed": {storageKey(1)}, "plain": nil} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store, g := newMemStore(), &fakeGrant{}
				cfg := tokensource.Config{Grant: g, Store: store, KeyNames: []string{"user"}, StorageKeys: keys}
				ann, bob := tokensource.NewKey("ann"), tokensource.NewKey("bob")
				want(t, newSource(t, cfg), ann, "granted-1")
				annKey, annRecord := store.only(t)
				want(t, newSource(t, cfg), bob, "granted-2")
				for key := range store.records {
					if key != annKey {
						store.put(key, annRecord)
					}
				}
				want(t, newSource(t, cfg), bob, "granted-3")
				want(t, newSource(t, cfg), ann, "granted-1")
			})
		})
	}
}

// A byte that changed on the disk is noticed, wherever it is.
func TestDamagedBytes(t *testing.T) {
	for name, keys := range map[string][][]byte{"sealed": {storageKey(1)}, "plain": nil} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store, g := newMemStore(), &fakeGrant{onToken: issue("token", time.Hour)}
				cfg := tokensource.Config{Grant: g, Store: store, StorageKeys: keys}
				want(t, newSource(t, cfg), noKey, "token")
				key, record := store.only(t)
				for i := range record {
					damaged := bytes.Clone(record)
					damaged[i] ^= 1
					if !json.Valid(damaged) || reflect.DeepEqual(read(damaged), read(record)) {
						continue // it says the same
					}
					before := g.calls()
					store.records = map[string][]byte{key: damaged}
					s := newSource(t, cfg)
					if tok, err := s.Token(context.Background(), noKey); err == nil && g.calls() == before && tok != nil {
						t.Errorf("byte %d: the damaged record is used: %s", i, damaged)
					}
				}
			})
		})
	}
}

// read takes a record's outside apart as JSON does: the case of names, and the
// last bits of base64, mean nothing.
func read(record []byte) any {
	var r struct {
		Version  int
		Sum, Key string
		Record   json.RawMessage
		Sealed   []byte
	}
	_ = json.Unmarshal(record, &r)
	return r
}

// What the release before this one stored is read, and written anew at the
// next renewal.
func TestRecordOfTheFirstVersion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, g := newMemStore(), &fakeGrant{}
		cfg := tokensource.Config{Grant: g, Store: store}
		want(t, newSource(t, cfg), noKey, "granted-1")
		key, _ := store.only(t)
		old, err := json.Marshal(map[string]any{
			"version": 1, "generation": 7, "access_token": "old", "refresh_token": "r",
			"issued": time.Now().UTC(), "due": time.Now().Add(time.Hour).UTC(), "expiry": time.Now().Add(time.Hour).UTC(),
		})
		if err != nil {
			t.Fatal(err)
		}
		store.put(key, old)
		s := newSource(t, cfg)
		if tok := want(t, s, noKey, "old"); tok.Generation() != 7 {
			t.Errorf("generation %d, want 7", tok.Generation())
		}
		time.Sleep(2 * time.Hour)
		if tok := want(t, s, noKey, "refreshed-2"); tok.Generation() != 9 { // once ahead of time, once since
			t.Errorf("generation %d, want 9", tok.Generation())
		}
	})
}
