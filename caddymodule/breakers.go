package caddymodule

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-bearer/caddy-bearer/tokensource"
)

// breakers are the circuit breakers at one API, one for each key that has
// something to count: one user's revoked consent shuts nobody else out, and a
// million users who are well cost nothing.
type breakers struct {
	settings tokensource.BreakerSettings
	counting atomic.Int64 // how many there are: mostly none
	mu       sync.Mutex
	byKey    map[tokensource.Key]*tokensource.Breaker
}

// probeDeadline is how long a half-open breaker waits for its probe.
const probeDeadline = 10 * time.Second

func newBreakers(s tokensource.BreakerSettings) *breakers {
	return &breakers{settings: s, byKey: make(map[tokensource.Key]*tokensource.Breaker)}
}

// allow asks whether a request may be sent. If so, done takes its verdict.
func (bs *breakers) allow(k tokensource.Key) (done func(tokensource.Verdict), err error) {
	if bs.counting.Load() == 0 {
		return bs.first(k), nil
	}
	bs.mu.Lock()
	b := bs.byKey[k]
	bs.mu.Unlock()
	if b == nil {
		return bs.first(k), nil
	}
	report, err := b.Allow(probeDeadline)
	if err != nil {
		return nil, err
	}
	return func(v tokensource.Verdict) {
		report(v)
		if v == tokensource.Works {
			bs.forget(k, b)
		}
	}, nil
}

// first makes a breaker when there is something to count.
func (bs *breakers) first(k tokensource.Key) func(tokensource.Verdict) {
	return func(v tokensource.Verdict) {
		if v != tokensource.Fails {
			return
		}
		bs.mu.Lock()
		b := bs.byKey[k]
		if b == nil {
			b = tokensource.NewBreaker(bs.settings)
			bs.byKey[k] = b
			bs.counting.Store(int64(len(bs.byKey)))
		}
		bs.mu.Unlock()
		if done, err := b.Allow(probeDeadline); err == nil {
			done(v)
		}
	}
}

// forget drops a breaker with nothing to count.
func (bs *breakers) forget(k tokensource.Key, b *tokensource.Breaker) {
	bs.mu.Lock()
	defer bs.mu.Unlock()
	if bs.byKey[k] == b && b.Idle() {
		delete(bs.byKey, k)
		bs.counting.Store(int64(len(bs.byKey)))
	}
}

func (bs *breakers) worst() tokensource.BreakerState {
	bs.mu.Lock()
	defer bs.mu.Unlock()
	worst := tokensource.BreakerClosed
	for _, b := range bs.byKey {
		worst = max(worst, b.State())
	}
	return worst
}

// breakerSets are the breakers of all the APIs that one source's tokens go
// to. They stay when a config is reloaded.
type breakerSets struct {
	mu   sync.Mutex
	sets map[breakerSetKey]*breakers
}

type breakerSetKey struct {
	upstreams string
	settings  tokensource.BreakerSettings
}

func (s *breakerSets) set(upstreams string, settings tokensource.BreakerSettings) *breakers {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := breakerSetKey{upstreams, settings}
	if s.sets == nil {
		s.sets = make(map[breakerSetKey]*breakers)
	}
	if s.sets[key] == nil {
		s.sets[key] = newBreakers(settings)
	}
	return s.sets[key]
}

func (s *breakerSets) worst() tokensource.BreakerState {
	s.mu.Lock()
	defer s.mu.Unlock()
	worst := tokensource.BreakerClosed
	for _, bs := range s.sets {
		worst = max(worst, bs.worst())
	}
	return worst
}
