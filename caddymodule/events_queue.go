package caddymodule

import (
	"context"
	"fmt"
	"sync"

	"go.uber.org/zap"
)

// eventQueue emits events one after the other, from a goroutine of its own:
// Emit returns when all handlers have, and one of them may run a program. There
// is a goroutine only while there are events, and it ends with the config.
type eventQueue struct {
	ctx  context.Context // the config's
	log  *zap.Logger
	emit func(name string, data map[string]any)

	mu      sync.Mutex
	opened  bool // the config has started
	running bool
	full    bool // and that was told
	waiting []queuedEvent
}

type queuedEvent struct {
	name string
	data map[string]any
}

// maxEvents bounds the queue: when a provider revokes all, each key is an event.
const maxEvents = 1000

func newEventQueue(ctx context.Context, log *zap.Logger, emit func(string, map[string]any)) *eventQueue {
	return &eventQueue{ctx: ctx, log: log, emit: emit}
}

// open lets the events go. Until then they wait.
func (q *eventQueue) open() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.opened = true
	q.run()
}

// put never waits. What does not fit is dropped, and that is told once.
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

// emitOne survives a handler that panics.
func (q *eventQueue) emitOne(e queuedEvent) {
	defer func() {
		if r := recover(); r != nil {
			q.log.Error("an event's handler panicked", zap.String("name", e.name), zap.String("panic", fmt.Sprintf("%T", r)))
		}
	}()
	q.emit(e.name, e.data)
}
