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

// environment is what a config gives to a source: the store, the logger and the
// observer. If the source outlives the config, so does the environment. It is
// replaced by the environment of a newer config, and released when the source is
// closed.
type environment struct {
	store    tokenstore.Store
	log      *slog.Logger
	observer tokensource.Observer

	// users counts the config, the sources and the calls under way. The last of them
	// closes the store. A call that is under way during a reload may be writing the
	// only good refresh token, so the store must stay open for it.
	users atomic.Int64
}

// newEnvironment makes an environment with one user, the config.
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

// environmentStack holds the environments of the configs that use a source, the
// newest last. The source uses the newest. During a reload there are two. If the
// new config fails to load, its environment is removed, and the source uses that
// of the running config again.
type environmentStack struct {
	mu  sync.RWMutex
	all []*environment
}

func (es *environmentStack) list() []*environment {
	es.mu.RLock()
	defer es.mu.RUnlock()
	return slices.Clone(es.all)
}

// set replaces the environments. It takes the new ones before it releases the old,
// because some may be in both lists and must not be closed in between.
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

// use returns the current environment for one call. The caller releases it after
// the call.
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

// Instance implements [tokenstore.LivenessStore]. If the store does not know
// whether processes are alive, it is this process's own name, which no other
// process will ever take for dead.
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
