package tokensource_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-bearer/caddy-bearer/tokensource"
	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenendpoint"
)

// tokenOf is a grant whose tokens name their key.
func tokenOf(name string) *fakeGrant {
	return &fakeGrant{onToken: func(_ context.Context, _ int, v tokensource.Vars) (*tokenendpoint.Response, error) {
		user, _ := v.Lookup("key." + name)
		return answer(fmt.Sprintf("%x", user), "", time.Hour), nil
	}}
}

// Attack 6: what must stay apart though something folds, cleans or joins it.
var alike = [][]string{
	{"a", "bc"},
	{"ab", "c"},
	{"abc", ""},
	{"", "abc"},
	{"a", "b/c"},
	{"a/b", "c"},
	{"a:b", "c"},
	{"a", "b:c"},
	{"ann", ""},
	{"Ann", ""},
	{"ANN", ""},
	{"ann ", ""},
	{" ann", ""},
	{"ann\x00", ""},
	{"", "ann"},
	{"", ""},
	{"..", ""},
	{"../ann", ""},
	{"./ann", ""},
	{"ann/", ""},
	{"x/../ann", ""},
	{"%61nn", ""},
	{"\x03ann", ""},
	{"\x00\x03ann", ""},
	{"é", ""},
	{"e\u0301", ""},
	{"ß", ""},
	{"ss", ""},
	{"İ", ""},
	{"i", ""},
	{"ﬁ", ""},
	{"fi", ""},
	{"a\xff", ""},
	{"a\xfe", ""},
	{"a\ufffd", ""},
	{strings.Repeat("a", 127), "b"},
	{strings.Repeat("a", 128), "b"},
	{strings.Repeat("a", 129), ""},
}

func TestKeysStayApart(t *testing.T) {
	store := newMemStore()
	s := newSource(t, tokensource.Config{KeyNames: []string{"user", "tenant"}, Store: store, Grant: &fakeGrant{
		onToken: func(_ context.Context, _ int, v tokensource.Vars) (*tokenendpoint.Response, error) {
			user, _ := v.Lookup("key.user")
			tenant, _ := v.Lookup("key.tenant")
			return answer(fmt.Sprintf("%x.%x", user, tenant), "", time.Hour), nil
		},
	}})
	for range 2 {
		for _, values := range alike {
			want(t, s, tokensource.NewKey(values...), fmt.Sprintf("%x.%x", values[0], values[1]))
		}
	}
	if len(store.records) != len(alike) {
		t.Errorf("%d records for %d keys", len(store.records), len(alike))
	}
	for _, values := range alike {
		if got := tokensource.NewKey(values...).Values(); !slices.Equal(got, values) {
			t.Errorf("NewKey(%q) gives back %q", values, got)
		}
	}
}

func TestNoKey(t *testing.T) {
	var zero tokensource.Key
	if tokensource.NewKey() != zero || tokensource.NewKey("") == zero || zero.String() != "" || len(zero.Values()) != 0 {
		t.Error("the zero key is not that of no values")
	}
}

