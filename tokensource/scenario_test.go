package tokensource_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-bearer/caddy-bearer/tokensource"
	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenendpoint"
)

// What becomes of a source as a whole when its endpoint says one thing or
// another for a while: days of a provider's life in the fake clock's time.

// users are the keys of n users.
func users(n int) []tokensource.Key {
	ks := make([]tokensource.Key, n)
	for i := range ks {
		ks[i] = tokensource.NewKey(fmt.Sprintf("user-%d", i))
	}
	return ks
}

// traffic asks for each key's token every so often until stop is called, and
// notes what it gets.
type traffic struct {
	mu     sync.Mutex
	errs   map[string]int // by the error's fault
	first  map[tokensource.Key]time.Time
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

func startTraffic(s *tokensource.Source, ks []tokensource.Key, every, patience time.Duration) *traffic {
	ctx, cancel := context.WithCancel(context.Background())
	tr := &traffic{errs: make(map[string]int), cancel: cancel}
	tr.reset()
	for i, k := range ks {
		tr.wg.Go(func() {
			time.Sleep(every * time.Duration(i) / time.Duration(len(ks)))
			for ctx.Err() == nil {
				call, done := context.WithTimeout(ctx, patience)
				_, err := s.Token(call, k)
				done()
				tr.note(k, err)
				select {
				case <-time.After(every):
				case <-ctx.Done():
				}
			}
		})
	}
	return tr
}

func (tr *traffic) note(k tokensource.Key, err error) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	if err != nil {
		tr.errs[string(tokensource.FaultOf(err))]++
		return
	}
	if _, was := tr.first[k]; !was {
		tr.first[k] = time.Now()
	}
}

// reset forgets who was served.
func (tr *traffic) reset() {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.first = make(map[tokensource.Key]time.Time)
	clear(tr.errs)
}

// served returns how many keys got a token since reset, and when the first and
// the last of them did.
func (tr *traffic) served() (n int, first, last time.Time) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	for _, at := range tr.first {
		if first.IsZero() || at.Before(first) {
			first = at
		}
		if at.After(last) {
			last = at
		}
	}
	return len(tr.first), first, last
}

func (tr *traffic) failures() map[string]int {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	copied := make(map[string]int)
	for fault, n := range tr.errs {
		copied[fault] = n
	}
	return copied
}

func (tr *traffic) stop() {
	tr.cancel()
	tr.wg.Wait()
}

// After an outage of any length, under traffic: the first token at most 5 s after
// the endpoint is back, and never more than one call a second meanwhile.
func TestFault57RecoveryAfterAnOutage(t *testing.T) {
	for _, outage := range []time.Duration{3 * time.Second, time.Minute, 10 * time.Minute} {
		for _, keyed := range []bool{false, true} {
			for name, failure := range map[string]error{"503": status(503), "silence": &tokenendpoint.Error{Sent: true}, "a gateway's 403": status(403)} {
				t.Run(fmt.Sprint(outage, keyed, name), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						var mu sync.Mutex
						var calls []time.Time
						var down atomic.Bool
						down.Store(true)
						g := &fakeGrant{onToken: func(context.Context, int, tokensource.Vars) (*tokenendpoint.Response, error) {
							mu.Lock()
							calls = append(calls, time.Now())
							mu.Unlock()
							time.Sleep(50 * time.Millisecond)
							if down.Load() {
								return nil, failure
							}
							return answer("tok", "", time.Hour), nil
						}}
						cfg := tokensource.Config{Grant: g}
						ks := []tokensource.Key{noKey}
						if keyed {
							cfg.KeyNames, ks = []string{"user"}, users(20)
						}
						s := newSource(t, cfg)
						tr := startTraffic(s, ks, 600*time.Millisecond, time.Minute)
						defer tr.stop()
						time.Sleep(outage)
						down.Store(false)
						back := time.Now()
						time.Sleep(10 * time.Second)
						n, first, last := tr.served()
						if n != len(ks) || first.Sub(back) > 5*time.Second || last.Sub(back) > 5*time.Second {
							t.Errorf("%d of %d are served, the first %v after the endpoint is back, the last %v", n, len(ks), first.Sub(back), last.Sub(back))
						}
						mu.Lock()
						defer mu.Unlock()
						for i := 1; i < len(calls) && calls[i].Before(back); i++ {
							if calls[i].Sub(calls[0]) < 50*time.Millisecond {
								continue // together with the first, before it had failed
							}
							if gap := calls[i].Sub(calls[i-1]); gap < time.Second {
								t.Fatalf("call %d comes %v after the one before", i, gap)
							}
						}
						if failed := tr.failures(); outage > 10*time.Second && (failed["endpoint"] == 0 || len(failed) != 1) {
							t.Errorf("callers were told %v, want the endpoint's fault", failed)
						}
					})
				})
			}
		}
	}
}

