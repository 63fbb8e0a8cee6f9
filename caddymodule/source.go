package caddymodule

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-bearer/caddy-bearer/tokensource"
)

// TokenSource configures one named source of tokens.
type TokenSource struct {
	// How a token is obtained. Required.
	GrantRaw json.RawMessage `json:"grant,omitempty" caddy:"namespace=token_sources.grants inline_key=type"`

	// How a token is refreshed, if that differs from the grant's own endpoint. An
	// option that is left out has the grant's value, except param, scope, resource
	// and bearer. For grant request nothing is taken over. Default: a renewal uses the
	// refresh token, if there is one; failing that, it repeats the grant, unless the
	// grant needs a person.
	Refresh *Endpoint `json:"refresh,omitempty"`

	// What distinguishes one user's token from another's. Default: none, the source
	// has one token.
	Keys []KeyPart `json:"keys,omitempty"`

	// How long a token lives if the response does not say. Default: 1h.
	Lifetime *Lifetime `json:"lifetime,omitempty"`

	// How long before its expiry a token is renewed. Default: 20% of its
	// lifetime, at most 5m; up to a quarter more at random.
	RefreshAhead *RefreshAhead `json:"refresh_ahead,omitempty"`

	// How long past its expiry a token still serves while renewals fail.
	// Default: 0s.
	Grace caddy.Duration `json:"grace,omitempty"`

	// The least time between renewals that the API's refusals cause. Default: 1s.
	MinInterval caddy.Duration `json:"min_interval,omitempty"`

	// The longest back-off while the token endpoint fails, unless the endpoint asks
	// for a longer one. If requests wait, calls are made sooner, at most one a second.
	// Default: 30s.
	RetryMax caddy.Duration `json:"retry_max,omitempty"`

	// How long a request without a token waits for an attempt that may bring one.
	// Default: 5s.
	MaxWait caddy.Duration `json:"max_wait,omitempty"`

	// Obtain the first token when a request needs it. By default, a source without a
	// key obtains its token when Caddy starts, so that readiness tells at once whether
	// the settings work.
	Lazy bool `json:"lazy,omitempty"`

	// How many keys' tokens are kept in memory. Default: 100000.
	MaxKeys int `json:"max_keys,omitempty"`

	// How many bytes these tokens may take, as estimated; the process takes about
	// twice as much. The tokens that were not used for the longest time are removed
	// first, and read from the store when they are needed. 0: no limit. Default:
	// 48MiB.
	MaxMemory *int64 `json:"max_memory,omitempty"`

	// The circuit breaker at the token endpoint.
	Breaker *Breaker `json:"breaker,omitempty"`

	// Where the Caddyfile says it.
	Origin *Origin `json:"origin,omitempty"`

	grant Grant
	// grantRaw is GrantRaw, which loading the module empties.
	grantRaw json.RawMessage
}

// KeyPart is one value of a source's key.
type KeyPart struct {
	// The name under which a grant refers to it: {key.NAME}.
	Name string `json:"name"`
	// The request placeholder that gives the value. A header that is read here
	// is not forwarded.
	Value string `json:"value"`
}

// Lifetime is how long tokens live.
type Lifetime struct {
	// Used if the response does not say how long the token lives, or says something
	// absurd. Default: 1h.
	Default caddy.Duration `json:"default,omitempty"`
	// Limits what a response says. Default: no limit.
	Max caddy.Duration `json:"max,omitempty"`
	// Tokens never expire, whatever a response says.
	Forever bool `json:"forever,omitempty"`
}

// RefreshAhead is how long before its expiry a token is renewed.
type RefreshAhead struct {
	// As a share of the lifetime, from 0 to 1. Default: 0.2.
	Share float64 `json:"share,omitempty"`
	// At most this long. Default: 5m.
	Max caddy.Duration `json:"max,omitempty"`
}

// Breaker configures a circuit breaker.
type Breaker struct {
	// How many failures in a row open it. Default: 5.
	TripAfter int `json:"trip_after,omitempty"`
	// How long it stays open until one call is let through as a probe.
	// Default: 30s.
	OpenFor caddy.Duration `json:"open_for,omitempty"`
}

func (b *Breaker) settings() tokensource.BreakerSettings {
	var s tokensource.BreakerSettings
	if b != nil {
		s = tokensource.BreakerSettings{TripAfter: uint32(b.TripAfter), OpenFor: time.Duration(b.OpenFor)} //nolint:gosec // checked from 1
	}
	s.SetDefaults()
	return s
}

// provision loads the grant module. It makes no network call.
func (ts *TokenSource) provision(ctx caddy.Context, name string) error {
	if len(ts.GrantRaw) == 0 {
		return ts.Origin.errorf("", "token_source %s: grant is required", name)
	}
	if err := ts.check(name); err != nil {
		return err
	}
	ts.grantRaw = slices.Clone(ts.GrantRaw)
	mod, err := ctx.LoadModule(ts, "GrantRaw")
	if err != nil {
		return ts.Origin.errorf("grant", "token_source %s: %w", name, err)
	}
	grant, ok := mod.(Grant)
	if !ok {
		return ts.Origin.errorf("grant", "token_source %s: module %T is no grant", name, mod)
	}
	ts.grant = grant
	return nil
}

