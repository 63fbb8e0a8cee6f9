package tokensource

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/oauth2"

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
	// MinInterval is the least time between forced renewals of one token.
	// Default: 1s.
	MinInterval time.Duration
	// Patience is how long a caller without a usable token waits through failed
	// attempts for one that succeeds, before it is told. Default: 5s; negative:
	// not at all.
	Patience time.Duration
	// RenewalTimeout bounds one renewal, all its calls together. Default: 1m.
	RenewalTimeout time.Duration
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
	// [tokenstore.KeySize] bytes. Default: none, records are not sealed.
	StorageKeys [][]byte
	// Observer is told of renewals. Default: none.
	Observer Observer
	// Logger. Default: discards.
	Logger *slog.Logger
}

func (c *Config) setDefaults() {
	setDefault(&c.Lifetime.Default, time.Hour)
	setDefault(&c.RefreshAhead.Fraction, 0.2)
	setDefault(&c.RefreshAhead.Max, 5*time.Minute)
	setDefault(&c.MinInterval, time.Second)
	setDefault(&c.Patience, 5*time.Second)
	setDefault(&c.RenewalTimeout, time.Minute)
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
	log          *slog.Logger
	recordPrefix string
	breaker      *Breaker
	store        *tokenstore.Client // nil: there is no store
	storeChanges atomic.Int64
	draining     atomic.Bool

	single   *entry // of a source without keys
	entries  *entries
	finished finished
	resumed  atomic.Bool // its cut-off renewals were looked for

	// throttled holds back every key until then: the endpoint throttles the
	// client, not the user.
	throttled atomic.Pointer[time.Time]
	throttles atomic.Int32 // in a row, of all keys

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
	cfg.setDefaults()
	codec, err := tokenstore.NewCodec(cfg.StorageKeys)
	if err != nil {
		return nil, fmt.Errorf("token source %s: %w", cfg.Name, err)
	}
	s := &Source{
		cfg:          cfg,
		log:          cfg.Logger,
		recordPrefix: hashParts(append([]string{cfg.Name}, cfg.Grant.Identity()...)...),
		breaker:      NewBreaker(cfg.Breaker),
	}
	if cfg.Store != nil {
		s.store = tokenstore.NewClient(cfg.Store, codec, rand.Text(), s.storeTurned)
	}
	s.life, s.end = context.WithCancel(context.Background())
	if len(cfg.KeyNames) == 0 {
		s.single = &entry{}
	} else {
		s.entries = newEntries(cfg.MaxKeys, cfg.MaxMemory, cfg.Store == nil && cfg.Grant.NeedsPerson())
	}
	return s, nil
}

// Name returns the source's name.
func (s *Source) Name() string { return s.cfg.Name }

// KeyNames returns the names of the key's values.
func (s *Source) KeyNames() []string { return s.cfg.KeyNames }

// GrantType returns the grant's type.
func (s *Source) GrantType() string { return s.cfg.Grant.Type() }

// CanRenew reports whether a refused token of this source can be replaced
// without a person.
func (s *Source) CanRenew(t *Token) bool {
	g := s.cfg.Grant
	return !g.NeedsPerson() || (g.CanRefresh() && !t.orphan.Load() && (t.refresh != "" || !g.Seed().Empty()))
}

// Token returns a usable token for the key. It returns at once with a fresh
// token; else as the package's comment says. The error is ctx's own, or wraps
// one of ErrAuthorizationRequired, ErrUnavailable, ErrRefused, ErrBreakerOpen
// and ErrClosed.
func (s *Source) Token(ctx context.Context, k Key) (*Token, error) {
	now := time.Now()
	e := s.entry(k, now)
	if t := e.cur.Load(); t != nil && stateAt(now, t) == fresh {
		return t, nil
	}
	return s.await(ctx, e)
}

// entry returns the key's entry, made if it is new.
func (s *Source) entry(k Key, now time.Time) *entry {
	if s.single != nil {
		return s.single
	}
	return s.entries.get(k, now)
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
func (s *Source) Breaker() BreakerState { return s.breaker.State() }

// each visits every entry.
func (s *Source) each(f func(*entry)) {
	if s.single != nil {
		f(s.single)
		return
	}
	s.entries.each(f)
}
