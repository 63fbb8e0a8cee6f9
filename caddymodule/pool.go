package caddymodule

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-bearer/caddy-bearer/tokensource"

	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenstore"
)

// sourcePool holds the sources across reloads, by a hash of their settings. A
// reload that does not change the settings finds the same source again.
var sourcePool = caddy.NewUsagePool()

// pooledSource is a source that several configs may use: one after the other, and
// two at the same time during a reload.
type pooledSource struct {
	*tokensource.Source
	id     string
	env    *environmentStack
	logins *pendingLogins // nil: the grant has no page to send a person to
	live   *breakerSets
	// unwatch stops watching the source's files; nil: they are not watched.
	unwatch context.CancelFunc

	users   atomic.Int64 // requests under way
	retired atomic.Bool  // no config has used it for retireAfter
	closed  atomic.Bool
}

// takeSource returns the running source with these settings, or a new one.
func takeSource(cfg tokensource.Config, gc *GrantContext, g Grant) (*pooledSource, error) {
	var auth *authorization
	if az, ok := g.(authorizer); ok {
		a, has, err := az.authorization(gc)
		if err != nil {
			return nil, err
		}
		if has {
			auth = a
		}
	}
	id := gc.resolver.digest()
	value, _, err := sourcePool.LoadOrNew(id, func() (caddy.Destructor, error) {
		// The source does not get this config's store and logger, because it may
		// outlive the config. It gets the stack, which forwards to the newest.
		env := new(environmentStack)
		cfg.Store, cfg.Observer, cfg.Logger = env, env, slog.New(logHandler{env: env})
		src, err := tokensource.New(cfg)
		if err != nil {
			return nil, err
		}
		log := cfg.Logger.With("source", cfg.Name)
		ps := &pooledSource{Source: src, id: id, env: env, live: &breakerSets{log: log}}
		if auth != nil {
			ps.logins = newPendingLogins(auth)
		}
		var ctx context.Context
		ctx, ps.unwatch = context.WithCancel(context.Background())
		if files := gc.resolver.files.names(); len(files) > 0 {
			go newFileWatch(files).run(ctx, func(names []string) error {
				log.Info("files were replaced: what was refused is tried again with what they hold now", "files", names)
				src.Reconsider(true)
				return nil
			})
		}
		for _, run := range gc.resolver.watches {
			go run(ctx, log, func() { src.Reconsider(true) })
		}
		return ps, nil
	})
	if err != nil {
		return nil, err
	}
	return value.(*pooledSource), nil
}

const (
	// closeTimeout is how long a source that is no longer used may take to finish a
	// renewal. The response may hold the only good refresh token.
	closeTimeout = 15 * time.Second
	// flushedTimeout is the same if Stop has waited already.
	flushedTimeout = time.Second
	// retireAfter is how long a source outlives its last config. The old server may
	// still pass on requests that it has read before the reload.
	retireAfter = 5 * time.Second
)

// retiring holds the sources that no config uses and that are still open. If Caddy
// stops meanwhile, they are flushed, too.
var retiring sync.Map // *pooledSource -> nil

// stopping reports whether Caddy is stopping, and not reloading.
func stopping() bool { return caddy.Exiting() || caddy.ActiveContext().Context == nil }

// Destruct implements caddy.Destructor. In a reload Caddy does not wait for the
// requests of the old config. So the source stays open for requests that are under
// way and for those that are about to come. After retireAfter, the last of them
// closes it.
func (ps *pooledSource) Destruct() error {
	if stopping() {
		return ps.close(flushedTimeout)
	}
	ps.retire(retireAfter)
	return nil
}

// retire closes the source after a while, or when the last request after that has
// ended.
func (ps *pooledSource) retire(after time.Duration) {
	retiring.Store(ps, nil)
	time.AfterFunc(after, func() {
		ps.retired.Store(true)
		if ps.users.Load() == 0 {
			_ = ps.close(closeTimeout)
		}
	})
}

// unuse ends a request's use of the source. It does not let the request wait until
// the source is closed.
func (ps *pooledSource) unuse() {
	if ps.users.Add(-1) == 0 && ps.retired.Load() {
		go func() { _ = ps.close(closeTimeout) }()
	}
}

func (ps *pooledSource) close(timeout time.Duration) error {
	if !ps.closed.CompareAndSwap(false, true) {
		return nil
	}
	defer retiring.Delete(ps)
	if ps.unwatch != nil {
		ps.unwatch()
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	err := ps.Close(ctx)
	ps.env.set(nil)
	return err
}

// adopt gives a new source its first environment. A source that comes from the
// running config keeps its environment until the new config starts, because the
// new config may yet fail to load.
func (ps *pooledSource) adopt(e *environment) {
	if len(ps.env.list()) == 0 {
		ps.env.set([]*environment{e})
	}
}

// attach makes a config's environment the current one. With a new config, refusals
// are tried again at once, since somebody may have corrected something outside the
// settings. If the store is another one, all tokens in memory are written to it.
func (ps *pooledSource) attach(e *environment) {
	before := ps.env.current()
	rest := slices.DeleteFunc(ps.env.list(), func(o *environment) bool { return o == e })
	ps.env.set(append(rest, e))
	if before != nil && before != e {
		ps.Reconsider(false)
		if !sameStore(before.store, e.store) {
			ps.StoreChanged()
		}
	}
}

// sameStore reports whether the stores of two configs are surely the same place.
// Each config has a store value of its own, so their names are compared. If a
// store has no name, the answer is no: to write the tokens once more does no harm.
func sameStore(a, b tokenstore.Store) bool {
	as, aok := a.(fmt.Stringer)
	bs, bok := b.(fmt.Stringer)
	return aok && bok && as.String() != "" && as.String() == bs.String()
}

func (ps *pooledSource) detach(e *environment) {
	before := ps.env.current()
	rest := slices.DeleteFunc(ps.env.list(), func(o *environment) bool { return o == e })
	if len(rest) == 0 { // the source uses the last one until it is closed
		return
	}
	ps.env.set(rest)
	if now := ps.env.current(); before != now && !sameStore(before.store, now.store) {
		ps.StoreChanged() // back to the store of the running config, after a failed reload
	}
}

// logHandler logs to the logger of the newest config. A source has one logger all
// its life, but each config brings loggers of its own and closes the old ones.
type logHandler struct {
	env  *environmentStack
	with []func(slog.Handler) slog.Handler
}

func (h logHandler) handler() slog.Handler {
	env := h.env.current()
	if env == nil {
		return slog.DiscardHandler
	}
	handler := env.log.Handler()
	for _, f := range h.with {
		handler = f(handler)
	}
	return handler
}

// Enabled implements slog.Handler.
func (h logHandler) Enabled(ctx context.Context, l slog.Level) bool {
	return h.handler().Enabled(ctx, l)
}

// Handle implements slog.Handler.
func (h logHandler) Handle(ctx context.Context, r slog.Record) error {
	return h.handler().Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (h logHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return h.and(func(o slog.Handler) slog.Handler { return o.WithAttrs(attrs) })
}

// WithGroup implements slog.Handler.
func (h logHandler) WithGroup(name string) slog.Handler {
	return h.and(func(o slog.Handler) slog.Handler { return o.WithGroup(name) })
}

func (h logHandler) and(f func(slog.Handler) slog.Handler) slog.Handler {
	return logHandler{env: h.env, with: append(slices.Clone(h.with), f)}
}

// Interface guards
var (
	_ caddy.Destructor = (*pooledSource)(nil)
	_ slog.Handler     = logHandler{}
)
