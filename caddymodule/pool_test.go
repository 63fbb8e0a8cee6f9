package caddymodule

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-bearer/caddy-bearer/tokensource"
	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenendpoint"
)

// grants issues tokens without a network.
type grants struct{ tokensource.EndpointGrant }

func (grants) Info() tokensource.GrantInfo {
	return tokensource.GrantInfo{Type: "grants", SameEndpoint: true}
}

func (grants) Token(context.Context, tokensource.Vars) (*tokenendpoint.Response, error) {
	return &tokenendpoint.Response{AccessToken: tokenendpoint.NewSecret("tok"), Expiry: tokenendpoint.ExpiresIn(time.Hour)}, nil
}

func pooled(t *testing.T) *pooledSource {
	t.Helper()
	src, err := tokensource.New(tokensource.Config{Name: "a", Grant: &grants{}})
	if err != nil {
		t.Fatal(err)
	}
	return &pooledSource{Source: src, env: new(environmentStack), live: &breakerSets{log: slog.New(slog.DiscardHandler)}}
}

// TestRetiredSourceServesItsRequests: on a reload Caddy waits neither for
// requests under way nor for those that the old server has just read. The last
// of them closes the source that no config uses.
func TestRetiredSourceServesItsRequests(t *testing.T) {
	for name, late := range map[string]bool{"under way": false, "just read": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ps := pooled(t)
				if !late {
					ps.users.Add(1)
				}
				ps.retire(retireAfter)
				if late {
					time.Sleep(retireAfter - time.Second)
					ps.users.Add(1)
				}
				time.Sleep(time.Minute)
				if _, err := ps.Token(t.Context(), tokensource.Key{}); err != nil || ps.closed.Load() {
					t.Errorf("the request got %v; closed: %v", err, ps.closed.Load())
				}
				ps.unuse()
				synctest.Wait()
				if !ps.closed.Load() {
					t.Error("the last request did not close the source")
				}
			})
		})
	}
}

// TestUnusedSourceIsClosed: after a while, also without a request.
func TestUnusedSourceIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ps := pooled(t)
		ps.retire(retireAfter)
		if _, left := retiring.Load(ps); !left {
			t.Error("Stop would not flush it")
		}
		time.Sleep(2 * retireAfter)
		if _, left := retiring.Load(ps); left || !ps.closed.Load() {
			t.Errorf("closed: %v, remembered: %v", ps.closed.Load(), left)
		}
	})
}

// TestEnvironmentOfAFailedReload: a config that only provisions does not get
// the running one's sources to use its storage.
func TestEnvironmentOfAFailedReload(t *testing.T) {
	ps := pooled(t)
	defer func() { _ = ps.close(closeTimeout) }()
	running, failing := &environment{log: slog.Default()}, &environment{log: slog.Default()}
	ps.adopt(running)
	ps.attach(running)
	ps.adopt(failing)
	if ps.env.current() != running {
		t.Error("a config that may yet fail is in use")
	}
	ps.detach(failing)
	if ps.env.current() != running {
		t.Error("the running config's environment is gone")
	}
	next := &environment{log: slog.Default()}
	ps.attach(next)
	ps.detach(running)
	if ps.env.current() != next {
		t.Error("the new config's environment is not in use")
	}
}
