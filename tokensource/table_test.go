package tokensource

import (
	"context"
	"strconv"
	"testing"
	"time"

	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenendpoint"
)

// The oldest entries may not go. Those behind them may, and must: strangers'
// keys would otherwise pile up for ever.
func TestTableIsBoundedBehindWhatMustStay(t *testing.T) {
	const bound = 100
	es := newTable(bound, 0, true)
	now := time.Now()
	for i := range 50 {
		e := es.add(NewKey("person", strconv.Itoa(i)), now)
		e.tok = newToken("t", "")
	}
	for i := range 10 * bound {
		now = now.Add(2 * time.Second)
		es.add(NewKey("stranger", strconv.Itoa(i)), now)
	}
	if n := es.order.Len(); n > bound {
		t.Errorf("%d entries, want %d", n, bound)
	}
	for i := range 50 {
		if _, ok := es.byKey.Load(NewKey("person", strconv.Itoa(i))); !ok {
			t.Errorf("person %d is gone", i)
		}
	}
}

// slowGrant issues one token when told to.
type slowGrant struct {
	Grant
	issue chan struct{}
}

func (g slowGrant) Info() GrantInfo { return GrantInfo{Type: "slow", SameEndpoint: true} }

func (g slowGrant) Token(context.Context, Vars) (*tokenendpoint.Response, error) {
	<-g.issue
	return &tokenendpoint.Response{AccessToken: tokenendpoint.NewSecret("tok"), Expiry: tokenendpoint.ExpiresIn(time.Hour)}, nil
}

// docs/faults.md, fault 41: a flight that lands while the source closes sets no timer,
// which would hold the source for the rest of the token's life.
func TestNoTimerAfterClose(t *testing.T) {
	g := slowGrant{issue: make(chan struct{})}
	s, err := New(Config{Name: "test", Grant: g})
	if err != nil {
		t.Fatal(err)
	}
	e := s.single
	e.mu.Lock()
	f := s.launch(context.Background(), e, ReasonFirst, nil, (*renewal).renew)
	e.mu.Unlock()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_ = s.Close(ctx) // the flight goes on
	close(g.issue)
	<-f.done
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.timer != nil && e.timer.Stop() {
		t.Error("a timer runs on after Close")
	}
}
