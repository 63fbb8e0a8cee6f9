package tokensource

import (
	"testing"
	"time"
	"unsafe"

	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenendpoint"
)

// withWall is now with its wall clock moved by whole seconds and its
// monotonic reading left. The time package offers no way to make one; in a
// time with both readings the wall seconds are the bits from 30 up.
func withWall(now time.Time, by time.Duration) time.Time {
	*(*int64)(unsafe.Pointer(&now)) += int64(by/time.Second) << 30
	return now
}

// stored is a time as it comes from a record: no monotonic reading.
func fromStore(at time.Time) time.Time { return at.Round(0) }

func TestWithWall(t *testing.T) {
	now := time.Now()
	jumped := withWall(now, time.Hour)
	if jumped.Sub(now) != 0 || jumped.Unix()-now.Unix() != 3600 {
		t.Fatalf("monotonic moved by %v and wall by %ds, want 0 and 3600", jumped.Sub(now), jumped.Unix()-now.Unix())
	}
}

func TestBefore(t *testing.T) {
	now := time.Now()
	in := now.Add(time.Minute)
	ago := now.Add(-time.Minute)
	for name, c := range map[string]struct {
		now, moment time.Time
		want        bool
	}{
		"ahead":                       {now, in, true},
		"passed":                      {now, ago, false},
		"the moment itself":           {now, now, false},
		"ahead, from the store":       {now, fromStore(in), true},
		"passed, from the store":      {now, fromStore(ago), false},
		"the wall clock jumped ahead": {withWall(now, time.Hour), in, false},
		"the wall clock jumped back":  {withWall(now, -time.Hour), in, true},
		"jumped back past the moment": {withWall(now, -2*time.Minute), ago, false},
		"both without monotonic":      {fromStore(now), fromStore(ago), false},
		"jumped back, from the store": {withWall(now, -2*time.Minute), fromStore(ago), true},
	} {
		t.Run(name, func(t *testing.T) {
			if got := before(c.now, c.moment); got != c.want {
				t.Errorf("before is %v, want %v", got, c.want)
			}
		})
	}
}

func TestStateAt(t *testing.T) {
	now := time.Now()
	token := func(due, expiry time.Time) *Token {
		t := &Token{issued: now.Add(-time.Minute)}
		if !due.IsZero() {
			t.dueAt(due)
		}
		if !expiry.IsZero() {
			t.lifetime = expiry.Sub(t.issued)
		}
		return t
	}
	var never time.Time
	for name, c := range map[string]struct {
		token *Token
		want  state
	}{
		"none":                    {nil, expired},
		"before it is due":        {token(now.Add(1), now.Add(2)), fresh},
		"at the moment it is due": {token(now, now.Add(1)), due},
		"past due":                {token(now.Add(-1), now.Add(1)), due},
		"at its expiry":           {token(now.Add(-1), now), expired},
		"past its expiry":         {token(now.Add(-2), now.Add(-1)), expired},
		"for ever":                {token(never, never), fresh},
		"never due but expires":   {token(never, now.Add(-1)), fresh},
		"due for ever":            {token(now.Add(-1), never), due},
		"from the store, due":     {token(fromStore(now.Add(-1)), fromStore(now.Add(time.Hour))), due},
	} {
		t.Run(name, func(t *testing.T) {
			if got := stateAt(now, c.token); got != c.want {
				t.Errorf("state %d, want %d", got, c.want)
			}
		})
	}
}

