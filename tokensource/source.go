package tokensource

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/oauth2"

	"github.com/caddy-bearer/caddy-bearer/internal/sleep"
	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenstore"
)

// Config configures a [Source].
type Config struct {
	// Name names the source in logs, metrics and spans, and is part of the
	// names of its records. Required.
	Name string
	// Grant obtains the tokens. Required.
	Grant Grant
	// KeyNames are the names of a [Key]'s values; none for a source with one
	// token.
	KeyNames []string

	// Lifetime is for answers that do not say how long the token lives.
	Lifetime Lifetime
	// RefreshAhead is how long before its expiry a token is renewed.
	RefreshAhead RefreshAhead
	// Grace is how long past its expiry a token still serves while renewals
	// fail. Default: 0.
	Grace time.Duration
	// MinInterval is the least time between renewals of one token that [Source.Renew]
	// asks for. Other renewals do not count. Default: 1s.
	MinInterval time.Duration
	// MaxWait is how long a caller without a usable token waits through failed
	// attempts for one that succeeds, before it is told. Default: 5s; negative:
	// not at all.
	MaxWait time.Duration
	// RetryMax is the most that a call is put off while the token endpoint fails,
	// unless it asks for more itself (Retry-After). A request that waits brings one
	// forward, at most one a second. Default: 30s.
	RetryMax time.Duration
	// RenewalTimeout bounds one renewal until its last call begins, and each of its
	// calls. Default: 1m, or as long as the grant's calls may take, a refresh and
	// then a grant with what they wait for, if that is longer.
	RenewalTimeout time.Duration
	// Lazy: the first token of a source without keys is obtained when it is wanted,
	// not by [Source.Resume].
	Lazy bool
	// MaxKeys bounds the tokens in memory. Default: 100000.
	MaxKeys int
	// MaxMemory bounds what they take, in bytes, as estimated. The longest unused
	// go first, and come back from the store. Default: 0, no bound.
	MaxMemory int64
	// Breaker is the token endpoint's.
	Breaker BreakerSettings

	// Store keeps tokens across restarts, and for all processes that share it.
	// Default: none.
	Store tokenstore.Store
	// StorageKeys seal what is stored: the first seals, all open. Each has
	// [tokenstore.KeySize] bytes. With keys, records that are not sealed are not
	// used. Default: none, records are not sealed.
	StorageKeys [][]byte
	// MigrateUnsealed: records that are not sealed are used, and sealed when they
	// are read. It is for a store that was used before there was a key, until all
	// its records are sealed: meanwhile whoever can write to the store can plant a
	// token. Without StorageKeys it is an error. Default: false.
	MigrateUnsealed bool
	// Observer is told of renewals. Default: none.
	Observer Observer
	// Logger. Default: discards.
	Logger *slog.Logger
}

