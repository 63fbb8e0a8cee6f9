package bearer

import (
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-bearer/caddy-bearer/tokensource"
)

// Breakers are the circuit breakers at one API. Each key has its own breaker, so
// that one user's revoked consent does not shut out the others. A breaker exists
// only while it has something to count, so a million users whose tokens work
// cost nothing. A breaker opens when the API keeps refusing a key's tokens. Then
// one request at a time probes whether the API still does.
//
// Breakers also remember for a minute which requests no new token cures.
type Breakers struct {
	settings tokensource.BreakerSettings
	log      *slog.Logger
	counting atomic.Int64 // how many there are: mostly none
	mu       sync.Mutex
	byKey    map[tokensource.Key]*keyBreaker
	memory   memory
}

// keyBreaker is the breaker of one key. It remembers the token whose refusals it
// counts.
type keyBreaker struct {
	*tokensource.Breaker
	token *tokensource.Token
	last  atomic.Int64 // when it got its last verdict, in Unix nanoseconds
	count atomic.Int64 // refusals since it was made
}

// probeDeadline is how long a half-open breaker waits for its probe. gobreaker
// would wait for ever, and a hung probe would keep the breaker shut.
const probeDeadline = 10 * time.Second

// NewBreakers makes the breakers for one API. A setting that is zero gets its
// default. Changes of state are logged; log may be nil.
func NewBreakers(s tokensource.BreakerSettings, log *slog.Logger) *Breakers {
	s.SetDefaults()
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Breakers{settings: s, log: log, byKey: make(map[tokensource.Key]*keyBreaker)}
}

// Settings returns the settings, with their defaults.
func (bs *Breakers) Settings() tokensource.BreakerSettings { return bs.settings }

// allow asks whether a request may be sent. If so, the caller reports the outcome
// to done: the verdict, and the refusal if there was one.
//
// If a person has replaced the token, a new breaker begins, because the old one
// has counted refusals of the old token. That is so for a token that only a
// person can replace (renewable is false) and for one that came from a code. A
// renewal alone resets nothing: refusals that go on after renewals are what the
// breaker is there to count.
func (bs *Breakers) allow(k tokensource.Key, token *tokensource.Token, renewable bool) (done func(tokensource.Verdict, *blamed), err error) {
	if bs.counting.Load() == 0 {
		return bs.first(k, token), nil
	}
	bs.mu.Lock()
	b := bs.byKey[k]
	if b != nil && b.token != token && (!renewable || token.ByCode()) {
		bs.drop(k)
		b = nil
	}
	bs.mu.Unlock()
	if b == nil {
		return bs.first(k, token), nil
	}
	report, err := b.Allow(probeDeadline)
	if err != nil {
		return nil, err
	}
	return func(v tokensource.Verdict, refusal *blamed) {
		bs.report(k, b, report, v, refusal)
		if v == tokensource.Works {
			bs.forget(k, b)
		}
	}, nil
}

// report gives the verdict to the breaker. If that changes the breaker's state,
// it logs the change and the refusal that caused it.
func (bs *Breakers) report(k tokensource.Key, b *keyBreaker, done func(tokensource.Verdict), v tokensource.Verdict, refusal *blamed) {
	before := b.State()
	b.last.Store(time.Now().UnixNano())
	refusals := b.count.Load()
	if v == tokensource.Fails {
		refusals = b.count.Add(1)
	}
	done(v)
	after := b.State()
	if after == before {
		return
	}
	attrs := []any{"key", k.String(), "was", before, "is", after, "refusals", refusals}
	if refusal != nil {
		attrs = append(attrs, "status", refusal.status, "method", refusal.method, "path", refusal.path)
		if refusal.code != "" {
			attrs = append(attrs, "error", refusal.code)
		}
	}
	bs.log.Warn("the API's circuit breaker", attrs...)
}

// first is done for a key without a breaker. It makes one at the first failure.
func (bs *Breakers) first(k tokensource.Key, token *tokensource.Token) func(tokensource.Verdict, *blamed) {
	return func(v tokensource.Verdict, refusal *blamed) {
		if v != tokensource.Fails {
			return
		}
		bs.mu.Lock()
		b := bs.byKey[k]
		if b == nil {
			bs.makeRoom()
			b = &keyBreaker{Breaker: tokensource.NewBreaker(bs.settings), token: token}
			bs.byKey[k] = b
			bs.counting.Store(int64(len(bs.byKey)))
		}
		bs.mu.Unlock()
		if done, err := b.Allow(probeDeadline); err == nil {
			bs.report(k, b, done, v, refusal)
		}
	}
}

// maxBreakers bounds the memory for keys that failed and were never used again.
const maxBreakers = 10_000

// makeRoom drops a breaker if there are too many: an old one, or a closed one of
// the few that it looks at. The caller holds bs.mu.
func (bs *Breakers) makeRoom() {
	if len(bs.byKey) < maxBreakers {
		return
	}
	if bs.sweep(); len(bs.byKey) < maxBreakers {
		return
	}
	var victim tokensource.Key
	looked := 0
	for k, b := range bs.byKey {
		victim = k
		if looked++; looked > 16 || b.State() == tokensource.BreakerClosed {
			break
		}
	}
	bs.drop(victim)
}

// drop removes a breaker. The caller holds bs.mu.
func (bs *Breakers) drop(k tokensource.Key) {
	delete(bs.byKey, k)
	bs.counting.Store(int64(len(bs.byKey)))
}

// forget drops a breaker that has nothing to count any more.
func (bs *Breakers) forget(k tokensource.Key, b *keyBreaker) {
	bs.mu.Lock()
	defer bs.mu.Unlock()
	if bs.byKey[k] == b && b.Idle() {
		bs.drop(k)
	}
}

// Worst returns the worst state of all breakers: closed if all is well.
func (bs *Breakers) Worst() tokensource.BreakerState {
	bs.mu.Lock()
	defer bs.mu.Unlock()
	bs.sweep()
	worst := tokensource.BreakerClosed
	for _, b := range bs.byKey {
		worst = max(worst, b.State())
	}
	return worst
}

// sweep drops breakers that got no verdict for a long time, measured from when
// they would have let a probe through. Otherwise a user who never comes back
// would keep the source's state bad. The caller holds bs.mu.
func (bs *Breakers) sweep() {
	oldest := time.Now().Add(-forgetAfter * bs.settings.OpenFor).UnixNano()
	for k, b := range bs.byKey {
		if last := b.last.Load(); last != 0 && last < oldest {
			bs.drop(k)
		}
	}
}

// forgetAfter is how many times open_for a breaker is kept without a verdict.
const forgetAfter = 10