// docs/faults.md, faults 42 and 43: the wall clock jumps an hour either way, or the host was
// suspended: a token that died meanwhile is renewed before it is used.
func TestStateAtAfterAJump(t *testing.T) {
	now := time.Now()
	tok := newToken("t", "")
	tok.live(now, time.Hour, RefreshAhead{Fraction: 0.2, Max: 5 * time.Minute}, 0)
	for name, c := range map[string]struct {
		now  time.Time
		want state
	}{
		"half an hour on":                {now.Add(30 * time.Minute), fresh},
		"in the margin":                  {now.Add(56 * time.Minute), due},
		"jumped past the margin":         {withWall(now, 56*time.Minute), due},
		"suspended past the expiry":      {withWall(now, 2*time.Hour), expired},
		"jumped back":                    {withWall(now, -2*time.Hour), fresh},
		"an hour on":                     {now.Add(time.Hour), expired},
		"an hour on, and jumped back":    {withWall(now.Add(time.Hour), -2*time.Hour), expired},
		"in the margin, and jumped back": {withWall(now.Add(56*time.Minute), -time.Hour), due},
	} {
		t.Run(name, func(t *testing.T) {
			if got := stateAt(c.now, tok); got != c.want {
				t.Errorf("state %d, want %d", got, c.want)
			}
		})
	}
}

// The endpoint throttled for a minute; an hour's jump back makes that no longer.
func TestThrottlingAfterAJump(t *testing.T) {
	s := &Source{gate: newGate(BreakerSettings{TripAfter: 5, OpenFor: time.Second}, time.Second)}
	now := time.Now()
	err := &tokenendpoint.Error{Status: 429, Class: tokenendpoint.Throttled, RetryAfter: time.Minute}
	s.gate.refused(Key{}, now, err, judgement{fault: FaultEndpoint})
	if _, err := s.mayTry(&entry{}, now, true); err == nil {
		t.Error("the source does not wait")
	}
	later := withWall(now.Add(2*time.Minute), -time.Hour)
	if wait, err := s.mayTry(&entry{}, later, true); err != nil {
		t.Errorf("two minutes later, after a jump back, the source still waits %v, want no wait", wait.Round(time.Second))
	}
}

func TestExpiryOf(t *testing.T) {
	year := 365 * 24 * time.Hour
	in := tokenendpoint.ExpiresIn
	never := tokenendpoint.Expiry{State: tokenendpoint.ExpiryNone}
	unreadable := tokenendpoint.Expiry{State: tokenendpoint.ExpiryUnreadable, Path: "ttl", Found: "string"}
	for name, c := range map[string]struct {
		said     tokenendpoint.Expiry
		lifetime Lifetime
		want     time.Duration
		dead     bool
	}{
		"said":                        {in(30 * time.Minute), Lifetime{Default: time.Hour}, 30 * time.Minute, false},
		"not said":                    {tokenendpoint.Expiry{}, Lifetime{Default: time.Hour}, time.Hour, false},
		"unreadable":                  {unreadable, Lifetime{Default: time.Hour}, time.Hour, false},
		"less than a second":          {in(time.Nanosecond), Lifetime{Default: time.Hour}, time.Second, false},
		"zero":                        {in(0), Lifetime{Default: time.Hour}, 0, true},
		"negative":                    {in(-time.Second), Lifetime{Default: time.Hour}, 0, true},
		"negative, but for ever":      {in(-time.Second), Lifetime{Default: time.Hour, Forever: true}, 0, false},
		"never":                       {never, Lifetime{Default: time.Hour}, 0, false},
		"never, but capped":           {never, Lifetime{Default: time.Hour, Max: time.Minute}, time.Minute, false},
		"ten years":                   {in(10 * year), Lifetime{Default: time.Hour}, 10 * year, false},
		"more than ten years":         {in(10*year + 1), Lifetime{Default: time.Hour}, time.Hour, false},
		"capped":                      {in(2 * time.Hour), Lifetime{Default: time.Hour, Max: time.Hour}, time.Hour, false},
		"the default is capped too":   {tokenendpoint.Expiry{}, Lifetime{Default: time.Hour, Max: time.Minute}, time.Minute, false},
		"absurd is not made the cap":  {in(20 * year), Lifetime{Default: time.Hour, Max: year}, time.Hour, false},
		"for ever, whatever was said": {in(time.Minute), Lifetime{Default: time.Hour, Forever: true}, 0, false},
		"the longest duration":        {in(1<<63 - 1), Lifetime{Default: time.Hour}, time.Hour, false},
	} {
		t.Run(name, func(t *testing.T) {
			if got, dead := expiryOf(c.said, c.lifetime); got != c.want || dead != c.dead {
				t.Errorf("%v, dead %v, want %v, %v", got, dead, c.want, c.dead)
			}
		})
	}
}

