package bearer_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-bearer/caddy-bearer/bearer"
	"github.com/caddy-bearer/caddy-bearer/tokensource"
	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenendpoint"
)

// world is a token endpoint and an API that share no state: what the API says of
// a token is the test's.
type world struct {
	t      *testing.T
	source *tokensource.Source
	tr     *bearer.Transport
	counts *tally

	mu     sync.Mutex
	issued map[string]time.Time
	says   func(call) int // the API's status
	calls  []call
	down   bool // the token endpoint is
}

// call is a request as the API gets it.
type call struct {
	token, path, body string
	age               time.Duration // of the token
}

// tally is an Observer for many requests at once.
type tally struct {
	mu sync.Mutex
	n  map[string]int
}

func (c *tally) add(what string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n == nil {
		c.n = map[string]int{}
	}
	c.n[what]++
}
func (c *tally) Request(r bearer.Result) { c.add(string(r)) }
func (c *tally) Replay(r bearer.Replay)  { c.add("replay " + string(r)) }

// newWorld makes a world of tokens t1, t2 and so on that live for an hour, unless
// cfg has another grant.
func newWorld(t *testing.T, cfg tokensource.Config, lifetime time.Duration, says func(call) int) *world {
	t.Helper()
	w := &world{t: t, issued: map[string]time.Time{}, says: says, counts: new(tally)}
	cfg.Name = "api"
	cfg.Grant = &tokensource.EndpointGrant{
		Type: "client_credentials",
		Endpoint: &tokenendpoint.Endpoint{
			URL: tokenendpoint.Literal("https://idp.example/token"), Auth: tokenendpoint.ClientNone,
			Transport: roundTripper(func(*http.Request) (*http.Response, error) {
				w.mu.Lock()
				defer w.mu.Unlock()
				if w.down {
					return answer(http.StatusServiceUnavailable, ""), nil
				}
				token := fmt.Sprintf("t%d", len(w.issued)+1)
				w.issued[token] = time.Now()
				return answer(http.StatusOK, fmt.Sprintf(`{"access_token": %q, "expires_in": %d}`, token, int(lifetime.Seconds()))), nil
			}),
		},
	}
	if cfg.MinInterval == 0 {
		cfg.MinInterval = time.Nanosecond
	}
	src, err := tokensource.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = src.Close(context.Background()) })
	w.source = src
	w.tr = &bearer.Transport{Source: src, Base: roundTripper(w.api), Observer: w.counts}
	return w
}

func (w *world) api(req *http.Request) (*http.Response, error) {
	var body []byte
	if req.Body != nil {
		body, _ = io.ReadAll(req.Body)
		_ = req.Body.Close()
	}
	token := strings.TrimPrefix(req.Header.Get("Authorization"), "Bearer ")
	w.mu.Lock()
	c := call{token, req.URL.Path, string(body), time.Since(w.issued[token])}
	w.calls = append(w.calls, c)
	says := w.says
	w.mu.Unlock()
	return answer(says(c), "{}"), nil
}

// set changes what the API says.
func (w *world) set(says func(call) int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.says = says
}

// setDown has the token endpoint fail, or work again.
func (w *world) setDown(down bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.down = down
}

// renewals is how many tokens were issued.
func (w *world) renewals() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.issued)
}

// sent is which tokens a path was called with so far.
func (w *world) sent(path string) (tokens []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.calls {
		if c.path == path {
			tokens = append(tokens, c.token)
		}
	}
	return tokens
}

// get makes a request, and returns the status and why a refusal was passed on.
func (w *world) get(path string) (status int, why string) {
	w.t.Helper()
	return w.do(path, nil)
}

func (w *world) do(path string, content io.Reader) (status int, why string) {
	w.t.Helper()
	res, err := w.tr.RoundTrip(request(w.t, "https://api.example"+path, content))
	if err != nil {
		w.t.Error(err)
		return 0, err.Error()
	}
	_ = res.Body.Close()
	return res.StatusCode, res.Header.Get("Proxy-Status")
}

