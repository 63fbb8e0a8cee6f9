package tokensource

import (
	"context"
	"time"
)

// Observer is told what a source does. It must not block, and must not call
// the source.
type Observer interface {
	// Renewing is called when a renewal begins. cause is the context of the
	// request that started it, or a background one: to read a span from, not to
	// make calls with. The context that it returns, made of ctx, goes to the
	// token calls; the function is called once, at the end.
	Renewing(ctx, cause context.Context, r Renewal) (context.Context, func(Outcome))
	// Lost is called when a refresh token turns out to be refused for good: a
	// person must authorize again. key is the hash that logs show.
	Lost(source, key string, err error)
	// Store is called when the source's store begins to fail, and with nil when
	// it works again.
	Store(source string, err error)
}

// Reason is why a renewal runs.
type Reason string

// The reasons.
const (
	ReasonFirst   Reason = "first"   // no token yet
	ReasonAhead   Reason = "ahead"   // the token is due
	ReasonExpired Reason = "expired" // the token is dead
	ReasonRefused Reason = "refused" // the API refused the token
	ReasonCode    Reason = "code"    // an authorization code arrived
)

// What runs as a renewal does and is none: observers are not told.
const (
	reasonWrite  Reason = "write"  // the store did not take the token before
	reasonResume Reason = "resume" // what does the store have, at the start
)

// Renewal describes a renewal that begins.
type Renewal struct {
	Source string
	Grant  string
	Reason Reason
}

// Outcome describes how a renewal ended.
type Outcome struct {
	// Via is how the token came: grant, refresh_token or store; empty when none did.
	Via string
	// Err is nil for a renewal that brought a token.
	Err error
	// Took is the time that it took.
	Took time.Duration
	// Expiry is the new token's, zero for never or none.
	Expiry time.Time
	// ExpiryUnreadable: a response's expiry was there and could not be read, so that
	// [Lifetime.Default] was assumed.
	ExpiryUnreadable bool
}

type noObserver struct{}

func (noObserver) Renewing(ctx, _ context.Context, _ Renewal) (context.Context, func(Outcome)) {
	return ctx, func(Outcome) {}
}

func (noObserver) Lost(string, string, error) {}
func (noObserver) Store(string, error)        {}