func TestAheadOf(t *testing.T) {
	usual := RefreshAhead{Fraction: 0.2, Max: 5 * time.Minute}
	for name, c := range map[string]struct {
		lifetime time.Duration
		ahead    RefreshAhead
		random   float64
		want     time.Duration
	}{
		"a fraction":                  {10 * time.Minute, usual, 0, 2 * time.Minute},
		"no more than the maximum":    {12 * time.Hour, usual, 0, 5 * time.Minute},
		"jitter adds a quarter":       {12 * time.Hour, usual, 1, 5*time.Minute + 75*time.Second},
		"half the jitter":             {10 * time.Minute, usual, 0.5, 2*time.Minute + 15*time.Second},
		"no maximum":                  {100 * time.Hour, RefreshAhead{Fraction: 0.2}, 0, 20 * time.Hour},
		"all of a long life":          {time.Hour, RefreshAhead{Fraction: 1}, 1, time.Hour - time.Second},
		"all of a short one":          {10 * time.Second, RefreshAhead{Fraction: 1}, 1, 9500 * time.Millisecond},
		"five seconds":                {5 * time.Second, usual, 0, time.Second},
		"as long as a token may live": {absurdLifetime, usual, 0, 5 * time.Minute},
		"as long as a duration":       {1<<63 - 1, usual, 1, 5*time.Minute + 75*time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			if got := aheadOf(c.lifetime, c.ahead, c.random); got != c.want {
				t.Errorf("%v, want %v", got, c.want)
			}
		})
	}
}

func TestNextWake(t *testing.T) {
	now := time.Now()
	for name, c := range map[string]struct {
		token *Token
		wait  time.Duration
		ok    bool
	}{
		"no token":  {nil, 0, false},
		"never due": {&Token{}, 0, false},
		"due later": {&Token{issued: now, fresh: time.Minute}, time.Minute, true},
		"due now":   {&Token{issued: now.Add(-time.Hour), fresh: time.Hour}, 0, true},
		"past due":  {&Token{issued: now.Add(-2 * time.Hour), fresh: time.Hour}, 0, true},
	} {
		t.Run(name, func(t *testing.T) {
			wait, ok := nextWake(now, c.token)
			if wait != c.wait || ok != c.ok {
				t.Errorf("%v, %v, want %v, %v", wait, ok, c.wait, c.ok)
			}
		})
	}
}

// docs/faults.md, faults 1 and 3: full jitter up to five minutes; Retry-After is obeyed
// and capped.
func TestRetryAfterPolicy(t *testing.T) {
	for name, c := range map[string]struct {
		asked   time.Duration
		attempt int
		random  float64
		want    time.Duration
	}{
		"first, drawn low":       {0, 1, 0, backoffMin},
		"first, drawn high":      {0, 1, 1, time.Second},
		"first, half":            {0, 1, 0.5, 500 * time.Millisecond},
		"second":                 {0, 2, 1, 2 * time.Second},
		"ninth":                  {0, 9, 1, 256 * time.Second},
		"tenth":                  {0, 10, 1, writeRetryMax},
		"hundredth":              {0, 100, 1, writeRetryMax},
		"after a million":        {0, 1e6, 0.5, writeRetryMax / 2},
		"low draw, late":         {0, 50, 0, backoffMin},
		"asked":                  {42 * time.Second, 1, 0.5, 42 * time.Second},
		"asked on a late try":    {time.Second, 50, 1, time.Second},
		"asked 10^9 seconds":     {1e9 * time.Second, 1, 0.5, time.Hour},
		"asked next to nothing":  {time.Nanosecond, 1, 1, backoffMin},
		"asked less than no try": {-time.Second, 1, 1, time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			if got := retryAfter(c.asked, c.attempt, writeRetryMax, c.random); got != c.want {
				t.Errorf("%v, want %v", got, c.want)
			}
		})
	}
}