func (w *world) want(path string, status int, says string) {
	w.t.Helper()
	if got, why := w.get(path); got != status || !strings.Contains(why, says) || (says == "") != (why == "") {
		w.t.Errorf("%s: status %d, Proxy-Status %q; want %d, %q", path, got, why, status, says)
	}
}

func (w *world) wantSent(path string, tokens ...string) {
	w.t.Helper()
	if got := w.sent(path); !slices.Equal(got, tokens) {
		w.t.Errorf("%s was sent with %q, want %q", path, got, tokens)
	}
}

func (w *world) wantCounted(what string, n int) {
	w.t.Helper()
	w.counts.mu.Lock()
	defer w.counts.mu.Unlock()
	if got := w.counts.n[what]; got != n {
		w.t.Errorf("%s is counted %d times, want %d: %v", what, got, n, w.counts.n)
	}
}

// ok says 200 where a condition holds, else 401.
func ok(holds bool) int {
	if holds {
		return http.StatusOK
	}
	return http.StatusUnauthorized
}

// lags is an API that knows a token some time after it was issued.
func lags(lag time.Duration) func(call) int { return func(c call) int { return ok(c.age >= lag) } }

func always(call) int { return http.StatusOK }

// TestNewTokenSettles: the API does not know a new token for 3 s. It is kept, and
// the requests wait for it, one renewal or none.
func TestNewTokenSettles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, tokensource.Config{}, time.Hour, lags(3*time.Second))
		start := time.Now()
		w.want("/", http.StatusOK, "")
		if took := time.Since(start); took != 3300*time.Millisecond {
			t.Errorf("it took %v", took)
		}
		w.wantSent("/", "t1", "t1", "t1", "t1")
		w.wantCounted("replay settled", 1)
	})
	synctest.Test(t, func(t *testing.T) { // many, that come one after the other
		w := newWorld(t, tokensource.Config{}, time.Hour, lags(3*time.Second))
		start := time.Now()
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() { w.want("/", http.StatusOK, "") })
			time.Sleep(200 * time.Millisecond)
		}
		wg.Wait()
		if n := w.renewals(); n != 1 {
			t.Errorf("%d renewals", n)
		}
		if took := time.Since(start); took > 4500*time.Millisecond {
			t.Errorf("they took %v: one success is every other's", took)
		}
	})
	synctest.Test(t, func(t *testing.T) { // revoked, and its successor is as slow
		w := newWorld(t, tokensource.Config{}, time.Hour, always)
		w.want("/", http.StatusOK, "")
		time.Sleep(time.Minute)
		w.set(func(c call) int { return ok(c.token != "t1" && c.age >= 3*time.Second) })
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() { w.want("/", http.StatusOK, "") })
		}
		wg.Wait()
		if n := w.renewals(); n != 2 {
			t.Errorf("%d renewals", n)
		}
		w.wantCounted("ok", 21)
	})
}

