package caddymodule

import (
	"context"
	"io"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/caddy-bearer/caddy-bearer/tokensource"

	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenstore"
)

// environment is what a config gives a source. It outlives the config when the
// source does: until a newer config gives another, or the source is closed.
type environment struct {
	store    tokenstore.Store
	log      *slog.Logger
	observer tokensource.Observer

	// users are the config, the sources, and calls under way. The store is
	// closed by the last of them: a call that a reload finds in flight may carry
	// the only good refresh token.
	users atomic.Int64
}

// newEnvironment makes one with one user, the config.
func newEnvironment(store tokenstore.Store, log *slog.Logger, observer tokensource.Observer) *environment {
	e := &environment{store: store, log: log, observer: observer}
	e.hold()
	return e
}

func (e *environment) hold() { e.users.Add(1) }

func (e *environment) release() {
	if e.users.Add(-1) > 0 {
		return
	}
	if c, ok := e.store.(io.Closer); ok {
		if err := c.Close(); err != nil {
			e.log.Warn("closing the token store", "error", err)
		}
	}
}

// environmentStack are those of the configs that use a source, the newest last.
// That one is used. If a new config fails to load, its environment goes and
// the running one's is back.
type environmentStack struct {
	mu  sync.RWMutex
	all []*environment
}

func (es *environmentStack) list() []*environment {
	es.mu.RLock()
	defer es.mu.RUnlock()
	return slices.Clone(es.all)
}

func (es *environmentStack) set(all []*environment) {
	for _, e := range all {
		e.hold()
	}
	es.mu.Lock()
	before := es.all
	es.all = all
	es.mu.Unlock()
	for _, e := range before {
		e.release()
	}
}

func (es *environmentStack) current() *environment {
	es.mu.RLock()
	defer es.mu.RUnlock()
	if len(es.all) == 0 {
		return nil
	}
	return es.all[len(es.all)-1]
}

// use is current for a call: the environment is to be released after it.
func (es *environmentStack) use() (*environment, error) {
	es.mu.RLock()
	defer es.mu.RUnlock()
	if len(es.all) == 0 {
		return nil, tokensource.ErrClosed
	}
	env := es.all[len(es.all)-1]
	env.hold()
	return env, nil
}

// Load implements [tokenstore.Store].
func (es *environmentStack) Load(ctx context.Context, key string) ([]byte, error) {
	env, err := es.use()
	if err != nil {
		return nil, err
	}
	defer env.release()
	return env.store.Load(ctx, key)
}

// Swap implements [tokenstore.Store].
func (es *environmentStack) Swap(ctx context.Context, key string, old, value []byte) error {
	env, err := es.use()
	if err != nil {
		return err
	}
	defer env.release()
	return env.store.Swap(ctx, key, old, value)
}

// Instance implements [tokenstore.LivenessStore]. A store without such names
// gets this process's: nobody will ever say that it is dead.
func (es *environmentStack) Instance() string {
	env, err := es.use()
	if err != nil {
		return instanceID
	}
	defer env.release()
	if store, ok := env.store.(tokenstore.LivenessStore); ok {
		return store.Instance()
	}
	return instanceID
}

// Dead implements [tokenstore.LivenessStore].
func (es *environmentStack) Dead(ctx context.Context, instance string) bool {
	env, err := es.use()
	if err != nil {
		return false
	}
	defer env.release()
	store, ok := env.store.(tokenstore.LivenessStore)
	return ok && store.Dead(ctx, instance)
}

// Renewing implements tokensource.Observer.
func (es *environmentStack) Renewing(ctx, cause context.Context, r tokensource.Renewal) (context.Context, func(tokensource.Outcome)) {
	env := es.current()
	if env == nil {
		return ctx, func(tokensource.Outcome) {}
	}
	return env.observer.Renewing(ctx, cause, r)
}

// Interface guards
var (
	_ tokenstore.LivenessStore = (*environmentStack)(nil)
	_ tokensource.Observer     = (*environmentStack)(nil)
)
