package tokensource_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-bearer/caddy-bearer/tokensource"
	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenendpoint"
)

// rotating is a provider whose refresh tokens are good once. A used one that
// comes again revokes the whole grant, unless it comes within the grace.
type rotating struct {
	grace  time.Duration
	delay  time.Duration // from taking the refresh token to the answer
	during func(n int)   // called meanwhile
	expiry time.Duration

	mu      sync.Mutex
	n       int // the newest pair
	used    map[string]time.Time
	calls   int
	alarms  int
	revoked bool
}

func (p *rotating) grant() *fakeGrant {
	p.used = map[string]time.Time{}
	return &fakeGrant{person: true, seed: "r0", onRefresh: p.refresh}
}

func (p *rotating) refresh(ctx context.Context, _ int, refresh string) (*tokenendpoint.Response, error) {
	p.mu.Lock()
	p.calls++
	if at, used := p.used[refresh]; used && time.Since(at) > p.grace {
		p.alarms++
		p.revoked = true
	} else if !used {
		p.used[refresh] = time.Now()
	}
	if p.revoked {
		p.mu.Unlock()
		return nil, refusal("invalid_grant")
	}
	p.n++
	n, during, delay := p.n, p.during, p.delay
	p.mu.Unlock()
	if during != nil {
		during(n)
	}
	time.Sleep(delay)
	return answer(fmt.Sprintf("t%d", n), fmt.Sprintf("r%d", n), max(p.expiry, time.Minute)), nil
}

// meanwhile sets what is called while the provider thinks, and for how long it
// does.
func (p *rotating) meanwhile(during func(n int), delay time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.during, p.delay = during, delay
}

func (p *rotating) want(t *testing.T, calls, alarms int) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.calls != calls || p.alarms != alarms {
		t.Errorf("%d refreshes, %d reuse alarms, want %d, %d", p.calls, p.alarms, calls, alarms)
	}
}

// docs/faults.md, fault 44: replicas share one rotating refresh token, and the provider
// sees each once.
func TestFleetRenewsOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const replicas, rotations = 20, 100
		p := &rotating{delay: 300 * time.Millisecond}
		cfg := tokensource.Config{Grant: p.grant(), Store: newMemStore()}
		var fleet []*tokensource.Source
		for range replicas {
			fleet = append(fleet, newSource(t, cfg))
		}
		for {
			var wg sync.WaitGroup
			for _, s := range fleet {
				wg.Go(func() {
					if _, err := s.Token(context.Background(), noKey); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			if tok := anyToken(t, fleet[0], noKey); tok.Generation() >= rotations {
				p.want(t, int(tok.Generation()), 0)
				return
			}
			time.Sleep(time.Second)
		}
	})
}

// anyToken takes a token, whichever it is.
func anyToken(t *testing.T, s *tokensource.Source, k tokensource.Key) *tokensource.Token {
	t.Helper()
	tok, err := s.Token(context.Background(), k)
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

// A slow call is told from a dead process: nobody takes it over.
func TestSlowCallIsNotTakenOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &rotating{delay: 40 * time.Second}
		cfg := tokensource.Config{Grant: p.grant(), Store: newMemStore()}
		a, b := newSource(t, cfg), newSource(t, cfg)
		go func() { _, _ = a.Token(context.Background(), noKey) }()
		synctest.Wait()
		want(t, b, noKey, "t1")
		p.want(t, 1, 0)
	})
}

// killed returns the store as a process leaves it that is killed while the
// provider answers its second refresh, and the provider.
func killed(t *testing.T, grace time.Duration) (*memStore, *rotating, *fakeGrant) {
	t.Helper()
	left := newMemStore()
	p := &rotating{grace: grace, expiry: time.Hour}
	g := p.grant()
	store := newMemStore()
	p.meanwhile(func(n int) {
		if n == 2 {
			left.put(store.only(t))
		}
	}, 50*time.Millisecond)
	s := newSource(t, tokensource.Config{Grant: g, Store: store})
	want(t, s, noKey, "t1")
	time.Sleep(time.Hour - time.Second)
	if err := s.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	p.meanwhile(nil, 0)
	p.want(t, 2, 0)
	return left, p, g
}