// TestSettleEnds: the waits are bounded by the caller's patience, and by settle.
func TestSettleEnds(t *testing.T) {
	refuses := lags(time.Hour)
	for name, c := range map[string]struct {
		maxWait, settle, deadline time.Duration
		took                      time.Duration
		sent                      int
	}{
		// each with one renewal at the end, for the token may have been revoked
		"default":         {took: 3300 * time.Millisecond, sent: 5},
		"max wait":        {maxWait: 2 * time.Second, took: 1300 * time.Millisecond, sent: 4},
		"no wait":         {maxWait: -1, sent: 2},
		"its deadline":    {deadline: time.Second, took: 300 * time.Millisecond, sent: 3},
		"settle, shorter": {settle: time.Second, took: 3300 * time.Millisecond, sent: 5}, // with a renewal
		"settle, off":     {settle: -1, sent: 2},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, tokensource.Config{MaxWait: c.maxWait}, time.Hour, refuses)
				w.tr.Settle = c.settle
				req := request(t, "https://api.example/", strings.NewReader("content"))
				if c.deadline > 0 {
					ctx, cancel := context.WithTimeout(t.Context(), c.deadline)
					defer cancel()
					req = req.WithContext(ctx)
				}
				start := time.Now()
				res, err := w.tr.RoundTrip(req)
				if err != nil || res.StatusCode != http.StatusUnauthorized {
					t.Fatal(res, err)
				}
				if took := time.Since(start); took != c.took {
					t.Errorf("it took %v, want %v", took, c.took)
				}
				if n := len(w.sent("/")); n != c.sent {
					t.Errorf("sent %d times, want %d", n, c.sent)
				}
				w.mu.Lock()
				defer w.mu.Unlock()
				for _, call := range w.calls {
					if call.body != "content" {
						t.Errorf("the body was %q", call.body)
					}
				}
			})
		})
	}
	synctest.Test(t, func(t *testing.T) { // its caller goes
		w := newWorld(t, tokensource.Config{}, time.Hour, refuses)
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			time.Sleep(time.Second)
			cancel()
		}()
		start := time.Now()
		_, err := w.tr.RoundTrip(request(t, "https://api.example/", strings.NewReader("content")).WithContext(ctx))
		if !errors.Is(err, context.Canceled) || time.Since(start) != time.Second {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		w.wantCounted("replay error", 1)
		w.wantCounted("error", 1)
	})
}

// TestReplacedWhileItSettles: a token that comes meanwhile is sent instead.
func TestReplacedWhileItSettles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, tokensource.Config{}, time.Hour, func(c call) int { return ok(c.token == "t2") })
		go func() {
			time.Sleep(500 * time.Millisecond)
			token, err := w.source.Token(t.Context(), tokensource.Key{})
			if err != nil {
				t.Error(err)
				return
			}
			if _, err := w.source.Renew(t.Context(), tokensource.Key{}, token); err != nil {
				t.Error(err)
			}
		}()
		start := time.Now()
		w.want("/", http.StatusOK, "")
		if took := time.Since(start); took > 600*time.Millisecond {
			t.Errorf("it took %v", took)
		}
		w.wantSent("/", "t1", "t1", "t2")
	})
}

// TestPredecessorServes: a renewal ahead of expiry brings a token that the API does
// not know yet. The one before still works, and nobody waits.
func TestPredecessorServes(t *testing.T) {
	for name, revoked := range map[string]bool{"it lives": false, "it was revoked": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, tokensource.Config{}, 100*time.Second, always)
				w.want("/", http.StatusOK, "")
				for w.renewals() < 2 {
					time.Sleep(time.Second / 2)
				}
				w.set(func(c call) int { return ok(c.age >= 2*time.Second && (c.token == "t2" || !revoked)) })
				start := time.Now()
				w.want("/first", http.StatusOK, "")
				if took := time.Since(start); took > 0 != revoked {
					t.Errorf("it took %v", took)
				}
				if revoked {
					w.wantSent("/first", "t2", "t1", "t2", "t2", "t2")
					return
				}
				w.wantSent("/first", "t2", "t1")
				w.wantCounted("replay predecessor", 1)
				time.Sleep(2 * time.Second)
				w.want("/then", http.StatusOK, "")
				w.wantSent("/then", "t2")
			})
		})
	}
}

// forbids is an API at which some paths are forbidden, with a 401 that does not
// say so.
func forbids(c call) int { return ok(!strings.HasPrefix(c.path, "/forbidden")) }

// TestMissingPermission: a 401 that no new token cures costs a renewal a minute,
// whatever the path, and no breaker.
func TestMissingPermission(t *testing.T) {
	for name, path := range map[string]string{"one path": "/forbidden", "many paths": "/forbidden/*"} {
		for _, long := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, replayable %v", name, !long), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(t, tokensource.Config{}, time.Hour, forbids)
					bs := bearer.NewBreakers(tokensource.BreakerSettings{TripAfter: 2}, nil)
					w.tr.Breakers = bs
					w.want("/good", http.StatusOK, "")
					time.Sleep(10 * time.Second)
					start := time.Now()
					for n := 0; time.Since(start) < 5*time.Minute; n++ {
						var content io.Reader
						if long {
							content = strings.NewReader(strings.Repeat("x", 70<<10))
						}
						if status, _ := w.do(strings.ReplaceAll(path, "*", fmt.Sprint(n)), content); status != http.StatusUnauthorized {
							t.Fatalf("status %d", status)
						}
						time.Sleep(time.Second)
						w.want("/good", http.StatusOK, "")
						time.Sleep(time.Second)
					}
					most := 7
					if long { // of the first two the end is not known
						most = 12
					}
					if n := w.renewals(); n > most {
						t.Errorf("%d tokens in 5 minutes", n)
					}
					if bs.Worst() != tokensource.BreakerClosed {
						t.Errorf("the breaker is %v", bs.Worst())
					}
				})
			})
		}
	}
}

