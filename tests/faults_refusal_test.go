package tests

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/caddy-bearer/caddy-bearer/tests/provider"
)

// apiBreaker is the metric of the breaker at the API: 0 closed, 1 half-open, 2 open.
const apiBreaker = `caddy_bearer_breaker_state{breaker="api",source="api"}`

// gather holds API calls until n of them have come, and then lets each be answered by the provider's own rules: so all of
// them carry the token of their time.
func gather(n int32) provider.Step {
	var came atomic.Int32
	all := make(chan struct{})
	return provider.Always(provider.Function(func(_ http.ResponseWriter, r *http.Request) bool {
		if came.Add(1) == n {
			close(all)
		}
		select {
		case <-all:
		case <-r.Context().Done():
		}
		return false
	}))
}

// together makes calls at once, each from a goroutine of its own, and counts the answers by their status.
func (s *sidecar) together(t *testing.T, n int, header func(i int) http.Header) map[int]int {
	t.Helper()
	var mu sync.Mutex
	statuses := map[int]int{}
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.base+"/", nil)
			if err != nil {
				t.Error(err)
				return
			}
			if header != nil {
				req.Header = header(i)
			}
			resp, err := s.client.Do(req)
			status := 0
			if err == nil {
				status = resp.StatusCode
				resp.Body.Close()
			} else {
				t.Log(err)
			}
			mu.Lock()
			defer mu.Unlock()
			statuses[status]++
		})
	}
	wg.Wait()
	return statuses
}

// TestFault18ManyRefusalsOneRenewal has the API refuse many calls with one token at the very same time. Each holds a
// connection to the API, and so two file descriptors of this process: the row's 10,000 are in the library's own test
// (TestOneRenewalPerGeneration in tokensource).
func TestFault18ManyRefusalsOneRenewal(t *testing.T) {
	const each = 100
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	clients := max(1, min(10, int(min(limit.Cur, 1<<20))/(2*each)-5)) // the rest is for the clients and the log
	n := clients * each
	s := launch(t, setup{source: "min_interval 1ms", global: "servers {\n\tprotocols h1 h2c\n}"})
	s.get(t).wantOK(t)
	s.p.ScriptAPI(gather(int32(n)))
	s.p.RevokeAccessTokens()
	s.p.Forget()
	s.wantAllAnswered(t, clients, each)
	if calls := s.p.TokenCount(); calls != 1 {
		t.Errorf("%d renewals", calls)
	}
	if calls := s.p.APICount(); calls != 2*n {
		t.Errorf("%d API calls for %d requests", calls, n)
	}
}

// TestFault19AlwaysRefused: a renewal each min_interval and no more, five sendings of each request at the most, the API's own
// answers to the app; then the breaker, and after it a recovery.
func TestFault19AlwaysRefused(t *testing.T) {
	s := launch(t, setup{
		source:    "min_interval 300ms",
		transport: "settle off\nbreaker {\n\ttrip_after 8\n\topen_for 500ms\n}",
	})
	s.get(t).wantOK(t)
	s.p.ScriptAPI(provider.Always(s.p.Unauthorized()))
	s.p.Forget()
	began := time.Now()
	var got answer
	eventually(t, "the breaker opens", func() bool {
		before := s.p.APICount()
		got = s.get(t)
		if n := s.p.APICount() - before; n > 2 {
			t.Errorf("one request was sent %d times", n)
		}
		if got.status == http.StatusUnauthorized && (got.problem() != "" || !strings.Contains(got.body, "invalid_token")) {
			t.Errorf("not the API's own answer: %s", got.body)
		}
		return got.status != http.StatusUnauthorized
	})
	got.wantProblem(t, http.StatusServiceUnavailable, "breaker-open")
	if most := 1 + int(time.Since(began)/(300*time.Millisecond)); s.p.TokenCount() > most {
		t.Errorf("%d renewals in %v", s.p.TokenCount(), time.Since(began))
	}
	// it is open for half a second, and then lets a probe through
	eventually(t, "a request meets an open breaker", func() bool {
		s.p.Forget()
		return s.get(t).problem() == "breaker-open"
	})
	if n, m := s.p.APICount(), s.p.TokenCount(); n != 0 || m != 0 {
		t.Errorf("%d API calls and %d token calls behind an open breaker", n, m)
	}
	s.p.ClearScripts()
	eventually(t, "it recovers", func() bool { return s.get(t).status == http.StatusOK })
	if state := s.metric(t, apiBreaker); state != "0" {
		t.Errorf("the breaker's state is %s", state)
	}
}

