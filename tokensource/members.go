package tokensource

import (
	"sync"

	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenendpoint"
)

// once remembers what was told already. Its zero value is ready for use.
type once struct {
	mu   sync.Mutex
	told map[string]bool
}

// first reports whether it is asked for a name for the first time.
func (o *once) first(name string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.told[name] {
		return false
	}
	if o.told == nil {
		o.told = make(map[string]bool)
	}
	o.told[name] = true
	return true
}

// expiryUnreadable tells, once, of an expiry that could not be read.
func (s *Source) expiryUnreadable(e tokenendpoint.Expiry) {
	if s.warned.first("expiry") {
		s.log.Warn("the response says when its token expires, and that cannot be read: `lifetime` is assumed", "source", s.cfg.Name,
			"path", e.Path, "found", e.Found, "lifetime", s.cfg.Lifetime.Default, "look_at", "expires_in and its kind")
	}
}
