// Package idp is a provider for tests of a fleet: an authorization server whose refresh tokens rotate, and an API.
//
// It is as strict as the strict ones are. A refresh token that comes again is an alarm, and the whole grant is revoked,
// access tokens too. It may be told to take the old one for a while longer, as some do; even then it takes it only while
// nobody has used its successor. Everything that happens is kept in a log, to the microsecond.
package idp

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"time"
)

// What a client must present.
const (
	ClientID     = "fleet"
	ClientSecret = "the-fleet-secret"
	RedirectURI  = "https://app.example/fleet"
	// Who is the header in which a replica gives its name, for the log.
	Who = "X-Replica"
)

// Settings are what a provider can be told.
type Settings struct {
	// Lifetime is how long access tokens live: whole seconds.
	Lifetime time.Duration
	// MinDelay and MaxDelay bound how long the token endpoint thinks, uniformly at random, before anything is done.
	MinDelay, MaxDelay time.Duration
	// Grace is for how long a used refresh token is still taken. 0: not at all.
	Grace time.Duration
	// Careless: a client that hangs up while the token endpoint thinks has its refresh token used up all the same.
	// Otherwise nothing is done for it.
	Careless bool
	// RevokeEvery: with each so many generations, all access tokens of the grant die together, an eighth of their lifetime
	// later. The refresh token stays good. 0: never.
	RevokeEvery int
}

// Provider is a running provider.
type Provider struct {
	// URL is its root; the token endpoint is /token, all else is the API.
	URL string

	server   *http.Server
	settings Settings

	mu        sync.Mutex
	families  int
	refreshes map[string]*refreshToken
	accesses  map[string]*accessToken
	codes     map[string]bool // true: not used yet
	calls     []*Call
	counts    Counts
	arrivals  []chan<- Arrival
	pruned    time.Time
}

// Start starts a provider on a port of its own.
func Start(s Settings) (*Provider, error) {
	if s.Lifetime < time.Second || s.Lifetime%time.Second != 0 {
		return nil, fmt.Errorf("lifetime %v: expected whole seconds", s.Lifetime)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &Provider{
		URL: "http://" + l.Addr().String(), settings: s,
		refreshes: map[string]*refreshToken{}, accesses: map[string]*accessToken{}, codes: map[string]bool{},
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/token", p.token)
	mux.HandleFunc("/", p.api)
	p.server = &http.Server{
		Handler: mux, ReadHeaderTimeout: 10 * time.Second,
		ConnContext: func(ctx context.Context, c net.Conn) context.Context { return context.WithValue(ctx, connection{}, c) },
	}
	go func() {
		if err := p.server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			panic(err) // the listener is ours alone
		}
	}()
	return p, nil
}

// Close ends it.
func (p *Provider) Close() { _ = p.server.Close() }

// Seed gives a refresh token of a new grant.
func (p *Provider) Seed() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.families++
	return p.newRefresh(&family{number: p.families}, 0)
}

// Static gives an access token that lives for a day.
func (p *Provider) Static() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.families++
	value := secret("access")
	p.accesses[value] = &accessToken{family: &family{number: p.families}, issued: time.Now(), expires: time.Now().Add(24 * time.Hour)}
	return value
}

// Code gives an authorization code for a new grant.
func (p *Provider) Code() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := secret("code")
	p.codes[c] = true
	return c
}

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

// arrive notes a token request.
func (p *Provider) arrive(r *http.Request) (*Call, time.Duration) {
	delay := p.settings.MinDelay
	if span := p.settings.MaxDelay - delay; span > 0 {
		delay += rand.N(span)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	c := &Call{Number: len(p.calls) + 1, Who: r.Header.Get(Who), Arrived: time.Now()}
	p.calls = append(p.calls, c)
	for _, ch := range p.arrivals {
		select {
		case ch <- Arrival{c.Who, c.Arrived, delay}:
		default:
		}
	}
	return c, delay
}