// TestFault20NotTheToken: what no new token cures is passed on, as often as it comes.
func TestFault20NotTheToken(t *testing.T) {
	for name, step := range map[string]provider.Step{
		"403": provider.Status(403, nil, `{"error":"forbidden"}`),
		"insufficient_scope": provider.Status(401, http.Header{
			"Www-Authenticate": {`Bearer realm="x", error="insufficient_scope", scope="write"`},
		}, `{"error":"insufficient_scope"}`),
		"insufficient_scope behind another challenge": provider.Status(401, http.Header{
			"Www-Authenticate": {`DPoP algs="ES256"`, `Bearer error="insufficient_scope"`},
		}, "{}"),
		"403 insufficient_scope": provider.Status(403, http.Header{
			"Www-Authenticate": {`Bearer error=insufficient_scope`},
		}, "{}"),
	} {
		t.Run(name, func(t *testing.T) {
			s := launch(t, setup{})
			s.get(t).wantOK(t)
			s.p.ScriptAPI(provider.Always(step))
			s.p.Forget()
			const times = 12
			for range times {
				if got := s.post(t, "body"); got.status/100 != 4 || got.problem() != "" || got.header.Get("Proxy-Status") != "" {
					t.Fatalf("status %d, %v: %s", got.status, got.header, got.body)
				}
			}
			if n, m := s.p.APICount(), s.p.TokenCount(); n != times || m != 0 {
				t.Errorf("%d API calls for %d requests, %d renewals", n, times, m)
			}
		})
	}
}

// TestFault21FlappingAPI: refusals between answers that are good never add up.
func TestFault21FlappingAPI(t *testing.T) {
	for name, pattern := range map[string]string{"each first": "10", "two and two": "1100", "mostly": "1110"} {
		t.Run(name, func(t *testing.T) {
			s := launch(t, setup{source: "min_interval 5ms", transport: "settle off"})
			first := s.get(t).wantOK(t)
			var calls atomic.Int32
			s.p.ScriptAPI(provider.Always(provider.Function(func(w http.ResponseWriter, _ *http.Request) bool {
				refuse := pattern[int(calls.Add(1)-1)%len(pattern)] == '1'
				if refuse {
					w.WriteHeader(http.StatusUnauthorized)
				}
				return refuse
			})))
			for range 40 {
				if got := s.get(t); got.status != http.StatusOK && got.status != http.StatusUnauthorized {
					t.Fatalf("status %d: %s", got.status, got.body)
				}
				if state := s.metric(t, apiBreaker); state != "0" {
					t.Fatalf("the breaker's state is %s", state)
				}
			}
			s.p.ClearScripts()
			if e := s.get(t).wantOK(t); e.Serial == first.Serial {
				t.Error("nothing was renewed")
			}
		})
	}
}

// TestFault50SameTokenAgain: a provider that gives the refused token again is noticed, and not asked in a loop.
func TestFault50SameTokenAgain(t *testing.T) {
	s := launch(t, setup{source: "min_interval 300ms\n\t\tmax_wait 100ms", transport: "settle off\n\t\t\tbreaker {\n\ttrip_after 1000\n}"})
	s.get(t).wantOK(t)
	s.p.SetReissue(true)
	s.p.RevokeAccessTokens()
	s.p.Forget()
	began := time.Now()
	for range 20 {
		got := s.get(t)
		if got.status != http.StatusUnauthorized || got.problem() != "" {
			t.Fatalf("status %d: %s", got.status, got.body)
		}
		if !strings.Contains(got.header.Get("Proxy-Status"), "not renewed") {
			t.Errorf("Proxy-Status: %q", got.header.Get("Proxy-Status"))
		}
	}
	if most := 1 + int(time.Since(began)/(50*time.Millisecond)); s.p.TokenCount() > most {
		t.Errorf("%d renewals in %v", s.p.TokenCount(), time.Since(began))
	}
	if n := s.p.APICount(); n != 20 {
		t.Errorf("%d API calls for 20 requests: the refused token was sent again", n)
	}
	s.wantLogged(t, "same_token")
	s.p.SetReissue(false)
	eventually(t, "another token comes", func() bool { return s.get(t).status == http.StatusOK })
}

// lagging is an API that knows a token only some time after it has first seen it, which is when the token was issued.
type lagging struct {
	mu    sync.Mutex
	first map[string]time.Time
	lag   time.Duration
}

func (l *lagging) refuses(r *http.Request) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.first == nil {
		l.first = map[string]time.Time{}
	}
	token := r.Header.Get("Authorization")
	if _, ok := l.first[token]; !ok {
		l.first[token] = time.Now()
	}
	return time.Since(l.first[token]) < l.lag
}

// refusing answers 401, without a word of why, where a condition holds.
func refusing(condition func(*http.Request) bool) provider.Step {
	return provider.Always(provider.Function(func(w http.ResponseWriter, r *http.Request) bool {
		if condition(r) {
			w.WriteHeader(http.StatusUnauthorized)
			return true
		}
		return false
	}))
}

