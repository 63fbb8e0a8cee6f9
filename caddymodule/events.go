package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"syscall"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
	"go.uber.org/zap"

	"github.com/caddy-bearer/caddy-bearer/tokensource"
)

// The events of the module token_sources. Their data are names from the config,
// hashes of keys, and words that cannot hold a secret.
const (
	eventLost      = "token_source.lost"       // source, key, error_code
	eventStoreDown = "token_source.store_down" // source, error
	eventStoreUp   = "token_source.store_up"   // source
)

// Lost implements tokensource.Observer.
func (es *environmentStack) Lost(source, key string, err error) {
	if env := es.current(); env != nil {
		env.observer.Lost(source, key, err)
	}
}

// Store implements tokensource.Observer.
func (es *environmentStack) Store(source string, err error) {
	if env := es.current(); env != nil {
		env.observer.Store(source, err)
	}
}

// Lost implements tokensource.Observer.
func (o observer) Lost(string, string, error) {}

// Store implements tokensource.Observer.
func (o observer) Store(string, error) {}

// eventObserver emits Caddy events for what an operator may have to act on.
type eventObserver struct {
	tokensource.Observer
	queue *eventQueue
}

// withEvents adds the events to an observer. It loads the events app if the config
// has none. Caddy's http and tls apps do the same, and without handlers that app is
// an empty map. started is called when all apps of the config have started.
func withEvents(ctx caddy.Context, o tokensource.Observer, started func()) (tokensource.Observer, error) {
	app, err := ctx.App("events")
	if err != nil {
		return nil, err
	}
	events := app.(*caddyevents.App)
	q := newEventQueue(ctx, ctx.Logger(), func(name string, data map[string]any) { events.Emit(ctx, name, data) })
	// Apps start in any order, and the events app binds its handlers when it starts.
	// An event before that would reach nobody, so events wait until all have started.
	if err := events.On("started", &onStarted{func() { q.open(); started() }}); err != nil {
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

// storeFailure says why a store fails: in the operating system's words, or in our
// own. The storage's own error is not used, because it may contain a URL with a
// password.
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

// eventQueue emits events one after the other, from a goroutine of its own. Emit
// returns only when all handlers have returned, and a handler may run a program, so
// a renewal must not wait for it. The goroutine exists only while there are events,
// and ends with the config.
type eventQueue struct {
	ctx  context.Context // the config's
	log  *zap.Logger
	emit func(name string, data map[string]any)

	mu      sync.Mutex
	opened  bool // the config has started
	running bool
	full    bool // and that was logged
	waiting []queuedEvent
}

type queuedEvent struct {
	name string
	data map[string]any
}

// maxEvents bounds the queue. If a provider revokes everything, each key is an event.
const maxEvents = 1000

func newEventQueue(ctx context.Context, log *zap.Logger, emit func(string, map[string]any)) *eventQueue {
	return &eventQueue{ctx: ctx, log: log, emit: emit}
}

// open begins to emit. Events wait until then.
func (q *eventQueue) open() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.opened = true
	q.run()
}

// put never waits. An event that does not fit is dropped, and that is logged once.
func (q *eventQueue) put(name string, data map[string]any) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.waiting) >= maxEvents {
		if !q.full {
			q.full = true
			q.log.Warn("events are dropped: their handlers are too slow", zap.Int("waiting", len(q.waiting)))
		}
		return
	}
	q.waiting = append(q.waiting, queuedEvent{name, data})
	q.run()
}

// run starts the goroutine if there is something to do. The caller holds q.mu.
func (q *eventQueue) run() {
	if q.opened && !q.running && len(q.waiting) > 0 {
		q.running = true
		go q.drain()
	}
}

func (q *eventQueue) drain() {
	for {
		q.mu.Lock()
		if len(q.waiting) == 0 || q.ctx.Err() != nil {
			if n := len(q.waiting); n > 0 {
				q.log.Warn("events are dropped: the config has ended before their handlers took them", zap.Int("waiting", n))
			}
			q.waiting, q.running, q.full = nil, false, false
			q.mu.Unlock()
			return
		}
		next := q.waiting[0]
		q.waiting = q.waiting[1:]
		q.mu.Unlock()
		q.emitOne(next)
	}
}

// emitOne emits an event and survives a handler that panics.
func (q *eventQueue) emitOne(e queuedEvent) {
	defer func() {
		if r := recover(); r != nil {
			q.log.Error("an event's handler panicked", zap.String("name", e.name), zap.String("panic", fmt.Sprintf("%T", r)))
		}
	}()
	q.emit(e.name, e.data)
}

// Interface guards
var (
	_ tokensource.Observer = eventObserver{}
	_ caddyevents.Handler  = (*onStarted)(nil)
)
