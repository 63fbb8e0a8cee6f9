package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"

	"github.com/caddy-bearer/caddy-bearer/tokensource"
)

// The events of the module token_sources. Their data are names from the config,
// hashes of keys, and words that are known to hold no secret.
const (
	eventLost      = "token_source.lost"       // source, key, error_code
	eventStoreDown = "token_source.store_down" // source, error
	eventStoreUp   = "token_source.store_up"   // source
)

// Lost implements tokensource.Observer.
func (es *environments) Lost(source, key string, err error) {
	if env := es.current(); env != nil {
		env.observer.Lost(source, key, err)
	}
}

// Store implements tokensource.Observer.
func (es *environments) Store(source string, err error) {
	if env := es.current(); env != nil {
		env.observer.Store(source, err)
	}
}

// Lost implements tokensource.Observer.
func (o observer) Lost(string, string, error) {}

// Store implements tokensource.Observer.
func (o observer) Store(string, error) {}

// eventObserver emits what an operator may want to act on as Caddy's events.
type eventObserver struct {
	tokensource.Observer
	queue *eventQueue
}

// withEvents adds the events to an observer. The events app is loaded for it
// where the config has none: Caddy's http and tls apps do the same, and without
// handlers it is an empty map.
func withEvents(ctx caddy.Context, o tokensource.Observer) (tokensource.Observer, error) {
	app, err := ctx.App("events")
	if err != nil {
		return nil, err
	}
	events := app.(*caddyevents.App)
	q := newEventQueue(ctx, ctx.Logger(), func(name string, data map[string]any) { events.Emit(ctx, name, data) })
	// Apps start in any order, and handlers are bound when the events app does.
	if err := events.On("started", &onStarted{q.open}); err != nil {
		return nil, fmt.Errorf("waiting for the config to start: %w", err)
	}
	return eventObserver{o, q}, nil
}

// Lost implements tokensource.Observer.
func (o eventObserver) Lost(source, key string, err error) {
	o.Observer.Lost(source, key, err)
	o.queue.put(eventLost, map[string]any{"source": source, "key": key, "error_code": tokensource.ErrorCode(err)})
}

// Store implements tokensource.Observer.
func (o eventObserver) Store(source string, err error) {
	o.Observer.Store(source, err)
	if err == nil {
		o.queue.put(eventStoreUp, map[string]any{"source": source})
		return
	}
	o.queue.put(eventStoreDown, map[string]any{"source": source, "error": storeFailure(err)})
}

// storeFailure says why a store fails in the system's words, or in ours: what a
// third party's storage puts into its errors may be an URL with a password.
func storeFailure(err error) string {
	var no syscall.Errno
	var timeout interface{ Timeout() bool }
	switch {
	case errors.As(err, &no):
		return no.Error()
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return "timeout"
	}
	return "failed"
}

// onStarted is a handler of the event that all apps have started.
type onStarted struct{ do func() }

// Handle implements caddyevents.Handler.
func (s *onStarted) Handle(context.Context, caddy.Event) error {
	s.do()
	return nil
}

// Interface guards
var (
	_ tokensource.Observer = eventObserver{}
	_ caddyevents.Handler  = (*onStarted)(nil)
)
