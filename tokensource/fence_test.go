package tokensource_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-bearer/caddy-bearer/tokensource"
)

// docs/faults.md, fault 34: what was not written for a while does not overwrite what
// another replica wrote since.
func TestLateWriteDoesNotOverwriteANewer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newMemStore()
		ctx := context.Background()
		here := newSource(t, tokensource.Config{Grant: &fakeGrant{person: true}, Store: store, MinInterval: time.Nanosecond})
		if _, err := here.Exchange(ctx, noKey, code("c")); err != nil {
			t.Fatal(err)
		}
		there := newSource(t, tokensource.Config{Grant: &fakeGrant{person: true}, Store: store, MinInterval: time.Nanosecond})
		if _, err := there.Token(ctx, noKey); err != nil {
			t.Fatal(err)
		}
		store.failNth(2) // the intent is written, the token is not
		tok, err := here.Token(ctx, noKey)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if _, err := here.Renew(ctx, noKey, tok); err != nil { // generation 2, not written
			t.Fatal(err)
		}
		store.fail(nil, nil)
		for _, c := range []string{"a", "b", "d"} { // generations 2, 3, 4
			if _, err := there.Exchange(ctx, noKey, code(c)); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(10 * time.Minute) // the late write's turn
		if tok := want(t, newSource(t, tokensource.Config{Grant: &fakeGrant{person: true}, Store: store}), noKey, "exchanged-d"); tok.Generation() < 4 {
			t.Errorf("the store has generation %d, want 4", tok.Generation())
		}
	})
}

// Two replicas of one rotating refresh token, each used, each renewing: the
// one that finds the other's token takes it.
func TestReplicasShareRenewals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, g := newMemStore(), &fakeGrant{person: true, seed: "r"}
		cfg := tokensource.Config{Grant: g, Store: store, KeyNames: []string{"user"}}
		a, b := newSource(t, cfg), newSource(t, cfg)
		k := tokensource.NewKey("ann")
		for range 24 {
			first, err := a.Token(context.Background(), k)
			if err != nil {
				t.Fatal(err)
			}
			want(t, b, k, first.AccessToken())
			time.Sleep(61 * time.Minute)
		}
		wantCalls(t, g, 0, 24)
	})
}