// TestRevokedAmongForbidden: that a request was forbidden does not keep a revoked
// token from being replaced.
func TestRevokedAmongForbidden(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, tokensource.Config{}, time.Hour, forbids)
		w.want("/good", http.StatusOK, "")
		w.want("/forbidden", http.StatusUnauthorized, "it is new")
		w.want("/good", http.StatusOK, "")
		w.want("/forbidden", http.StatusUnauthorized, "because of the request")
		w.set(func(c call) int { return ok(c.token == "t3") })
		time.Sleep(10 * time.Second)
		w.want("/good", http.StatusOK, "")
		w.want("/forbidden", http.StatusOK, "") // allowed now, and forgotten
		w.set(func(c call) int { return ok(c.token == "t4") })
		w.want("/forbidden", http.StatusOK, "")
		if n := w.renewals(); n != 4 {
			t.Errorf("%d tokens", n)
		}
	})
}

// TestForbiddenRarely: where calls are few, what is remembered of the very same one
// still saves a renewal.
func TestForbiddenRarely(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, tokensource.Config{}, time.Hour, forbids)
		w.want("/good", http.StatusOK, "")
		w.want("/forbidden", http.StatusUnauthorized, "it is new")
		w.want("/good", http.StatusOK, "")
		for range 2 {
			time.Sleep(25 * time.Second)
			w.want("/forbidden", http.StatusUnauthorized, "because of the request")
		}
		if n := w.renewals(); n != 2 {
			t.Errorf("%d tokens", n)
		}
	})
}

// TestRevokedWhileTheEndpointIsDown: the renewal that was made for a long upload
// came to nothing. It is made again for the next.
func TestRevokedWhileTheEndpointIsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, tokensource.Config{}, time.Hour, always)
		long := strings.Repeat("x", 70<<10)
		upload := func(status int) {
			t.Helper()
			if got, why := w.do("/upload", strings.NewReader(long)); got != status {
				t.Errorf("status %d, Proxy-Status %q", got, why)
			}
			time.Sleep(15 * time.Second)
		}
		upload(http.StatusOK)
		w.set(func(c call) int { return ok(c.token != "t1") })
		w.setDown(true)
		upload(http.StatusUnauthorized)
		w.setDown(false)
		upload(http.StatusUnauthorized)
		upload(http.StatusOK)
	})
}

// TestForbiddenWhileItSettles: another request's success shows that it is not the
// token.
func TestForbiddenWhileItSettles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, tokensource.Config{}, time.Hour, forbids)
		var wg sync.WaitGroup
		start := time.Now()
		wg.Go(func() {
			w.want("/forbidden", http.StatusUnauthorized, "because of the request")
			if took := time.Since(start); took > 900*time.Millisecond {
				t.Errorf("it took %v", took)
			}
		})
		time.Sleep(750 * time.Millisecond)
		w.want("/good", http.StatusOK, "")
		wg.Wait()
		w.wantSent("/forbidden", "t1", "t1", "t1")
		w.wantCounted("replay request", 1)
	})
}