func (c *Config) setDefaults(g *GrantInfo) {
	setDefault(&c.Lifetime.Default, time.Hour)
	setDefault(&c.RefreshAhead.Fraction, 0.2)
	setDefault(&c.RefreshAhead.Max, 5*time.Minute)
	setDefault(&c.MinInterval, time.Second)
	setDefault(&c.MaxWait, 5*time.Second)
	setDefault(&c.RetryMax, 30*time.Second)
	setDefault(&c.RenewalTimeout, max(time.Minute, 2*g.Timeout+queueWait))
	setDefault(&c.MaxKeys, 100_000)
	c.Breaker.SetDefaults()
	if c.Observer == nil {
		c.Observer = noObserver{}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
}

// SetDefaults fills in what is not set.
func (b *BreakerSettings) SetDefaults() {
	setDefault(&b.TripAfter, 5)
	setDefault(&b.OpenFor, 30*time.Second)
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// Source hands out tokens and keeps them alive. It is safe for concurrent
// use. Close it when it is no longer needed.
type Source struct {
	cfg          Config
	grant        GrantInfo
	log          *slog.Logger
	recordPrefix string
	gate         *gate
	store        *tokenstore.Client // nil: there is no store
	storeChanges atomic.Int64
	draining     atomic.Bool

	single   *entry // of a source without keys
	table    *table
	finished finished
	resumed  atomic.Bool // its cut-off renewals were looked for
	report   report
	noting   [pendingShards]chan struct{} // the turn to write a note
	kept     keptNames
	common   commonMembers
	warned   once // of what is told once

	codes     codeOwners
	codeCalls chan struct{} // one for each code that is on its way

	// life ends with Close; renewals take their context from it, not from the
	// request that started them.
	life   context.Context
	end    context.CancelFunc
	mu     sync.Mutex // guards closed
	closed bool
}

// New makes a source. It calls nobody: the first token is obtained when it is
// first wanted.
func New(cfg Config) (*Source, error) {
	if cfg.Name == "" {
		return nil, errors.New("token source: Name is required")
	}
	if cfg.Grant == nil {
		return nil, fmt.Errorf("token source %s: Grant is required", cfg.Name)
	}
	if g, ok := cfg.Grant.(*EndpointGrant); ok && (g == nil || g.Endpoint == nil) {
		return nil, fmt.Errorf("token source %s: the grant's Endpoint is required", cfg.Name)
	}
	info := cfg.Grant.Info()
	cfg.setDefaults(&info)
	codec, err := tokenstore.NewCodec(cfg.StorageKeys, cfg.MigrateUnsealed)
	if err != nil {
		return nil, fmt.Errorf("token source %s: %w", cfg.Name, err)
	}
	s := &Source{
		cfg:          cfg,
		grant:        info,
		log:          cfg.Logger,
		recordPrefix: hashParts(append([]string{cfg.Name}, info.Identity...)...),
		gate:         newGate(cfg.Breaker, cfg.RetryMax),
	}
	if cfg.Store != nil {
		s.store = tokenstore.NewClient(cfg.Store, codec, rand.Text(), s.storeTurned, s.recordSealed)
	}
	s.codeCalls = make(chan struct{}, maxCodeCalls)
	for i := range s.noting {
		s.noting[i] = make(chan struct{}, 1)
	}
	s.life, s.end = context.WithCancel(context.Background())
	if len(cfg.KeyNames) == 0 {
		s.single = &entry{}
	} else {
		s.table = newTable(cfg.MaxKeys, cfg.MaxMemory, cfg.Store == nil && info.Interactive)
	}
	return s, nil
}

// Name returns the source's name.
func (s *Source) Name() string { return s.cfg.Name }

// MaxWait returns [Config.MaxWait], with its default.
func (s *Source) MaxWait() time.Duration { return s.cfg.MaxWait }

// KeyNames returns the names of the key's values.
func (s *Source) KeyNames() []string { return s.cfg.KeyNames }

// GrantType returns the grant's type.
func (s *Source) GrantType() string { return s.grant.Type }

// CanRenew reports whether a refused token of this source can be replaced
// without a person.
func (s *Source) CanRenew(t *Token) bool {
	g := &s.grant
	return !g.Interactive || (g.Refreshable && !t.orphan.Load() && (t.refresh.is() || !g.InitialRefreshToken.Empty()))
}

// Token returns a usable token for the key. It returns at once with a fresh
// token; else as the package's comment says. The error is ctx's own, or wraps
// one of ErrAuthorizationRequired, ErrUnavailable, ErrRefused, ErrBreakerOpen
// and ErrClosed.
func (s *Source) Token(ctx context.Context, k Key) (*Token, error) {
	t, _, err := s.TokenOrWait(ctx, k)
	return t, err
}

// TokenOrWait is Token. waited reports whether there was no usable token at once.
func (s *Source) TokenOrWait(ctx context.Context, k Key) (t *Token, waited bool, err error) {
	now := time.Now()
	e, err := s.entry(k, now)
	if err != nil {
		return nil, false, err
	}
	if t := e.cur.Load(); t != nil && stateAt(now, t) == fresh {
		return t, false, nil
	}
	return s.await(ctx, e)
}

// entry returns the key's entry, made if it is new. The error is ErrKey.
func (s *Source) entry(k Key, now time.Time) (*entry, error) {
	if s.single != nil {
		if k.encoded != "" {
			return nil, s.keyError(k)
		}
		return s.single, nil
	}
	if e := s.table.get(k, now); e != nil {
		return e, nil
	}
	if len(k.Values()) != len(s.cfg.KeyNames) {
		return nil, s.keyError(k)
	}
	return s.table.add(k, now), nil
}

func (s *Source) keyError(k Key) error {
	return fmt.Errorf("token source %s: %w: got %d values, expected %d (%s)", s.cfg.Name, ErrKey,
		len(k.Values()), len(s.cfg.KeyNames), strings.Join(s.cfg.KeyNames, ", "))
}

// TokenSource returns the key's tokens as an [oauth2.TokenSource], each call
// bounded by ctx. Do not wrap it in [oauth2.ReuseTokenSource]: it reuses by
// itself, and knows more.
func (s *Source) TokenSource(ctx context.Context, k Key) oauth2.TokenSource {
	return tokenSourceFunc(func() (*oauth2.Token, error) {
		t, err := s.Token(ctx, k)
		if err != nil {
			return nil, err
		}
		return t.OAuth2(), nil
	})
}

type tokenSourceFunc func() (*oauth2.Token, error)

func (f tokenSourceFunc) Token() (*oauth2.Token, error) { return f() }

// Breaker returns the token endpoint's breaker's state.
func (s *Source) Breaker() BreakerState { return s.gate.state() }

// each visits every entry.
func (s *Source) each(f func(*entry)) {
	if s.single != nil {
		f(s.single)
		return
	}
	s.table.each(f)
}

// recheckStore is how often a remembered refusal looks into the store, where
// another process may have put a newer token.
const recheckStore = 2 * time.Second

// mayTry reports whether a renewal may start now; if not, the error to give
// and how long until it may. urgent: a request waits for it. The caller holds
// e.mu.
func (s *Source) mayTry(e *entry, now time.Time, urgent bool) (time.Duration, error) {
	f := e.failure()
	if wait := f.until.Sub(now); f.err != nil && wait > 0 {
		return wait, f.err
	}
	if s.store != nil && (f.err == nil || final(f.err)) {
		return 0, nil // the store may have a token, whatever the endpoint says
	}
	if f.err != nil && now.Before(f.callAt) && !s.gate.pardoned(f.at) && !s.gate.mayTryRefused(now) {
		return f.callAt.Sub(now), f.err
	}
	return s.gate.check(now, e.key, urgent || s.hurries(e, now))
}

// hurries reports whether a renewal is as urgent as if a request waited for it.
// The caller holds e.mu.
func (s *Source) hurries(e *entry, now time.Time) bool {
	f := e.failure()
	return f.err != nil && !f.hurryAt.IsZero() && !now.Before(f.hurryAt)
}

// lock locks an entry, or the one that has taken its place since it was
// evicted.
func (s *Source) lock(ctx context.Context, e *entry) (*entry, error) {
	for {
		e.mu.Lock()
		if !e.evicted {
			return e, nil
		}
		e.mu.Unlock()
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		again, err := s.entry(e.key, time.Now())
		if err != nil {
			return nil, err
		}
		e = again
	}
}

// await is Token's slow path: the token is due, expired, refused or missing.
func (s *Source) await(ctx context.Context, e *entry) (_ *Token, waited bool, _ error) {
	start := time.Now()
	giveUp := start.Add(s.cfg.MaxWait)
	var failed error // the last renewal
	for {
		var err error
		if e, err = s.lock(ctx, e); err != nil {
			return nil, waited, err
		}
		now := time.Now()
		t, f := e.tok, e.flight
		forced := f != nil && f.forced != nil
		st := stateAt(now, t)
		if st != expired && !forced {
			if st == due && f == nil {
				if _, err := s.mayTry(e, now, false); err == nil {
					s.launchUrgent(ctx, e, ReasonAhead, nil, (*renewal).renew, s.hurries(e, now))
				}
			}
			e.mu.Unlock()
			return t, waited, nil
		}
		if e.failure().err != nil && s.inGrace(now, t) && (f != nil && !forced) {
			e.mu.Unlock() // a renewal is under way, after one that failed
			return t, waited, nil
		}
		var wait time.Duration
		if f == nil {
			var err error
			if wait, err = s.mayTry(e, now, true); err != nil {
				e.mu.Unlock()
				if s.inGrace(now, t) {
					return t, waited, nil
				}
				if final(err) || now.Add(wait).After(giveUp) {
					return nil, waited, &delayedError{err, wait}
				}
				waited = true
				if err := sleep.For(ctx, wait); err != nil {
					return nil, waited, err
				}
				continue
			}
			if failed != nil && now.After(giveUp) {
				e.mu.Unlock()
				return nil, waited, &delayedError{failed, probeEvery}
			}
			reason := ReasonExpired
			if t == nil {
				reason = ReasonFirst
			}
			if f = s.launch(ctx, e, reason, nil, (*renewal).renew); f == nil {
				e.mu.Unlock()
				return nil, waited, ErrClosed
			}
		}
		e.mu.Unlock()
		waited = true
		if err := f.wait(ctx); err != nil {
			return nil, waited, err
		}
		if f.err == nil && !f.aside {
			return f.tok, waited, nil
		}
		if !f.aside {
			failed = f.err
			if s.cfg.MaxWait > 0 && throttled(failed) && s.gate.queueMoves() {
				giveUp = later(giveUp, start.Add(queueWait)) // it stands in a queue that moves
			}
		}
	}
}

func (s *Source) inGrace(now time.Time, t *Token) bool {
	return t != nil && s.cfg.Grace > 0 && before(now, t.Expiry().Add(s.cfg.Grace))
}

// Renew replaces a token that the API refused, and returns the one to use
// instead. If the current token is no longer the refused one, that is it, and
// nothing is renewed. Errors, besides those of Token: ErrTooSoon, and
// ErrSameToken. Whatever the error, the refused token stays: the API may be
// wrong.
func (s *Source) Renew(ctx context.Context, k Key, refused *Token) (*Token, error) {
	e, err := s.entry(k, time.Now())
	if err != nil {
		return nil, err
	}
	giveUp := time.Now().Add(s.cfg.MaxWait)
	for {
		var err error
		if e, err = s.lock(ctx, e); err != nil {
			return nil, err
		}
		now := time.Now()
		if e.tok != nil && e.tok.AccessToken() != refused.AccessToken() {
			e.mu.Unlock()
			return s.Token(ctx, k)
		}
		// Where the entry has no token, because it was evicted meanwhile, the refused
		// one may be what is stored.
		f := e.flight
		if f == nil {
			wait, err := s.mayForce(e, refused, now)
			if err != nil {
				e.mu.Unlock()
				// A token that worked was revoked: worth the wait. One that never
				// did would be refused again.
				if final(err) || !refused.accepted.Load() || now.Add(wait).After(giveUp) {
					return nil, &delayedError{err, wait}
				}
				if err := sleep.For(ctx, wait); err != nil {
					return nil, err
				}
				continue
			}
			if f = s.launch(ctx, e, ReasonRefused, refused, (*renewal).renew); f == nil {
				e.mu.Unlock()
				return nil, ErrClosed
			}
		} else if f.forced == nil && !f.aside {
			f.forced = refused // the renewal that runs anyway answers for it
		}
		if !f.aside {
			e.withhold()
		}
		e.mu.Unlock()
		if err := f.wait(ctx); err != nil {
			return nil, err
		}
		if !f.aside {
			return f.tok, f.err
		}
	}
}

// mayForce is mayTry for a renewal that the API's refusal asks for. Only such
// renewals count: a token may be revoked right after the timer has renewed it.
func (s *Source) mayForce(e *entry, refused *Token, now time.Time) (time.Duration, error) {
	if !s.CanRenew(refused) {
		return 0, ErrAuthorizationRequired
	}
	if wait, err := s.mayTry(e, now, true); err != nil {
		return wait, err
	}
	last := e.renewed
	if t := e.tok; t != nil && !t.own && !t.accepted.Load() && t.issued.After(last) && !t.issued.After(now) {
		// By another process, perhaps because the API asked: the provider is one for
		// all. A token that worked here was revoked, whoever obtained it.
		last = t.issued
	}
	if next := last.Add(s.cfg.MinInterval); now.Before(next) {
		return min(next.Sub(now), s.cfg.MinInterval), ErrTooSoon
	}
	return 0, nil
}

// Exchange gives the source an authorization code for the key. The code is
// sent once: the same code again returns the first outcome. It waits for the
// answer no longer than ctx, but the response is taken whatever becomes of ctx.
func (s *Source) Exchange(ctx context.Context, k Key, c Code) (*Token, error) {
	g, ok := s.cfg.Grant.(CodeGrant)
	if !ok {
		return nil, fmt.Errorf("token source %s: its grant takes no code: %w", s.cfg.Name, errors.ErrUnsupported)
	}
	sum := sha256.Sum256([]byte(c.Code.Reveal()))
	if !s.codes.claim(sum, k) {
		return nil, fmt.Errorf("token source %s: %w: it was handed over for another key", s.cfg.Name, ErrCodeRefused)
	}
	e, err := s.entry(k, time.Now())
	if err != nil {
		return nil, err
	}
	for {
		var err error
		if e, err = s.lock(ctx, e); err != nil {
			return nil, err
		}
		if e.flight != nil { // one at a time; a first look into the store counts too
			f := e.flight
			e.mu.Unlock()
			if err := f.wait(ctx); err != nil {
				return nil, err
			}
			continue
		}
		if e.code != nil && e.code.sum == sum {
			t, err := e.tok, e.code.err
			e.mu.Unlock()
			return t, err
		}
		f := s.launch(ctx, e, ReasonCode, nil, func(r *renewal, ctx context.Context) (*Token, error) {
			return r.exchange(ctx, g, c, sum)
		})
		e.mu.Unlock()
		if f == nil {
			return nil, ErrClosed
		}
		if err := f.wait(ctx); err != nil {
			return nil, err
		}
		return f.tok, f.err
	}
}