// What the provider asks to wait for is kept, up to an hour, however many wait.
func TestRetryAfterIsKeptUnderTraffic(t *testing.T) {
	for name, failure := range map[string]error{
		"429": throttle(50 * time.Minute), "503": &tokenendpoint.Error{Status: 503, RetryAfter: 50 * time.Minute, Sent: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := &fakeGrant{onToken: func(_ context.Context, n int, _ tokensource.Vars) (*tokenendpoint.Response, error) {
					if n == 1 {
						return nil, failure
					}
					return answer("tok", "", time.Hour), nil
				}}
				s := newSource(t, tokensource.Config{Grant: g, KeyNames: []string{"user"}})
				tr := startTraffic(s, users(10), time.Second, time.Minute)
				defer tr.stop()
				time.Sleep(49 * time.Minute)
				wantCalls(t, g, 1, 0)
				time.Sleep(2 * time.Minute)
				if n, _, _ := tr.served(); n != 10 {
					t.Errorf("%d of 10 are served afterwards", n)
				}
			})
		})
	}
}

// wordings are how providers tell that the client's secret is wrong.
var wordings = map[string]*tokenendpoint.Error{
	"401 invalid_client":        {Status: 401, Code: "invalid_client", Class: tokenendpoint.Permanent},
	"400 invalid_client":        {Status: 400, Code: "invalid_client", Class: tokenendpoint.Permanent},
	"401 access_denied":         {Status: 401, Code: "access_denied", Class: tokenendpoint.Permanent},
	"401 unauthorized_client":   {Status: 401, Code: "unauthorized_client", Class: tokenendpoint.Permanent},
	"400 invalid_client_secret": {Status: 400, Code: "invalid_client_secret", Class: tokenendpoint.Permanent},
	"400 unauthorized_client":   {Status: 400, Code: "unauthorized_client", Class: tokenendpoint.Permanent},
	"401 JSON without a code":   {Status: 401, Class: tokenendpoint.Permanent},
	"403 JSON without a code":   {Status: 403, Class: tokenendpoint.Permanent},
	"401, empty":                {Status: 401},
	"403, empty":                {Status: 403},
	"200 with a code":           {Status: 200, Code: "incorrect_client_credentials", Class: tokenendpoint.Permanent},
	"500":                       {Status: 500},
}

// A wrong client secret for ten minutes at a source with 100 users, then the
// right one: no consent is lost, and all are served within a minute, without an
// operator. Some have worked before, or none: the process may be new.
func TestFault54WrongSecretCostsNoConsent(t *testing.T) {
	for name, wording := range wordings {
		for _, fresh := range []bool{false, true} {
			for _, person := range []bool{true, false} {
				t.Run(fmt.Sprint(name, ", new process ", fresh, ", consents ", person), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) { wrongSecret(t, wording, fresh, person) })
				})
			}
		}
	}
}