// TestNothingWorks: the API refuses whatever it gets. Then the breaker opens.
func TestNothingWorks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, tokensource.Config{MinInterval: time.Second}, time.Hour, always)
		w.tr.Breakers = bearer.NewBreakers(tokensource.BreakerSettings{TripAfter: 3, OpenFor: time.Minute}, nil)
		w.want("/", http.StatusOK, "")
		time.Sleep(time.Minute)
		w.set(func(call) int { return http.StatusUnauthorized })
		start := time.Now()
		for opened := false; !opened; {
			res, err := w.tr.RoundTrip(request(t, "https://api.example/", nil))
			if opened = errors.Is(err, tokensource.ErrBreakerOpen); !opened && (err != nil || res.StatusCode != http.StatusUnauthorized) {
				t.Fatal(res, err)
			}
			if time.Since(start) > time.Minute {
				t.Fatal("the breaker does not open")
			}
			time.Sleep(500 * time.Millisecond)
		}
		if most := 2 + int(time.Since(start)/(5*time.Second)); w.renewals() > most {
			t.Errorf("%d tokens in %v", w.renewals(), time.Since(start))
		}
		w.set(lags(2 * time.Second)) // it has mended, and is slow as ever
		time.Sleep(2 * time.Minute)
		w.want("/", http.StatusOK, "")
	})
}

// TestRevokedBeforeItsFirstUse: a token that is refused from its first moment on is
// replaced, once the API has had some time to know it.
func TestRevokedBeforeItsFirstUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, tokensource.Config{}, time.Hour, func(c call) int {
			if c.token == "t1" {
				return http.StatusUnauthorized
			}
			return http.StatusOK
		})
		w.want("/", http.StatusOK, "")
		if n := w.renewals(); n != 2 {
			t.Errorf("%d tokens, want 2", n)
		}
	})
}

// TestLagOpensNoBreaker: many requests at once meet a token that nobody knows.
func TestLagOpensNoBreaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, tokensource.Config{}, time.Hour, lags(4500*time.Millisecond))
		bs := bearer.NewBreakers(tokensource.BreakerSettings{TripAfter: 3}, nil)
		w.tr.Breakers = bs
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() { _, _ = w.get("/") })
		}
		wg.Wait()
		w.wantCounted("replay unsettled", 50)
		if bs.Worst() != tokensource.BreakerClosed {
			t.Errorf("the breaker is %v", bs.Worst())
		}
		time.Sleep(2 * time.Second)
		w.want("/", http.StatusOK, "")
		if n := w.renewals(); n != 2 { // the second in case the first was revoked
			t.Errorf("%d tokens", n)
		}
	})
}

// TestNoRenewalPossible says nothing of the token.
func TestNoRenewalPossible(t *testing.T) {
	for name, c := range map[string]struct {
		minInterval time.Duration
		down        bool
		says        string
	}{
		"too soon":      {minInterval: time.Hour, says: "it was renewed only just now"},
		"endpoint down": {down: true, says: "not renewed: the token endpoint or the store fails"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, tokensource.Config{
					MinInterval: c.minInterval, MaxWait: -1, Breaker: tokensource.BreakerSettings{TripAfter: 1000},
				}, 10*time.Hour, always)
				bs := bearer.NewBreakers(tokensource.BreakerSettings{TripAfter: 2}, nil)
				w.tr.Breakers = bs
				w.want("/", http.StatusOK, "")
				w.set(func(c call) int { return ok(c.token == "t2") })
				w.want("/", http.StatusOK, "") // the first renewal that the API asks for
				w.setDown(c.down)
				w.set(func(call) int { return http.StatusUnauthorized })
				for range 20 {
					time.Sleep(time.Second)
					w.want("/", http.StatusUnauthorized, c.says)
				}
				w.wantCounted("replay no_token", 20)
				if bs.Worst() != tokensource.BreakerClosed {
					t.Errorf("the breaker is %v", bs.Worst())
				}
			})
		})
	}
}

