package tests

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-bearer/caddy-bearer/tests/provider"
)

// tally is what came of calls made under load.
type tally struct {
	made   atomic.Int64
	mu     sync.Mutex
	failed map[string]int // by what went wrong
}

func (l *tally) note(what string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.failed == nil {
		l.failed = map[string]int{}
	}
	l.failed[what]++
}

func (l *tally) failures() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for _, times := range l.failed {
		n += times
	}
	return n
}

// steady makes calls at a steady pace from a few clients until it is told to stop.
func steady(t *testing.T, base string) (l *tally, stop func()) {
	t.Helper()
	transport := &http.Transport{MaxIdleConnsPerHost: 8}
	t.Cleanup(transport.CloseIdleConnections)
	client := &http.Client{Transport: transport, Timeout: hang}
	ctx, cancel := context.WithCancel(t.Context())
	l = &tally{}
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() {
			tick := time.NewTicker(10 * time.Millisecond)
			defer tick.Stop()
			for {
				select {
				case <-ctx.Done():
					return
				case <-tick.C:
				}
				l.made.Add(1)
				resp, err := client.Get(base + "/things")
				if err != nil {
					l.note("connection: " + err.Error())
					continue
				}
				text, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				if err != nil || resp.StatusCode != http.StatusOK {
					l.note(fmt.Sprintf("status %d, %v: %.200s", resp.StatusCode, err, text))
				}
			}
		})
	}
	return l, func() {
		cancel()
		wg.Wait()
	}
}

func (l *tally) wantNoFailure(t *testing.T) {
	t.Helper()
	if n := l.failures(); n > 0 || l.made.Load() < 20 {
		t.Errorf("%d of %d calls failed: %v", n, l.made.Load(), l.failed)
	}
}

// TestLoadRollover: short tokens, and a token endpoint that takes its time: no call notices.
func TestLoadRollover(t *testing.T) {
	s := newSidecar(t, setup{})
	s.p.SetLifetime(3 * time.Second)
	s.p.SetTokenDelay(300 * time.Millisecond)
	s.p.SetForgetful(true)
	s.start(t)
	l, stop := steady(t, s.base)
	eventually(t, "two renewals", func() bool { return s.p.TokenCount() >= 3 })
	stop()
	l.wantNoFailure(t)
}

// TestLoadRevocation in the midst of calls: no refusal reaches the app, and one renewal is enough.
func TestLoadRevocation(t *testing.T) {
	s := newSidecar(t, setup{})
	s.p.SetTokenDelay(100 * time.Millisecond)
	s.p.SetForgetful(true)
	s.start(t)
	l, stop := steady(t, s.base)
	eventually(t, "the load runs", func() bool { return l.made.Load() > 50 })
	s.p.Forget()
	s.p.RevokeAccessTokens()
	before := l.made.Load()
	eventually(t, "it runs on", func() bool { return l.made.Load() > before+200 })
	stop()
	l.wantNoFailure(t)
	if n := s.p.TokenCount(); n != 1 {
		t.Errorf("%d renewals", n)
	}
}

// TestLoadOutage of the token endpoint, while there is a token that is due and valid.
func TestLoadOutage(t *testing.T) {
	s := newSidecar(t, setup{source: alwaysDue})
	s.p.SetForgetful(true)
	s.start(t)
	l, stop := steady(t, s.base)
	eventually(t, "the load runs", func() bool { return l.made.Load() > 50 })
	s.p.ScriptToken(provider.Always(provider.Status(http.StatusServiceUnavailable, nil, "")))
	eventually(t, "renewals fail", func() bool { return s.failures(t) >= 3 })
	s.p.ClearScripts()
	n := s.p.TokenCount()
	eventually(t, "they work again", func() bool { return s.p.TokenCount() > n })
	stop()
	l.wantNoFailure(t)
}

// TestFault40ReloadUnderLoad: the token's state is one, whatever is reloaded, and no call is answered otherwise than before.
// A connection that is closed at the wrong moment is Caddy's own, and chance: `go run ./tests/fleet reloads` holds their number
// against a plain Caddy's.
func TestFault40ReloadUnderLoad(t *testing.T) {
	s := newSidecar(t, setup{})
	s.p.SetForgetful(true)
	s.start(t)
	l, stop := steady(t, s.base)
	for range 40 {
		before := l.made.Load()
		s.load(t, s.config)
		eventually(t, "calls are made", func() bool { return l.made.Load() > before+20 })
	}
	stop()
	t.Logf("failed: %d of %d", l.failures(), l.made.Load())
	for what, n := range l.failed {
		if !strings.HasPrefix(what, "connection: ") {
			t.Errorf("%d times: %s", n, what)
		}
	}
	if n := s.p.TokenCount(); n != 1 {
		t.Errorf("%d token calls", n)
	}
}

// TestFault46ManyFirstRequests come at once on many connections, and the very first of them is given up: one token call
// serves all the others.
func TestFault46ManyFirstRequests(t *testing.T) {
	const connections, each = 200, 50
	s := newSidecar(t, setup{global: "servers {\n\tprotocols h1 h2c\n}", transport: "max_conns_per_host 64"})
	s.p.SetForgetful(true)
	s.p.SetTokenDelay(2 * time.Second)
	s.start(t)
	first, giveUp := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { s.tryGet(first) })
	eventually(t, "the token is asked for", func() bool { return s.p.TokenCount() == 1 })
	giveUp()
	s.wantAllAnswered(t, connections, each)
	wg.Wait()
	if n := s.p.TokenCount(); n != 1 {
		t.Errorf("%d token calls", n)
	}
	if n := s.p.APICount(); n != connections*each {
		t.Errorf("%d API calls", n)
	}
}

// wantAllAnswered makes many requests at once, each some over one HTTP/2 connection, and wants all of them answered with 200.
func (s *sidecar) wantAllAnswered(t *testing.T, connections, each int) {
	t.Helper()
	var ok atomic.Int64
	var wg sync.WaitGroup
	for range connections {
		client := h2cClient(t)
		for range each {
			wg.Go(func() {
				resp, err := client.Get(s.base + "/things")
				if err != nil {
					t.Error(err)
					return
				}
				defer resp.Body.Close()
				if resp.StatusCode == http.StatusOK {
					ok.Add(1)
				}
			})
		}
	}
	wg.Wait()
	if n := ok.Load(); n != int64(connections*each) {
		t.Errorf("%d of %d requests were answered", n, connections*each)
	}
}