// docs/faults.md, faults 32 and 37: a process is killed between the provider's answer and
// the write. The next one knows, and sends the old refresh token once more, in
// time for a provider that takes it a while longer.
func TestKilledInMidRenewal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, p, g := killed(t, time.Hour)
		log, text := capture()
		s := newSource(t, tokensource.Config{Grant: g, Store: store, Logger: log})
		s.Resume() // no request starts it
		start := time.Now()
		for tok := anyToken(t, s, noKey); tok.AccessToken() != "t3"; tok = anyToken(t, s, noKey) {
			if time.Sleep(100 * time.Millisecond); time.Since(start) > 10*time.Second {
				t.Fatalf("no progress in 10 s: %s", text)
			}
		}
		if took := time.Since(start); took < 2*time.Second {
			t.Errorf("after %v: the other may be alive", took)
		}
		p.want(t, 3, 0)
		mustLog(t, text, "cut off", "r1")
	})
}

// When the store knows that the process is dead, nobody waits.
func TestKilledAndKnownToBe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, p, g := killed(t, time.Hour)
		s := newSource(t, tokensource.Config{Grant: g, Store: knowing{store}})
		s.Resume()
		time.Sleep(200 * time.Millisecond)
		want(t, s, noKey, "t3")
		p.want(t, 3, 0)
	})
}

type knowing struct{ *memStore }

func (knowing) Instance() string { return "this one" }

func (knowing) Dead(_ context.Context, who string) bool { return who != "this one" }

// A strict provider: the token is lost. That is noticed, told of, written
// down, and not tried again by anybody.
func TestLostIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, p, g := killed(t, 0)
		time.Sleep(time.Second)
		for n := range 3 { // replicas and restarts
			log, text := capture()
			told := &witness{}
			s := newSource(t, tokensource.Config{Grant: g, Store: store, Logger: log, Observer: told})
			s.Resume()
			time.Sleep(20 * time.Second)
			wantErr(t, s, noKey, tokensource.ErrAuthorizationRequired)
			if st := s.Stats(); st.NeedPerson != 1 {
				t.Errorf("start %d: Stats.NeedPerson is %d, want 1", n, st.NeedPerson)
			}
			if got := told.lost.Load(); got != 1 {
				t.Errorf("start %d: told %d times, want once", n, got)
			}
			mustLog(t, text, "level=ERROR", "r1")
			p.want(t, 3, 1)
			if n == 2 {
				if _, err := s.Exchange(context.Background(), noKey, code("again")); err != nil {
					t.Fatal(err)
				}
				if st := s.Stats(); st.NeedPerson != 0 {
					t.Error("a new consent does not clear it")
				}
			}
		}
		want(t, newSource(t, tokensource.Config{Grant: g, Store: store}), noKey, "exchanged-again")
	})
}

// witness is an observer that counts.
type witness struct {
	lost, down, up atomic.Int32
}

func (w *witness) Renewing(ctx, _ context.Context, _ tokensource.Renewal) (context.Context, func(tokensource.Outcome)) {
	return ctx, func(tokensource.Outcome) {}
}

func (w *witness) Lost(string, string, error) { w.lost.Add(1) }

func (w *witness) Store(_ string, err error) {
	if err != nil {
		w.down.Add(1)
	} else {
		w.up.Add(1)
	}
}

// The client's fault is not the refresh token's: nothing is written down, and
// when the settings are right again the refresh token is good.
func TestWrongSecretLosesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newMemStore()
		good := &fakeGrant{person: true, seed: "r"}
		bad := &fakeGrant{person: true, seed: "r", onRefresh: func(context.Context, int, string) (*tokenendpoint.Response, error) {
			return nil, refusal("invalid_client")
		}}
		k := tokensource.NewKey("ann")
		cfg := tokensource.Config{Grant: good, Store: store, KeyNames: []string{"user"}}
		want(t, newSource(t, cfg), k, "refreshed-1")
		time.Sleep(2 * time.Hour)
		cfg.Grant = bad
		wantErr(t, newSource(t, cfg), k, tokensource.ErrRefused)
		cfg.Grant = good
		want(t, newSource(t, cfg), k, "refreshed-2")
	})
}

// Contenders that were told of a refusal by the store send nothing.
func TestRefusalIsShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &rotating{}
		g, store := p.grant(), newMemStore()
		cfg := tokensource.Config{Grant: g, Store: store}
		a, b := newSource(t, cfg), newSource(t, cfg)
		want(t, a, noKey, "t1")
		want(t, b, noKey, "t1")
		p.mu.Lock()
		p.revoked = true
		p.mu.Unlock()
		time.Sleep(2 * time.Minute)
		for _, s := range []*tokensource.Source{a, b} {
			err := wantErr(t, s, noKey, tokensource.ErrAuthorizationRequired)
			if errors.Is(err, tokensource.ErrUnavailable) || strings.Contains(err.Error(), "r1") {
				t.Error(err)
			}
		}
		p.want(t, 2, 0)
	})
}