func wrongSecret(t *testing.T, wording *tokenendpoint.Error, fresh, person bool) {
	var wrong atomic.Bool
	issue := func(access string) (*tokenendpoint.Response, error) {
		time.Sleep(30 * time.Millisecond)
		if wrong.Load() {
			refusal := *wording
			refusal.Sent = true
			return nil, &refusal
		}
		return answer(access, "r", 5*time.Minute), nil
	}
	g := &fakeGrant{
		person: person, perKey: true,
		onToken:    func(context.Context, int, tokensource.Vars) (*tokenendpoint.Response, error) { return issue("granted") },
		onRefresh:  func(context.Context, int, string) (*tokenendpoint.Response, error) { return issue("refreshed") },
		onExchange: func(context.Context, int, string) (*tokenendpoint.Response, error) { return issue("exchanged") },
	}
	cfg := tokensource.Config{Grant: g, KeyNames: []string{"user"}, Store: newMemStore()}
	s := newSource(t, cfg)
	ks := users(100)
	for _, k := range ks {
		var err error
		if person {
			_, err = s.Exchange(context.Background(), k, code(k.String()))
		} else {
			_, err = s.Token(context.Background(), k)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	wrong.Store(true)
	if fresh {
		s = newSource(t, cfg)
	}
	before := g.calls()
	tr := startTraffic(s, ks, 9*time.Second, time.Minute)
	defer tr.stop()
	time.Sleep(10 * time.Minute)
	// where the words are those for a user, each of the hundred has a back-off of its
	// own, which comes to ten calls in that time
	if n := g.calls() - before; n > 10*60 && (person || n > 100*12) {
		t.Errorf("%d calls in 10 minutes", n)
	}
	wrong.Store(false)
	right := time.Now()
	tr.reset()
	time.Sleep(80 * time.Second)
	n, _, last := tr.served()
	if n != len(ks) || last.Sub(right) > time.Minute {
		t.Errorf("%d of %d are served, the last %v after the secret is right; failures %v", n, len(ks), last.Sub(right), tr.failures())
	}
	if lost := s.Stats().NeedPerson; lost != 0 {
		t.Errorf("%d consents are lost", lost)
	}
	if troubles := s.Troubles(); len(troubles) != 0 {
		t.Errorf("there is still trouble: %+v", troubles)
	}
}

// A hundred users whose tokens expire at once, at an endpoint that takes ten
// calls a second: all are served within 15 s, with at most 130 calls.
func TestFault62ManyUsersAtAThrottlingEndpoint(t *testing.T) {
	for _, took := range []time.Duration{time.Millisecond, 100 * time.Millisecond, 300 * time.Millisecond} {
		t.Run(took.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var mu sync.Mutex
				var window time.Time
				calls, taken, refused := 0, 0, 0
				g := &fakeGrant{onToken: func(context.Context, int, tokensource.Vars) (*tokenendpoint.Response, error) {
					mu.Lock()
					calls++
					if now := time.Now(); now.Sub(window) >= time.Second {
						window, taken = now, 0
					}
					taken++
					over := taken > 10
					if over {
						refused++
					}
					mu.Unlock()
					time.Sleep(took)
					if over {
						return nil, throttle(time.Second)
					}
					return answer("tok", "", time.Hour), nil
				}}
				s := newSource(t, tokensource.Config{Grant: g, KeyNames: []string{"user"}})
				var failed atomic.Int32
				var wg sync.WaitGroup
				start := time.Now()
				for _, k := range users(100) {
					wg.Go(func() {
						ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
						defer cancel()
						if _, err := s.Token(ctx, k); err != nil {
							failed.Add(1)
						}
					})
				}
				wg.Wait()
				t.Logf("%d calls, %d refused, %v", calls, refused, time.Since(start))
				if failed.Load() != 0 || calls > 130 {
					t.Errorf("%d of 100 failed, with %d calls", failed.Load(), calls)
				}
			})
		})
	}
}

// A slow endpoint that takes any number of calls is not made slower.
func TestManyUsersAtASlowEndpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &fakeGrant{onToken: func(context.Context, int, tokensource.Vars) (*tokenendpoint.Response, error) {
			time.Sleep(4 * time.Second)
			return answer("tok", "", time.Hour), nil
		}}
		s := newSource(t, tokensource.Config{Grant: g, KeyNames: []string{"user"}})
		var failed atomic.Int32
		var wg sync.WaitGroup
		start := time.Now()
		for _, k := range users(100) {
			wg.Go(func() {
				if _, err := s.Token(context.Background(), k); err != nil {
					failed.Add(1)
				}
			})
		}
		wg.Wait()
		if failed.Load() != 0 || time.Since(start) > 15*time.Second {
			t.Errorf("%d of 100 failed, and it took %v", failed.Load(), time.Since(start))
		}
	})
}