// TestFault52NewTokenIsNotKnownYet: the API knows a token only 3 s after it was issued. No call fails for that: not with the
// first token, not with one that was renewed ahead of expiry, not after a revocation.
func TestFault52NewTokenIsNotKnownYet(t *testing.T) {
	p := provider.New(provider.Generic)
	p.SetLifetime(20 * time.Second)
	s := newSidecarOf(t, p, setup{source: "refresh_ahead 50%", transport: "breaker {\n\ttrip_after 2\n}"})
	s.start(t)
	api := lagging{lag: 3 * time.Second}
	s.p.ScriptAPI(refusing(api.refuses))
	var wg sync.WaitGroup
	check := func() {
		wg.Go(func() {
			if got := s.get(t); got.status != http.StatusOK {
				t.Errorf("status %d (Proxy-Status: %s)", got.status, got.header.Get("Proxy-Status"))
			}
		})
		<-time.After(700 * time.Millisecond)
	}
	for s.p.TokenCount() < 2 { // the first, and one ahead of expiry
		check()
	}
	for range 7 { // the last one has become known
		check()
	}
	wg.Wait()
	revoked := s.p.TokenCount()
	s.p.RevokeAccessTokens()
	for range 5 {
		check()
	}
	wg.Wait()
	if n := s.p.TokenCount(); n > revoked+2 {
		t.Errorf("%d renewals after one revocation", n-revoked)
	}
	for _, result := range []string{"settled", "predecessor", "ok"} {
		if s.metric(t, `caddy_bearer_replays_total{result="`+result+`",source="api"}`) == "0" {
			t.Errorf("no replay is counted as %s", result)
		}
	}
}

// TestFault51MissingPermission: a 401 that no new token cures is told by the other calls that work. It costs a renewal a
// minute, whatever the path, and no breaker.
func TestFault51MissingPermission(t *testing.T) {
	for name, path := range map[string]string{"one path": "/users/1", "many paths": "/users/%d"} {
		t.Run(name, func(t *testing.T) {
			s := launch(t, setup{source: "min_interval 1ms", transport: "breaker {\n\ttrip_after 2\n}"})
			s.p.ScriptAPI(refusing(func(r *http.Request) bool { return strings.HasPrefix(r.URL.Path, "/users/") }))
			s.get(t).wantOK(t)
			s.p.Forget()
			began := time.Now()
			why := ""
			for n := range 30 {
				got := s.call(t, http.MethodGet, strings.ReplaceAll(path, "%d", fmt.Sprint(n)), nil, "")
				if got.status != http.StatusUnauthorized || got.problem() != "" {
					t.Fatalf("status %d: %s", got.status, got.body)
				}
				why = got.header.Get("Proxy-Status")
				s.get(t).wantOK(t)
			}
			if !strings.Contains(why, "because of the request") {
				t.Errorf("Proxy-Status: %q", why)
			}
			if most := 1 + int(time.Since(began)/time.Minute); s.p.TokenCount() > most {
				t.Errorf("%d renewals in %v", s.p.TokenCount(), time.Since(began))
			}
			if state := s.metric(t, apiBreaker); state != "0" {
				t.Errorf("the breaker's state is %s", state)
			}
		})
	}
}

// TestRevokedAfterTheTimer: min_interval counts what the API asks for. A token that is revoked right after the timer
// has renewed it is replaced at once.
func TestRevokedAfterTheTimer(t *testing.T) {
	p := provider.New(provider.Generic)
	p.SetLifetime(4 * time.Second)
	s := newSidecarOf(t, p, setup{source: "min_interval 1h\nrefresh_ahead 90%"})
	s.start(t)
	first := s.get(t).wantOK(t)
	s.p.SetLifetime(time.Hour)
	eventually(t, "the timer renews the token", func() bool { return s.get(t).wantOK(t).Serial != first.Serial })
	s.p.RevokeAccessTokens()
	s.p.Forget()
	s.get(t).wantOK(t)
	if n := s.p.TokenCount(); n != 1 {
		t.Errorf("%d renewals", n)
	}
}

// TestBreakerNamesTheRefusal in the log.
func TestBreakerNamesTheRefusal(t *testing.T) {
	s := launch(t, setup{source: "min_interval 1ms", transport: "settle off\nbreaker {\n\ttrip_after 2\n}"})
	s.p.ScriptAPI(provider.Always(s.p.Unauthorized()))
	eventually(t, "the breaker opens", func() bool {
		return s.call(t, http.MethodPut, "/things?q=secret", nil, "body").problem() == "breaker-open"
	})
	s.wantLogged(t, `"refusals":2,"status":401,"method":"PUT","path":"/things","error":"invalid_token"`)
}
