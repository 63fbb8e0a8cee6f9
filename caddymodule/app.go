package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/caddy-bearer/caddy-bearer/tokensource"
)

func init() {
	caddy.RegisterModule(new(App))
}

const appName = "token_sources"

// App owns the token sources that sites refer to by name.
//
// A source outlives a config reload that leaves its settings alone, with all
// that it has learned. Its tokens are kept in Caddy's storage, written before
// they are used, so that a restart does not ask for new ones.
type App struct {
	// The sources, by name.
	Sources map[string]*TokenSource `json:"sources,omitempty"`

	ctx     caddy.Context
	env     *environment
	storage *TokenStorage
	log     *zap.Logger
	built   map[string]*pooledSource
	pending []string // names being built, to notice a source that leads back to itself
	tracing *tracing
}

// CaddyModule returns the Caddy module information.
func (*App) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  appName,
		New: func() caddy.Module { return new(App) },
	}
}

// Provision builds the sources, or takes them over from the running config. It
// calls no provider.
func (a *App) Provision(ctx caddy.Context) error {
	a.ctx = ctx
	a.log = ctx.Logger()
	a.built = make(map[string]*pooledSource)
	var err error
	if a.tracing, err = newTracing(ctx); err != nil {
		return err
	}
	observer, err := withEvents(ctx, newObserver(a.tracing), a.resume)
	if err != nil {
		return err
	}
	if a.storage, err = findStorage(ctx); err != nil {
		return err
	}
	store, err := a.storage.open(ctx)
	if err != nil {
		return err
	}
	a.env = newEnvironment(store, ctx.Slogger(), observer)
	for _, name := range slices.Sorted(maps.Keys(a.Sources)) {
		if a.Sources[name] == nil {
			return fmt.Errorf("token_source %s: null: expected an object with a grant", name)
		}
		if err := a.Sources[name].provision(ctx, name); err != nil {
			return err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(a.Sources)) {
		if _, err := a.build(name); err != nil {
			return err
		}
	}
	registerMetrics(ctx, a)
	return nil
}

// Start implements caddy.App: from here on the sources use this config's
// storage and logs.
func (a *App) Start() error {
	for _, src := range a.built {
		src.attach(a.env)
	}
	return nil
}

// resume has sources without keys look for their token, or obtain it, so that it
// is renewed in time with no traffic at all. It runs when all apps have started,
// for apps start in any order: a token endpoint may be a site of the same Caddy.
func (a *App) resume() {
	for _, src := range a.built {
		src.Resume()
	}
}

// Stop implements caddy.App. When Caddy stops, sources finish their renewals
// and write what is not written, while the storage is still open: those of
// this config, and those that the last reloads left behind.
func (a *App) Stop() error {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	var open []*pooledSource
	for _, src := range a.built {
		if users, _ := sourcePool.References(src.id); users <= 1 {
			open = append(open, src)
		}
	}
	if stopping() {
		retiring.Range(func(src, _ any) bool {
			open = append(open, src.(*pooledSource))
			return true
		})
		for _, src := range open {
			src.Drain()
		}
	}
	errs := make([]error, len(open))
	var wg sync.WaitGroup
	for i, src := range open {
		wg.Go(func() { errs[i] = src.Flush(ctx) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// Cleanup lets go of the sources. One that no config uses any more is closed:
// a renewal in flight is finished first.
func (a *App) Cleanup() error {
	var errs []error
	for _, src := range a.built {
		src.detach(a.env)
		if _, err := sourcePool.Delete(src.id); err != nil {
			errs = append(errs, err)
		}
	}
	if a.env != nil {
		a.env.release()
		a.env = nil
	}
	if a.tracing != nil {
		errs = append(errs, a.tracing.close())
	}
	return errors.Join(errs...)
}

// source returns a source by name, for those that refer to it.
func (a *App) source(name string) (*pooledSource, *TokenSource, error) {
	if _, ok := a.Sources[name]; !ok {
		return nil, nil, a.noSuchSource(name)
	}
	src, err := a.build(name)
	return src, a.Sources[name], err
}

// findSource finds the source that a module names, and how its key is read
// from a request. within is the module, for errors.
func findSource(ctx caddy.Context, within, name string, o *Origin) (*pooledSource, keyReader, error) {
	if name == "" {
		return nil, keyReader{}, o.errorf("", "%s: source is required: expected a token_source's name", within)
	}
	app, err := ctx.App(appName)
	if err != nil {
		return nil, keyReader{}, o.errorf("", "%s %s: %w", within, name, err)
	}
	src, settings, err := app.(*App).source(name)
	if err != nil {
		return nil, keyReader{}, o.errorf("", "%s: %w", within, err)
	}
	keys, err := newKeyReader(settings.Keys)
	if err != nil {
		return nil, keyReader{}, settings.Origin.errorf("key", "token_source %s: %w", name, err)
	}
	return src, keys, nil
}

func (a *App) noSuchSource(name string) error {
	if len(a.Sources) == 0 {
		return fmt.Errorf("no token_source %q: expected one to be defined in the global options", name)
	}
	return fmt.Errorf("no token_source %q: expected one of %s", name, strings.Join(slices.Sorted(maps.Keys(a.Sources)), ", "))
}

// build makes a source, and first those it depends on.
func (a *App) build(name string) (*pooledSource, error) {
	if src, ok := a.built[name]; ok {
		return src, nil
	}
	if i := slices.Index(a.pending, name); i >= 0 {
		return nil, fmt.Errorf("token_source %s leads back to itself: %s: expected a chain that ends",
			name, strings.Join(append(slices.Clone(a.pending[i:]), name), " -> "))
	}
	a.pending = append(a.pending, name)
	defer func() { a.pending = a.pending[:len(a.pending)-1] }()

	ts := a.Sources[name]
	r, err := ts.newResolver(name)
	if err != nil {
		return nil, ts.Origin.errorf("", "token_source %s: %w", name, err)
	}
	gc := &GrantContext{
		Context: a.ctx, Refresh: ts.Refresh, Forever: ts.Lifetime != nil && ts.Lifetime.Forever,
		resolver: r, keyNames: ts.keyNames(),
		source: func(other string) (*tokensource.Source, error) {
			if _, ok := a.Sources[other]; !ok {
				return nil, a.noSuchSource(other)
			}
			src, err := a.build(other)
			if err != nil {
				return nil, err
			}
			fmt.Fprint(r.sum, src.id) // another source behind it makes this one another
			return src.Source, nil
		},
	}
	g, err := ts.grant.TokenGrant(gc)
	if err != nil {
		return nil, fmt.Errorf("token_source %s: %w", name, err)
	}
	cfg := ts.config(name, g)
	cfg.StorageKeys = a.storage.keysInto(r.sum)
	src, err := takeSource(cfg, gc, ts.grant)
	if err != nil {
		return nil, fmt.Errorf("token_source %s: %w", name, err)
	}
	src.adopt(a.env)
	a.built[name] = src
	return src, nil
}

// Interface guards
var (
	_ caddy.App          = (*App)(nil)
	_ caddy.Provisioner  = (*App)(nil)
	_ caddy.CleanerUpper = (*App)(nil)
)