// One user's refusals are that user's: others are served, and so is the user
// when the provider has changed its mind.
func TestFault56OneUserIsRefused(t *testing.T) {
	for name, refusal := range map[string]*tokenendpoint.Error{
		"400 access_denied":        {Status: 400, Code: "access_denied", Class: tokenendpoint.Permanent, Sent: true},
		"400 invalid_grant":        {Status: 400, Code: "invalid_grant", Class: tokenendpoint.Permanent, Sent: true},
		"401 without a code":       {Status: 401, Class: tokenendpoint.Permanent, Sent: true},
		"404":                      {Status: 404, Class: tokenendpoint.Permanent, Sent: true},
		"400 user_locked":          {Status: 400, Code: "user_locked", Class: tokenendpoint.Permanent, Sent: true},
		"user_refused by settings": {Status: 500, Class: tokenendpoint.Permanent, Meaning: tokenendpoint.UserRefused, Sent: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var knows atomic.Bool
				calls := 0
				g := &fakeGrant{perKey: true, noRefresh: true, onToken: func(_ context.Context, _ int, v tokensource.Vars) (*tokenendpoint.Response, error) {
					if user, _ := v.Lookup("key.user"); user == "mallory" && !knows.Load() {
						calls++
						return nil, refusal
					}
					return answer("tok", "", time.Minute), nil
				}}
				s := newSource(t, tokensource.Config{Grant: g, KeyNames: []string{"user"}})
				mallory := tokensource.NewKey("mallory")
				for range 600 {
					_, err := s.Token(context.Background(), mallory)
					if !errors.Is(err, tokensource.ErrRefused) {
						t.Fatalf("%v, want ErrRefused", err)
					}
					want(t, s, tokensource.NewKey("bob"), "tok")
					time.Sleep(time.Second)
				}
				if tokensource.FaultOf(wantErr(t, s, mallory, tokensource.ErrRefused)) != tokensource.FaultUser {
					t.Error("it is not said to be the user's fault")
				}
				if calls < 5 || calls > 12 {
					t.Errorf("%d calls for the refused user in ten minutes", calls)
				}
				if s.Breaker() != tokensource.BreakerClosed {
					t.Error("one user's refusals open the breaker")
				}
				knows.Store(true)
				time.Sleep(5*time.Minute + time.Second)
				want(t, s, mallory, "tok")
			})
		})
	}
}

// Refusals are alike by the codes that came, and not by what is shown of them: two
// codes that are not listed are both shown as "other".
func TestRefusalsAreAlikeByTheirCodes(t *testing.T) {
	for codes, whose := range map[[2]string]tokensource.Fault{
		{"ann_is_locked", "bob_is_locked"}: tokensource.FaultUser, {"one_is_locked", "one_is_locked"}: tokensource.FaultClient,
	} {
		synctest.Test(t, func(t *testing.T) {
			g := &fakeGrant{perKey: true, noRefresh: true, onToken: func(_ context.Context, n int, _ tokensource.Vars) (*tokenendpoint.Response, error) {
				if n == 1 {
					return answer("tok", "", time.Hour), nil
				}
				return nil, &tokenendpoint.Error{Status: 401, Code: tokenendpoint.Code(codes[n%2]), Class: tokenendpoint.Permanent, Sent: true}
			}}
			s := newSource(t, tokensource.Config{Grant: g, KeyNames: []string{"user"}})
			ks := users(3)
			want(t, s, ks[0], "tok")
			wantErr(t, s, ks[1], tokensource.ErrRefused)
			err := wantErr(t, s, ks[2], tokensource.ErrRefused)
			if fault := tokensource.FaultOf(err); fault != whose || tokensource.ErrorCode(err) != "other" {
				t.Errorf("%v: %q's fault, by %q, want %q's", codes, fault, tokensource.ErrorCode(err), whose)
			}
		})
	}
}

// Many users who are refused one after the other shut nobody out: not whoever
// comes in between, nor whoever comes first.
func TestRefusedUsersShutNobodyOut(t *testing.T) {
	for _, first := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			g := &fakeGrant{perKey: true, noRefresh: true, onToken: func(_ context.Context, _ int, v tokensource.Vars) (*tokenendpoint.Response, error) {
				if user, _ := v.Lookup("key.user"); len(user) > 0 && user[0] == 'u' {
					return nil, refusal("access_denied")
				}
				return answer("tok", "", time.Minute), nil
			}}
			s := newSource(t, tokensource.Config{Grant: g, KeyNames: []string{"user"}})
			if first {
				want(t, s, tokensource.NewKey("ann"), "tok")
			}
			for _, k := range users(50) {
				wantErr(t, s, k, tokensource.ErrRefused)
			}
			want(t, s, tokensource.NewKey("bob"), "tok")
			for _, k := range users(50) {
				err := wantErr(t, s, k, tokensource.ErrRefused)
				if tokensource.FaultOf(err) != tokensource.FaultUser {
					t.Fatalf("it is %q's fault", tokensource.FaultOf(err))
				}
			}
			want(t, s, tokensource.NewKey("eve"), "tok")
		})
	}
}

