package tokensource_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-bearer/caddy-bearer/tokensource"
	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenendpoint"
)

// minutes issues tokens of 100 s, which are renewed up to 25 s before their end.
func minutes(_ context.Context, n int, _ tokensource.Vars) (*tokenendpoint.Response, error) {
	return answer(fmt.Sprintf("granted-%d", n), "", 100*time.Second), nil
}

// renewedAhead is a source whose token has just been renewed ahead of its expiry.
func renewedAhead(t *testing.T, worked bool) *tokensource.Source {
	t.Helper()
	g := &fakeGrant{onToken: minutes}
	s := newSource(t, tokensource.Config{Grant: g})
	if tok := want(t, s, noKey, "granted-1"); worked {
		tok.Accepted()
	}
	for g.calls() < 2 {
		time.Sleep(time.Second)
	}
	synctest.Wait()
	return s
}

// A renewal ahead of expiry may bring a token that the API does not know yet: the
// one before is kept while it lives, and until the new one is accepted.
func TestPredecessor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tok := want(t, renewedAhead(t, true), noKey, "granted-2")
		p := tok.Predecessor()
		if p == nil || p.AccessToken() != "granted-1" {
			t.Fatalf("the predecessor is %v, want granted-1", p)
		}
		if p.Predecessor() != nil {
			t.Error("a chain is kept")
		}
		tok.Accepted()
		if tok.Predecessor() != nil {
			t.Error("it is kept though the new token is accepted")
		}
	})
	synctest.Test(t, func(t *testing.T) {
		tok := want(t, renewedAhead(t, true), noKey, "granted-2")
		time.Sleep(30 * time.Second)
		if tok.Predecessor() != nil {
			t.Error("it is expired")
		}
	})
}

// What no API took, or what the API refused, is no predecessor.
func TestNoPredecessor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		if want(t, renewedAhead(t, false), noKey, "granted-2").Predecessor() != nil {
			t.Error("it never worked")
		}
	})
	synctest.Test(t, func(t *testing.T) {
		s := newSource(t, tokensource.Config{Grant: &fakeGrant{}})
		old := want(t, s, noKey, "granted-1")
		old.Accepted()
		tok, err := s.Renew(context.Background(), noKey, old)
		if err != nil || tok.Predecessor() != nil {
			t.Errorf("it was refused: %v, %v", tok.Predecessor(), err)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		s := newSource(t, tokensource.Config{Grant: &fakeGrant{person: true}})
		for _, c := range []string{"ann's", "bob's"} {
			tok, err := s.Exchange(context.Background(), noKey, code(c))
			if err != nil || tok.Predecessor() != nil {
				t.Errorf("it may be another account's: %v, %v", tok.Predecessor(), err)
			}
			tok.Accepted()
		}
	})
}

// A token that nobody uses does not keep the one before it for ever.
func TestPredecessorIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &fakeGrant{}
		s := newSource(t, tokensource.Config{Grant: g})
		want(t, s, noKey, "granted-1").Accepted()
		for g.calls() < 2 {
			time.Sleep(time.Second)
		}
		synctest.Wait()
		tok := want(t, s, noKey, "granted-2")
		if tok.Predecessor() == nil {
			t.Fatal("there is none")
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if tok.Predecessor() != nil {
			t.Error("it is kept for more than a minute, and lives")
		}
	})
}

// The token that is there, issued once more, is accepted as before, and not new.
func TestSameTokenIsAcceptedAsBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &fakeGrant{onToken: issue("tok", 100*time.Second)}
		s := newSource(t, tokensource.Config{Grant: g})
		first := want(t, s, noKey, "tok")
		first.Accepted()
		for g.calls() < 2 {
			time.Sleep(time.Second)
		}
		synctest.Wait()
		tok := want(t, s, noKey, "tok")
		if tok == first || !tok.Worked() || tok.Predecessor() != nil || !tok.Received().Equal(first.Received()) {
			t.Errorf("accepted: %v, predecessor %v, received %v after the first", tok.Worked(), tok.Predecessor(), tok.Received().Sub(first.Received()))
		}
	})
}