// check refuses wrong settings, whether they come from a Caddyfile or from JSON.
func (ts *TokenSource) check(name string) error {
	if !validName(name) {
		return ts.Origin.errorf("", "token_source %q: not a name: %s", name, nameHelp)
	}
	for i, k := range ts.Keys {
		option := "key " + k.Name
		if !validName(k.Name) {
			return ts.Origin.errorf(option, "token_source %s: %q is not a name: %s", name, k.Name, nameHelp)
		}
		if slices.ContainsFunc(ts.Keys[:i], func(o KeyPart) bool { return o.Name == k.Name }) {
			return ts.Origin.errorf(option, "token_source %s: given twice: expected a name of its own", name)
		}
	}
	if _, err := newKeyReader(ts.Keys); err != nil {
		return ts.Origin.errorf("key", "token_source %s: %w", name, err)
	}
	if err := ts.checkNumbers(); err != nil {
		return fmt.Errorf("token_source %s: %w", name, err)
	}
	return nil
}

func (ts *TokenSource) checkNumbers() error {
	durations := map[string]caddy.Duration{"grace": ts.Grace, "min_interval": ts.MinInterval, "retry_max": ts.RetryMax, "max_wait": ts.MaxWait}
	if l := ts.Lifetime; l != nil {
		durations["lifetime"] = min(l.Default, l.Max)
	}
	if ra := ts.RefreshAhead; ra != nil {
		durations["refresh_ahead"] = ra.Max
		if ra.Share != 0 && !(ra.Share > 0 && ra.Share <= 1) {
			return ts.Origin.errorf("refresh_ahead", "share %v: expected more than 0, at most 1", ra.Share)
		}
	}
	for option, d := range durations {
		if d < 0 {
			return ts.Origin.errorf(option, "%v: expected a duration that is not negative", time.Duration(d))
		}
	}
	if ts.MaxMemory != nil && *ts.MaxMemory < 0 {
		return ts.Origin.errorf("max_memory", "%d: expected a size of 0 or more", *ts.MaxMemory)
	}
	if ts.MaxKeys < 0 {
		return ts.Origin.errorf("max_keys", "%d: expected a whole number from 1", ts.MaxKeys)
	}
	return ts.Breaker.check(ts.Origin)
}

func (b *Breaker) check(o *Origin) error {
	if b != nil && (b.TripAfter < 0 || b.OpenFor < 0) {
		return o.errorf("breaker", "expected trip_after from 1, and open_for above 0")
	}
	return nil
}

const nameHelp = "expected letters, digits, '_', '-' and '.', at most 64"

// validName limits names to characters that are readable as a metric's label.
func validName(name string) bool {
	return name != "" && len(name) <= 64 && !strings.ContainsFunc(name, func(r rune) bool {
		return !(r == '_' || r == '-' || r == '.' || '0' <= r && r <= '9' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z')
	})
}

func (ts *TokenSource) keyNames() []string {
	names := make([]string, 0, len(ts.Keys))
	for _, k := range ts.Keys {
		names = append(names, k.Name)
	}
	return names
}

// defaultMaxMemory keeps a sidecar below 200 MB, however many users it has.
const defaultMaxMemory = 48 << 20

// config returns the settings for package tokensource.
func (ts *TokenSource) config(name string, g tokensource.Grant) tokensource.Config {
	cfg := tokensource.Config{
		Name: name, Grant: g, KeyNames: ts.keyNames(),
		Grace: time.Duration(ts.Grace), MinInterval: time.Duration(ts.MinInterval),
		RetryMax: time.Duration(ts.RetryMax), MaxWait: time.Duration(ts.MaxWait), Lazy: ts.Lazy,
		MaxKeys: ts.MaxKeys, MaxMemory: defaultMaxMemory, Breaker: ts.Breaker.settings(),
	}
	if ts.MaxMemory != nil {
		cfg.MaxMemory = *ts.MaxMemory
	}
	if l := ts.Lifetime; l != nil {
		cfg.Lifetime = tokensource.Lifetime{Default: time.Duration(l.Default), Max: time.Duration(l.Max), Forever: l.Forever}
	}
	if ra := ts.RefreshAhead; ra != nil {
		cfg.RefreshAhead = tokensource.RefreshAhead{Fraction: ra.Share, Max: time.Duration(ra.Max)}
	}
	return cfg
}

// newResolver returns a resolver for the source. Its sum begins with the settings as
// they are written; the resolver adds the values of placeholders.
func (ts *TokenSource) newResolver(name string) (*resolver, error) {
	settings := *ts
	settings.Origin = nil
	if ts.Refresh != nil {
		refresh := *ts.Refresh
		refresh.Origin = nil
		settings.Refresh = &refresh
	}
	var err error
	if settings.GrantRaw, err = withoutOrigin(ts.grantRaw); err != nil {
		return nil, err
	}
	raw, err := json.Marshal(&settings)
	if err != nil {
		return nil, err
	}
	sum := sha256.New()
	fmt.Fprintf(sum, "%d:%s%d:%s", len(name), name, len(raw), raw)
	return &resolver{repl: caddy.NewReplacer(), keyNames: ts.keyNames(), sum: sum}, nil
}