// A refresh that is refused in other words: whoever needs a person is told so, and
// the refresh token is kept and tried each hour. Others are untouched.
func TestRefreshRefusedInOtherWords(t *testing.T) {
	for name, refusal := range map[string]*tokenendpoint.Error{
		"400 invalid_request":     {Status: 400, Code: "invalid_request", Class: tokenendpoint.Permanent, Sent: true},
		"400 unauthorized_client": {Status: 400, Code: "unauthorized_client", Class: tokenendpoint.Permanent, Sent: true},
		"401 without a code":      {Status: 401, Class: tokenendpoint.Permanent, Sent: true},
		"200 bad_refresh_token":   {Status: 200, Code: "bad_refresh_token", Class: tokenendpoint.Permanent, Sent: true},
		"403 JSON":                {Status: 403, Class: tokenendpoint.Permanent, Sent: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var dead atomic.Bool
				sent := 0
				g := &fakeGrant{person: true, onRefresh: func(_ context.Context, n int, refresh string) (*tokenendpoint.Response, error) {
					if dead.Load() && refresh == "refresh-of-ann" {
						sent++
						return nil, refusal
					}
					return answer("refreshed", "", time.Hour), nil
				}}
				s := newSource(t, tokensource.Config{Grant: g, KeyNames: []string{"user"}, Store: newMemStore()})
				ann, bob := tokensource.NewKey("ann"), tokensource.NewKey("bob")
				for _, k := range []tokensource.Key{ann, bob} {
					if _, err := s.Exchange(context.Background(), k, code(map[tokensource.Key]string{ann: "ann", bob: "bob"}[k])); err != nil {
						t.Fatal(err)
					}
				}
				time.Sleep(2 * time.Hour)
				dead.Store(true)
				for range 100 {
					err := wantErr(t, s, ann, tokensource.ErrAuthorizationRequired)
					if f := tokensource.FaultOf(err); f != tokensource.FaultSuspected {
						t.Fatalf("fault %q", f)
					}
					want(t, s, bob, "refreshed")
					time.Sleep(time.Minute)
				}
				if sent < 2 || sent > 8 {
					t.Errorf("sent %d times in 100 minutes", sent)
				}
				dead.Store(false) // it was the provider's mistake
				time.Sleep(time.Hour)
				want(t, s, ann, "refreshed")
			})
		})
	}
}

// A bare 401 is a gateway's at first: the source is well again when the gateway
// is. One that stays is the client's, and is no more for ever than that.
func TestBareUnauthorized(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var blocked atomic.Bool
		blocked.Store(true)
		g := &fakeGrant{onToken: func(context.Context, int, tokensource.Vars) (*tokenendpoint.Response, error) {
			if blocked.Load() {
				return nil, status(401)
			}
			return answer("tok", "", time.Hour), nil
		}}
		s := newSource(t, tokensource.Config{Grant: g})
		err := wantErr(t, s, noKey, tokensource.ErrUnavailable)
		if f := tokensource.FaultOf(err); f != tokensource.FaultEndpoint {
			t.Errorf("at first it is %q's fault", f)
		}
		for range 20 {
			_, err = s.Token(context.Background(), noKey)
			time.Sleep(time.Second)
		}
		if f := tokensource.FaultOf(err); f != tokensource.FaultClient {
			t.Errorf("when it stays it is %q's fault: %v, %+v", f, err, s.Troubles())
		}
		blocked.Store(false)
		time.Sleep(time.Minute)
		want(t, s, noKey, "tok")
	})
}

// unknownKeys is how many keys TestUnknownKeys has. A million of them take a minute, and CI has as many.
var unknownKeys = flag.Int("unknown-keys", 50_000, "keys that nobody knows, in TestUnknownKeys")

// However many keys are asked for that nobody knows, no more than there may be are remembered.
func TestUnknownKeys(t *testing.T) {
	for name, g := range map[string]*fakeGrant{
		"refused": {perKey: true, noRefresh: true, onToken: func(context.Context, int, tokensource.Vars) (*tokenendpoint.Response, error) {
			return nil, refusal("access_denied")
		}},
		"nobody authorized": {person: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSource(t, tokensource.Config{Grant: g, KeyNames: []string{"user"}, MaxKeys: 1000, Store: newMemStore()})
				for i := range *unknownKeys {
					_, _ = s.Token(context.Background(), tokensource.NewKey(fmt.Sprint(i)))
				}
				if remembered := s.Remembered(); remembered > 1000+100 {
					t.Errorf("%d keys are remembered", remembered)
				}
			})
		})
	}
}

