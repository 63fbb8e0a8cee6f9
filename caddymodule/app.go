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
// A reload that does not change a source's settings keeps the source, with its
// tokens and everything it has learned. Tokens are kept in Caddy's storage and
// written before they are used, so that a restart needs no new ones.
type App struct {
	// The sources, by name.
	Sources map[string]*TokenSource `json:"sources,omitempty"`

	ctx     caddy.Context
	env     *environment
	storage *TokenStorage
	log     *zap.Logger
	built   map[string]*pooledSource
	pending []string // sources being built, to notice one that depends on itself
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
// calls no provider: during a reload the running config still serves, and the new
// one may yet fail to load.
func (a *App) Provision(ctx caddy.Context) error {
	a.ctx = ctx
	a.log = ctx.Logger()
	a.built = make(map[string]*pooledSource)
	filterStdLog(ctx)
	a.warnAdmin(ctx)
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
	if a.storage.Migrate {
		a.log.Warn("storage_key has `migrate`: stored tokens that are not sealed are used, and sealed when they are read; remove it when everything is sealed")
	}
	a.env = newEnvironment(store, ctx.Slogger(), observer)
	// All settings are checked before any source is built, because building one may
	// build others that it depends on. Names are sorted, so that a config with
	// several mistakes reports the same one each time.
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

// Start implements caddy.App. From now on the sources use this config's storage
// and logs: only now is it certain that all modules of the config were
// provisioned. The sources obtain no token yet, see resume.
func (a *App) Start() error {
	for _, src := range a.built {
		src.attach(a.env)
	}
	return nil
}

// resume makes sources without keys look for their token, or obtain it, so that it
// is renewed in time even without traffic. It runs when all apps have started. Apps
// start in any order, and a token endpoint may be a site of the same Caddy.
func (a *App) resume() {
	for _, src := range a.built {
		src.Resume()
	}
}

// Stop implements caddy.App. Sources that only this config uses finish their
// renewals and write unsaved tokens, while the storage is still open. A renewal
// must not be cut off, because its response may hold the only good refresh token.
//
// If Caddy itself stops, the sources that earlier reloads have left behind are
// treated alike, and no source begins another renewal.
func (a *App) Stop() error {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	var open []*pooledSource
	for _, src := range a.built {
		// In a reload, a source that the new config uses, too, has two users.
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

// Cleanup releases the sources. A source that no config uses any more is closed,
// after its renewal has finished. Caddy also calls Cleanup if Provision or Start
// has failed, so it releases only what was taken. The sources of the running
// config then return to that config's storage and logs.
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

// source returns a source and its settings by name.
func (a *App) source(name string) (*pooledSource, *TokenSource, error) {
	if _, ok := a.Sources[name]; !ok {
		return nil, nil, a.noSuchSource(name)
	}
	src, err := a.build(name)
	return src, a.Sources[name], err
}

// findSource returns the source that a module names, and the reader of its key.
// within names the module in errors.
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

// build makes a source, after the sources that it depends on.
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
			// The sum identifies this source across reloads. If the other source
			// changes, this one must be made anew, or it would keep using the old one.
			fmt.Fprint(r.sum, src.id)
			return src.Source, nil
		},
	}
	g, err := ts.grant.TokenGrant(gc)
	if err != nil {
		return nil, fmt.Errorf("token_source %s: %w", name, err)
	}
	cfg := ts.config(name, g)
	cfg.StorageKeys, cfg.MigrateUnsealed = a.storage.keysInto(r.sum), a.storage.Migrate
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