// TestKeysApart: what is learnt of one user's requests is nothing to another's.
func TestKeysApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, tokensource.Config{KeyNames: []string{"user"}}, time.Hour, always)
		get := func(user, path string) int {
			req := request(t, "https://api.example"+path, nil)
			res, err := w.tr.RoundTrip(req.WithContext(bearer.WithKey(req.Context(), tokensource.NewKey(user))))
			if err != nil {
				t.Fatal(err)
			}
			return res.StatusCode
		}
		for _, user := range []string{"ann", "bob"} {
			get(user, "/")
		}
		w.set(func(c call) int { return ok(c.path != "/admin" || c.token == "t4") })
		for range 2 { // ann may not; bob's token was revoked
			if get("ann", "/admin") != http.StatusUnauthorized || get("ann", "/") != http.StatusOK {
				t.Error("ann")
			}
		}
		if w.renewals() != 3 || get("bob", "/admin") != http.StatusOK || w.renewals() != 4 {
			t.Errorf("%d tokens, want one more for each", w.renewals())
		}
	})
}

// TestAttack16BreakerSaysWhy: the log names the last refusal, and nothing that an API
// has made up: no token, and no code that is not listed.
func TestAttack16BreakerSaysWhy(t *testing.T) {
	for name, c := range map[string]struct{ challenge, path, want, not string }{
		"code":          {`Bearer realm="x", error="invalid_token", error_description="secret"`, "/things?q=secret", `status=401 method=POST path=/things error=invalid_token`, "secret"},
		"no code":       {`Bearer error_description="secret"`, "/things", `status=401 method=POST path=/things`, "error="},
		"unquoted":      {`DPoP algs=ES256, error=use_dpop_nonce, x=y`, "/", "error=use_dpop_nonce", "x=y"},
		"the token":     {`Bearer error="bad token {token}"`, "/", "error=other", "t0ken"},
		"a part of it":  {`Bearer error="t0ken-47"`, "/", "error=other", "t0ken"},
		"hardly":        {`Bearer error="t0"`, "/", "error=other", "t0"},
		"in capitals":   {`Bearer error="INVALID_TOKEN"`, "/", "error=invalid_token", "INVALID"},
		"not a word":    {`Bearer terror="alice", error="alice"`, "/", "error=other", "alice"},
		"not printable": {"Bearer error=\"a\x1b[31m\u00e4b\"", "/", "error=other", "\x1b"},
		"other letters": {"Bearer realm=\"\u0130\u0130\u0130\", error=\"invalid_token\"", "/", "error=invalid_token", "\u0130"},
		"long":          {`Bearer error="` + strings.Repeat("x", 100) + `"`, "/" + strings.Repeat("y", 1000), "error=other\n", strings.Repeat("y", 300)},
		"very long":     {`Bearer realm="` + strings.Repeat("error ", 1<<12) + `", error="invalid_token"`, "/", "refusals=1", "error="},
	} {
		t.Run(name, func(t *testing.T) {
			var log bytes.Buffer
			src := newSource(t, tokensource.Config{Grant: &tokensource.EndpointGrant{Type: "x", Endpoint: &tokenendpoint.Endpoint{
				URL: tokenendpoint.Literal("https://idp.example/token"), Auth: tokenendpoint.ClientNone,
				Transport: roundTripper(func(*http.Request) (*http.Response, error) {
					return answer(200, fmt.Sprintf(`{"access_token": "t0ken-4711-%d"}`, time.Now().UnixNano())), nil
				}),
			}}})
			tr := &bearer.Transport{
				Source: src, Settle: -1,
				Breakers: bearer.NewBreakers(tokensource.BreakerSettings{TripAfter: 1}, slog.New(slog.NewTextHandler(&log, nil))),
				Base: roundTripper(func(req *http.Request) (*http.Response, error) {
					res := answer(http.StatusUnauthorized, "{}")
					token := strings.TrimPrefix(req.Header.Get("Authorization"), "Bearer ")
					res.Header.Set("WWW-Authenticate", strings.ReplaceAll(c.challenge, "{token}", token))
					return res, nil
				}),
			}
			if _, err := tr.RoundTrip(request(t, "https://api.example"+c.path, nil)); err != nil {
				t.Fatal(err)
			}
			if text := log.String(); !strings.Contains(text, c.want) || strings.Contains(text, c.not) {
				t.Errorf("logged %s", text)
			}
		})
	}
}