// Attack 6: 1,000 users, interleaved calls of every kind, in a table too small
// for them: never another user's token.
func TestNeverAnotherUsersToken(t *testing.T) {
	s := newSource(t, tokensource.Config{
		Grant: tokenOf("user"), KeyNames: []string{"user"}, MaxKeys: 300, Store: newMemStore(), MinInterval: time.Nanosecond,
	})
	calls := 200_000
	if raceDetector {
		calls = 50_000
	}
	var left atomic.Int64
	left.Store(int64(calls))
	var wg sync.WaitGroup
	for worker := range 16 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(1, uint64(worker)))
			for left.Add(-1) >= 0 {
				user := fmt.Sprintf("user-%d", r.IntN(1000))
				k := tokensource.NewKey(user)
				tok, err := s.Token(context.Background(), k)
				if err == nil && r.IntN(20) == 0 {
					if again, err := s.Renew(context.Background(), k, tok); err == nil {
						tok = again
					}
				}
				if err != nil || tok.AccessToken() != fmt.Sprintf("%x", user) {
					t.Errorf("%s got %v, %v", user, tok, err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// docs/faults.md, fault 47: the table is bounded; the key unused for longest goes first,
// and its token comes back from the store.
func TestEviction(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, g := newMemStore(), tokenOf("user")
		s := newSource(t, tokensource.Config{Grant: g, KeyNames: []string{"user"}, MaxKeys: 100, Store: store})
		take := func(n int) {
			t.Helper()
			user := fmt.Sprintf("user-%03d", n)
			want(t, s, tokensource.NewKey(user), fmt.Sprintf("%x", user))
		}
		for n := range 100 {
			take(n)
			time.Sleep(2 * time.Second)
		}
		take(0) // used again: now the youngest
		time.Sleep(2 * time.Second)
		for n := 100; n < 150; n++ {
			take(n)
			time.Sleep(2 * time.Second)
		}
		if got := s.Stats().Tokens; got != 100 {
			t.Errorf("%d tokens in memory, want 100", got)
		}
		wantCalls(t, g, 150, 0)
		loads := store.loads
		take(0)
		take(51)
		if store.loads != loads {
			t.Error("a key that was used since was evicted")
		}
		take(1)
		if store.loads != loads+1 {
			t.Error("the key unused for longest was not evicted")
		}
		wantCalls(t, g, 150, 0)
	})
}

// MaxMemory: long tokens count for more, and what is evicted comes back.
func TestEvictionByMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size, bound = 2000, 100_000
		g := &fakeGrant{onToken: func(_ context.Context, n int, v tokensource.Vars) (*tokenendpoint.Response, error) {
			user, _ := v.Lookup("key.user")
			return answer(strings.Repeat("x", size-len(user))+user, "", time.Hour), nil
		}}
		s := newSource(t, tokensource.Config{Grant: g, KeyNames: []string{"user"}, MaxMemory: bound, Store: newMemStore()})
		for range 3 {
			for n := range 200 {
				user := fmt.Sprintf("user-%03d", n)
				tok, err := s.Token(context.Background(), tokensource.NewKey(user))
				if err != nil || !strings.HasSuffix(tok.AccessToken(), user) {
					t.Fatalf("%s: %v, %v", user, tok, err)
				}
				time.Sleep(time.Second)
			}
		}
		wantCalls(t, g, 200, 0)
		if got := s.Stats().Tokens; got*size > bound || got*size < bound/3 {
			t.Errorf("%d tokens of %d bytes in memory, for %d bytes", got, size, bound)
		}
	})
}

// A refused token that was evicted meanwhile is still the one in the store: it is
// replaced, and not handed out again.
func TestRenewAfterAnEviction(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &fakeGrant{}
		s := newSource(t, tokensource.Config{Grant: g, KeyNames: []string{"user"}, MaxKeys: 10, Store: newMemStore()})
		ann := tokensource.NewKey("ann")
		refused, err := s.Token(context.Background(), ann)
		if err != nil {
			t.Fatal(err)
		}
		refused.Accepted()
		for _, k := range users(50) {
			time.Sleep(2 * time.Second)
			if _, err := s.Token(context.Background(), k); err != nil {
				t.Fatal(err)
			}
		}
		next, err := s.Renew(context.Background(), ann, refused)
		if err != nil || next.AccessToken() == refused.AccessToken() {
			t.Errorf("Renew: %v, want another token", err)
		}
	})
}

// MaxMemory: a key without a token weighs too.
func TestKeysWithoutATokenAreEvicted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &fakeGrant{perKey: true, onToken: func(context.Context, int, tokensource.Vars) (*tokenendpoint.Response, error) {
			return nil, refusal("access_denied")
		}}
		s := newSource(t, tokensource.Config{Grant: g, KeyNames: []string{"user"}, MaxMemory: 100_000, Store: newMemStore()})
		for n := range 1000 {
			_, _ = s.Token(context.Background(), tokensource.NewKey(fmt.Sprint(n)))
		}
		if n := s.Remembered(); n > 200 {
			t.Errorf("%d keys are remembered in 100 kB", n)
		}
	})
}

