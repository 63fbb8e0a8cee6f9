package caddymodule

import (
	"log/slog"
	"sync"

	"github.com/caddy-bearer/caddy-bearer/bearer"
	"github.com/caddy-bearer/caddy-bearer/tokensource"
)

// breakerSets holds the breakers of all APIs that get a source's tokens. They
// survive a reload, and are dropped with the last transport that uses them. If a
// reload reset them, each reload would send requests to an API that refuses.
type breakerSets struct {
	log  *slog.Logger
	mu   sync.Mutex
	sets map[breakerSetKey]*breakerSet
}

type breakerSetKey struct {
	upstreams string
	settings  tokensource.BreakerSettings
}

type breakerSet struct {
	*bearer.Breakers
	users int
}

// take returns the breakers for an API. The caller calls give when it does not use
// them any more.
func (s *breakerSets) take(upstreams string, settings tokensource.BreakerSettings) (bs *bearer.Breakers, give func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := breakerSetKey{upstreams, settings}
	if s.sets == nil {
		s.sets = make(map[breakerSetKey]*breakerSet)
	}
	set := s.sets[key]
	if set == nil {
		set = &breakerSet{Breakers: bearer.NewBreakers(settings, s.log)}
		s.sets[key] = set
	}
	set.users++
	return set.Breakers, sync.OnceFunc(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if set.users--; set.users == 0 {
			delete(s.sets, key)
		}
	})
}

func (s *breakerSets) worst() tokensource.BreakerState {
	s.mu.Lock()
	defer s.mu.Unlock()
	worst := tokensource.BreakerClosed
	for _, bs := range s.sets {
		worst = max(worst, bs.Worst())
	}
	return worst
}
