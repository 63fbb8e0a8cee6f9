package tokensource_test

import (
	"context"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-bearer/caddy-bearer/tokensource"
	"github.com/caddy-bearer/caddy-bearer/tokensource/internal/wiretest"
	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenendpoint"
)

// lateBy is an endpoint that takes its time, but no longer than it is given.
func lateBy(d time.Duration) *wiretest.Wire {
	return &wiretest.Wire{Respond: func(r *http.Request) (*http.Response, error) {
		select {
		case <-time.After(d):
			return wiretest.Respond(200, "application/json", `{"access_token":"late","refresh_token":"r","expires_in":3600}`), nil
		case <-r.Context().Done():
			return nil, r.Context().Err()
		}
	}}
}

// slowEndpoint is one whose settings allow for a slow response.
func slowEndpoint(w http.RoundTripper) *tokenendpoint.Endpoint {
	ep := wiretest.Endpoint(w)
	ep.Timeout = 90 * time.Second
	return ep
}

// What an endpoint's timeout allows is waited for, by whatever else has a bound:
// the renewal, and the lease, which others must not take meanwhile.
func TestLongTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, store := lateBy(70*time.Second), newMemStore()
		cfg := tokensource.Config{Store: store}
		s, other := endpointSource(t, slowEndpoint(w), cfg), endpointSource(t, slowEndpoint(w), cfg)
		done := make(chan struct{})
		go func() {
			defer close(done)
			time.Sleep(10 * time.Second)
			want(t, other, noKey, "late")
		}()
		start := time.Now()
		want(t, s, noKey, "late")
		if took := time.Since(start); took < 70*time.Second || took > 75*time.Second {
			t.Errorf("it took %v", took)
		}
		<-done
		if w.Count() != 1 {
			t.Errorf("%d calls, want 1", w.Count())
		}
	})
}

// A refresh that takes all its time leaves the grant its own.
func TestLongTimeoutOfTwoCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := lateBy(70 * time.Second)
		grant := tokensource.ClientCredentials(slowEndpoint(w))
		grant.RefreshEndpoint.Transport = lateBy(time.Hour)
		s := newSource(t, tokensource.Config{Grant: grant, KeyNames: []string{"user"}})
		k := tokensource.NewKey("ann")
		want(t, s, k, "late")
		time.Sleep(2 * time.Hour)
		start := time.Now()
		want(t, s, k, "late")
		if took := time.Since(start); took < 160*time.Second || took > 165*time.Second {
			t.Errorf("it took %v", took)
		}
	})
}

// A breaker's probe has as long.
func TestLongTimeoutOfAProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var fails atomic.Bool
		fails.Store(true)
		late := lateBy(70 * time.Second)
		w := &wiretest.Wire{Respond: func(r *http.Request) (*http.Response, error) {
			if fails.Load() {
				return wiretest.Respond(500, "", ""), nil
			}
			return late.Respond(r)
		}}
		s := endpointSource(t, slowEndpoint(w), tokensource.Config{
			KeyNames: []string{"user"}, MaxWait: -1, Breaker: tokensource.BreakerSettings{TripAfter: 1, OpenFor: time.Second},
		})
		k := tokensource.NewKey("ann")
		wantErr(t, s, k, tokensource.ErrUnavailable)
		fails.Store(false)
		time.Sleep(time.Minute)
		want(t, s, k, "late")
		if s.Breaker() != tokensource.BreakerClosed {
			t.Errorf("the breaker is %v", s.Breaker())
		}
	})
}

// A call that waits for another source's slow one has both their times.
func TestLongTimeoutOfAChain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := endpointSource(t, slowEndpoint(lateBy(70*time.Second)), tokensource.Config{Name: "client"})
		ep := wiretest.Endpoint(lateBy(5 * time.Second))
		ep.Bearer = client.Authorizer()
		want(t, endpointSource(t, ep, tokensource.Config{Name: "user"}), noKey, "late")
	})
}

// What a program sets holds.
func TestRenewalTimeoutThatIsSet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := endpointSource(t, slowEndpoint(lateBy(70*time.Second)), tokensource.Config{RenewalTimeout: 30 * time.Second, MaxWait: -1})
		start := time.Now()
		if _, err := s.Token(context.Background(), noKey); err == nil || time.Since(start) != 30*time.Second {
			t.Errorf("%v after %v", err, time.Since(start))
		}
	})
}
