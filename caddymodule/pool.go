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

// sourcePool holds the sources across config reloads, by the sum of their
// settings: a reload that does not change them finds the same source again.
var sourcePool = caddy.NewUsagePool()

// pooledSource is a source that several configs may share, one after the
// other or, during a reload, at the same time.
type pooledSource struct {
	*tokensource.Source
	id     string
	env    *environmentStack
	logins *pendingLogins // nil: the grant has no page to send a person to
	live   *breakerSets
	// unwatch ends the watch on the source's files; nil: it has none.
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
		if files := gc.resolver.files.names(); len(files) > 0 {
			ctx, stop := context.WithCancel(context.Background())
			ps.unwatch = stop
			go watchFiles(ctx, files, func(names []string) {
				cfg.Logger.Info("files were replaced: what was refused is tried again with what they hold now", "source", cfg.Name, "files", names)
				src.Reconsider(true)
			})
		}
		return ps, nil
	})
	if err != nil {
		return nil, err
	}
	return value.(*pooledSource), nil
}

const (
	// closeTimeout is how long a source that is no longer used may go on with a
	// renewal, whose answer may hold the only good refresh token.
	closeTimeout = 15 * time.Second
	// flushedTimeout is the same where Stop has waited before.
	flushedTimeout = time.Second
	// retireAfter is how long a source outlives its last config: the old server
	// may still hand it requests that were read before the reload.
	retireAfter = 5 * time.Second
)

// retiring are the sources that no config uses and that are still open. Caddy
// may stop meanwhile, and then they are flushed as well.
var retiring sync.Map // *pooledSource -> nil

// stopping reports whether Caddy is being stopped, and not reloaded.
func stopping() bool { return caddy.Exiting() || caddy.ActiveContext().Context == nil }

// Destruct implements caddy.Destructor. On a reload Caddy does not wait for
// requests of the config that is gone: the source stays open for those that are
// under way or about to come, and the last of them closes it.
func (ps *pooledSource) Destruct() error {
	if stopping() {
		return ps.close(flushedTimeout)
	}
	ps.retire(retireAfter)
	return nil
}

func (ps *pooledSource) retire(after time.Duration) {
	retiring.Store(ps, nil)
	time.AfterFunc(after, func() {
		ps.retired.Store(true)
		if ps.users.Load() == 0 {
			_ = ps.close(closeTimeout)
		}
	})
}

// unuse ends a request's use of the source, counted in users.
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

// adopt gives the source a first environment, that of a config which may yet
// fail to load. A source that has one keeps it until the config starts.
func (ps *pooledSource) adopt(e *environment) {
	if len(ps.env.list()) == 0 {
		ps.env.set([]*environment{e})
	}
}

// attach makes a config's environment the current one.
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

// sameStore reports whether two configs' stores are surely the same place:
// there is a new value for each config.
func sameStore(a, b tokenstore.Store) bool {
	as, aok := a.(fmt.Stringer)
	bs, bok := b.(fmt.Stringer)
	return aok && bok && as.String() != "" && as.String() == bs.String()
}

func (ps *pooledSource) detach(e *environment) {
	before := ps.env.current()
	rest := slices.DeleteFunc(ps.env.list(), func(o *environment) bool { return o == e })
	if len(rest) == 0 { // the last one serves until the source is closed
		return
	}
	ps.env.set(rest)
	if now := ps.env.current(); before != now && !sameStore(before.store, now.store) {
		ps.StoreChanged() // back to the running config's, after a reload that failed
	}
}

// logHandler logs to the newest config's logger.
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