// A person says that a consent is good after all: it is tried at once, though it
// was refused for good, here and by the record, and so after a restart.
func TestRetry(t *testing.T) {
	for _, oneKey := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			var refuses atomic.Bool
			refuses.Store(true)
			g := &fakeGrant{person: true, onRefresh: func(context.Context, int, string) (*tokenendpoint.Response, error) {
				if refuses.Load() {
					return nil, refusal("invalid_grant")
				}
				return answer("refreshed", "", time.Hour), nil
			}}
			cfg := tokensource.Config{Grant: g, KeyNames: []string{"user"}, Store: newMemStore()}
			s := newSource(t, cfg)
			ann := tokensource.NewKey("ann")
			if _, err := s.Exchange(context.Background(), ann, code("c")); err != nil {
				t.Fatal(err)
			}
			time.Sleep(2 * time.Hour)
			wantErr(t, s, ann, tokensource.ErrAuthorizationRequired)
			s = newSource(t, cfg) // the record says so too
			wantErr(t, s, ann, tokensource.ErrAuthorizationRequired)
			wantCalls(t, g, 0, 1)
			refuses.Store(false)
			time.Sleep(24 * time.Hour)
			wantErr(t, s, ann, tokensource.ErrAuthorizationRequired)
			if got := s.Stats().NeedPerson; got != 1 {
				t.Errorf("%d keys need a person, want 1", got)
			}
			retry := s.Retry
			if oneKey {
				retry = func(ctx context.Context) error { return s.RetryKey(ctx, ann) }
			}
			if err := retry(context.Background()); err != nil {
				t.Fatal(err)
			}
			want(t, s, ann, "refreshed")
			if got := s.Stats().NeedPerson; got != 0 {
				t.Errorf("%d keys need a person afterwards", got)
			}
			if err := s.RetryKey(context.Background(), noKey); !errors.Is(err, tokensource.ErrKey) {
				t.Errorf("a key that is none: %v", err)
			}
		})
	}
}

// Retry does not wait for the next probe of a refused client, nor for a refused
// user's turn.
func TestRetryIsAtOnce(t *testing.T) {
	for name, refusal := range map[string]error{"the client": refusal("invalid_client"), "a user": refusal("access_denied")} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var refuses atomic.Bool
				refuses.Store(true)
				g := &fakeGrant{perKey: true, onToken: func(context.Context, int, tokensource.Vars) (*tokenendpoint.Response, error) {
					if refuses.Load() {
						return nil, refusal
					}
					return answer("tok", "", time.Hour), nil
				}}
				s := newSource(t, tokensource.Config{Grant: g, KeyNames: []string{"user"}, Store: newMemStore()})
				ann := tokensource.NewKey("ann")
				for range 200 {
					wantErr(t, s, ann, tokensource.ErrRefused)
					time.Sleep(time.Second)
				}
				refuses.Store(false)
				if err := s.Retry(context.Background()); err != nil {
					t.Fatal(err)
				}
				want(t, s, ann, "tok")
			})
		})
	}
}

// A source without keys is tried again by its timer, with no request at all,
// whichever way it is said that things have changed.
func TestRetryWithoutTraffic(t *testing.T) {
	for name, retry := range map[string]func(*tokensource.Source) error{
		"Retry":      func(s *tokensource.Source) error { return s.Retry(context.Background()) },
		"RetryKey":   func(s *tokensource.Source) error { return s.RetryKey(context.Background(), noKey) },
		"Reconsider": func(s *tokensource.Source) error { s.Reconsider(true); return nil },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var refuses atomic.Bool
				refuses.Store(true)
				g := &fakeGrant{onToken: func(context.Context, int, tokensource.Vars) (*tokenendpoint.Response, error) {
					if refuses.Load() {
						return nil, refusal("invalid_client")
					}
					return answer("tok", "", time.Hour), nil
				}}
				s := newSource(t, tokensource.Config{Grant: g})
				s.Resume()
				time.Sleep(10 * time.Minute)
				refuses.Store(false)
				if err := retry(s); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Second)
				if got := s.Stats().Tokens; got != 1 {
					t.Errorf("%d tokens a second later, want 1", got)
				}
			})
		})
	}
}
