package provider

import (
	"context"
	"math/rand/v2"
	"net"
	"net/http"
	"time"
)

// Who is the header in which a client may give its name.
const Who = "X-Replica"

// Who is the name that the client gave.
func (c Call) Who() string { return c.Header.Get(Who) }

// Arrival is a token request that has just come in.
type Arrival struct {
	Who   string
	At    time.Time
	Delay time.Duration // how long the provider is going to think
}

// Arrivals tells of token requests as they come in. One that is not taken from the channel at once is not told of.
func (p *Provider) Arrivals() <-chan Arrival {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := make(chan Arrival, 1)
	p.arrivals = append(p.arrivals, c)
	return c
}

// arrive settles how long the provider thinks about a token request, and tells of its arrival. The lock is held.
func (x *Exchange) arrive() {
	s := &x.p.settings
	x.thinking = s.minThinking
	if span := s.maxThinking - s.minThinking; span > 0 {
		x.thinking += rand.N(span)
	}
	for _, c := range x.p.arrivals {
		select {
		case c <- Arrival{x.call.Who(), x.call.Time, x.thinking}:
		default:
		}
	}
}

// think lets the time pass before a token request is decided, and gives the time at which it is. If the provider is
// attentive and the client is gone by then, the call ends.
func (x *Exchange) think() time.Time {
	if x.thinking > 0 {
		timer := time.NewTimer(x.thinking)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-x.p.closing:
			panic(http.ErrAbortHandler)
		}
	}
	now := time.Now() // a client that is found to be there is alive now
	x.p.mu.Lock()
	defer x.p.mu.Unlock()
	if x.p.settings.attentive && gone(x.R) {
		x.decided(HungUp, now)
		panic(http.ErrAbortHandler)
	}
	return now
}

// connection is where a request's context keeps its connection.
type connection struct{}

// ConnContext is for an http.Server in front of the provider: it lets the provider know at once of a client that hung
// up. Without it, and in memory, the provider knows when the request's context does.
func ConnContext(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, connection{}, c)
}

// gone reports whether the client of a request has hung up. The kernel knows at once; net/http hears of it a moment
// later, which may be long on a busy machine.
func gone(r *http.Request) bool {
	if r.Context().Err() != nil {
		return true
	}
	conn, ok := r.Context().Value(connection{}).(net.Conn)
	return ok && closedByPeer(conn)
}