// Many renewals at once of one process, whose keys are noted in a few records:
// none fails because they are in each other's way.
func TestSimultaneousRenewalsAreNoted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newMemStore()
		s := newSource(t, tokensource.Config{Grant: &fakeGrant{person: true}, KeyNames: []string{"user"}, Store: &slowWrites{store}})
		ks := users(1000)
		for _, k := range ks {
			if _, err := s.Exchange(context.Background(), k, code(k.String())); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(2 * time.Hour)
		var failed atomic.Int32
		var wg sync.WaitGroup
		for _, k := range ks {
			wg.Go(func() {
				if _, err := s.Token(context.Background(), k); err != nil {
					failed.Add(1)
				}
			})
		}
		wg.Wait()
		if n := failed.Load(); n > 0 {
			t.Errorf("%d of 1000 simultaneous renewals failed", n)
		}
	})
}

// slowWrites is a store whose writes take a millisecond.
type slowWrites struct{ *memStore }

func (s *slowWrites) Swap(ctx context.Context, key string, old, value []byte) error {
	time.Sleep(time.Millisecond)
	return s.memStore.Swap(ctx, key, old, value)
}

// A token that is not in the store is never evicted.
func TestUnsavedIsNotEvicted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newMemStore()
		g := &fakeGrant{onToken: tokenOf("user").onToken}
		s := newSource(t, tokensource.Config{Grant: g, KeyNames: []string{"user"}, MaxKeys: 50, Store: store})
		users := keys(40)
		store.fail(nil, errDisk)
		for _, k := range users {
			if _, err := s.Token(context.Background(), k); err != nil {
				t.Fatal(err)
			}
		}
		store.fail(nil, nil)
		store.saveErr = nil
		for n := range 500 { // others come and go, in the same moment
			if _, err := s.Token(context.Background(), tokensource.NewKey(fmt.Sprint(n))); err != nil {
				t.Fatal(err)
			}
		}
		if n := g.calls(); n != 540 {
			t.Fatalf("%d grants, want 540", n)
		}
		for _, k := range users {
			if _, err := s.Token(context.Background(), k); err != nil {
				t.Fatal(err)
			}
		}
		if n := g.calls(); n != 540 {
			t.Errorf("%d grants more: tokens that were not stored are gone", n-540)
		}
	})
}

// Without a store, what a person brought is in this memory alone.
func TestTokenOfAPersonIsNotEvicted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSource(t, tokensource.Config{Grant: &fakeGrant{person: true}, KeyNames: []string{"user"}, MaxKeys: 40})
		users := keys(80)
		for i, k := range users {
			if _, err := s.Exchange(context.Background(), k, code(fmt.Sprint(i))); err != nil {
				t.Fatal(err)
			}
			time.Sleep(2 * time.Second)
		}
		for n := range 100 {
			wantErr(t, s, tokensource.NewKey("stranger "+fmt.Sprint(n)), tokensource.ErrAuthorizationRequired)
			time.Sleep(2 * time.Second)
		}
		for i, k := range users {
			want(t, s, k, fmt.Sprintf("exchanged-%d", i))
		}
	})
}

// The table is full of keys that cannot go, since each is about to get its
// token. The next key is over the bound for a while; its caller neither spins
// nor outstays its context.
func TestFullTable(t *testing.T) {
	release := make(chan struct{})
	g := &fakeGrant{onToken: func(_ context.Context, n int, _ tokensource.Vars) (*tokenendpoint.Response, error) {
		if n == 1 {
			<-release
		}
		return answer("tok", "", time.Hour), nil
	}}
	s := newSource(t, tokensource.Config{Grant: g, KeyNames: []string{"user"}, MaxKeys: 1})
	first := make(chan error, 1)
	go func() {
		_, err := s.Token(context.Background(), tokensource.NewKey("ann"))
		first <- err
	}()
	for g.calls() == 0 {
		select {
		case <-time.After(time.Millisecond):
		case err := <-first:
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	second := make(chan error, 1)
	go func() {
		_, err := s.Token(ctx, tokensource.NewKey("bob"))
		second <- err
	}()
	select {
	case err := <-second:
		if err != nil && !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		close(release)
	case <-time.After(2 * time.Second):
		t.Error("bob's call spins, past its context's end")
		close(release)
		<-second
	}
	<-first
}
