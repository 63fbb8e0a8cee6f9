package tokensource

import (
	"context"
	"crypto/sha256"
	"fmt"
	"sync"
	"time"
)

// codeOwners remembers for which key each authorization code was handed over. A code is
// one person's consent. Sent a second time, for whatever key, it makes providers revoke
// what the first use brought (RFC 6749, section 4.1.2).
//
// It knows the codes of this process. In a fleet, what is noted in a key's record keeps
// a code from being sent twice for the same key.
type codeOwners struct {
	mu     sync.Mutex
	owners map[[sha256.Size]byte]Key
	order  [][sha256.Size]byte // oldest first
}

// maxCodeOwners bounds the memory. Codes live for minutes.
const maxCodeOwners = 4096

// claim reports whether the code is the key's, which it is for the first that asks.
func (c *codeOwners) claim(sum [sha256.Size]byte, k Key) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if owner, known := c.owners[sum]; known {
		return owner == k
	}
	if c.owners == nil {
		c.owners = make(map[[sha256.Size]byte]Key)
	}
	if len(c.order) == maxCodeOwners {
		delete(c.owners, c.order[0])
		c.order = c.order[1:]
	}
	c.owners[sum] = k
	c.order = append(c.order, sum)
	return true
}

// maxCodeCalls is how many codes of one source may be on their way to the endpoint.
// They wait for nothing else, so an endpoint that hangs would get any number of them,
// each with a connection.
const maxCodeCalls = 64

var errManyCodes = fmt.Errorf("%d codes are on their way to the token endpoint, which takes long: %w", maxCodeCalls, ErrUnavailable)

// enterCode waits for the turn of a code, and returns what ends it. The code was not
// sent if there is an error, and may be handed over again.
func (s *Source) enterCode(ctx context.Context) (leave func(), err error) {
	leave = func() { <-s.codeCalls }
	select {
	case s.codeCalls <- struct{}{}:
		return leave, nil
	default:
	}
	timeout := time.NewTimer(queueWait)
	defer timeout.Stop()
	select {
	case s.codeCalls <- struct{}{}:
		return leave, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-timeout.C:
		return nil, &delayedError{errManyCodes, probeEvery}
	}
}
