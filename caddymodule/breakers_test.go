package caddymodule

import (
	"fmt"
	"log/slog"
	"net/http"
	"testing"
	"time"

	"github.com/caddy-bearer/caddy-bearer/bearer"
	"github.com/caddy-bearer/caddy-bearer/tokensource"
)

// refuse sends a request with a key's token to an API that refuses them all.
func refuse(t *testing.T, bs *bearer.Breakers, k tokensource.Key) {
	t.Helper()
	n := 0
	engine := &bearer.Transport{
		Source: testSource(t, tokensource.Config{KeyNames: []string{"user"}, Grant: testGrant(func(*http.Request) (int, string) {
			n++
			return 200, fmt.Sprintf(`{"access_token": "t%d", "expires_in": 3600}`, n)
		})}),
		Base:     fakeEndpoint(func(*http.Request) (int, string) { return http.StatusUnauthorized, "" }),
		Breakers: bs, Settle: -1,
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://api.example/", nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := engine.Send(req, &bearer.Call{Key: k})
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
}

// TestBreakerSets: the breakers at an API stay when a config is loaded again,
// and are others for another API or other settings.
func TestBreakerSets(t *testing.T) {
	sets := &breakerSets{log: slog.New(slog.DiscardHandler)}
	five := tokensource.BreakerSettings{TripAfter: 5, OpenFor: time.Second}
	six := tokensource.BreakerSettings{TripAfter: 6, OpenFor: time.Second}
	take := func(upstreams string, settings tokensource.BreakerSettings) *bearer.Breakers {
		bs, _ := sets.take(upstreams, settings)
		return bs
	}
	one := take("a:443", five)
	if take("a:443", five) != one {
		t.Error("lost")
	}
	if take("b:443", five) == one || take("a:443", six) == one {
		t.Error("shared")
	}
	for range 5 {
		refuse(t, one, tokensource.NewKey("alice"))
	}
	if sets.worst() != tokensource.BreakerOpen {
		t.Errorf("worst is %v", sets.worst())
	}
}

// TestBreakersGoWithTheirUsers: they outlive a reload, and no more: an address
// that changes with each reload would leave some behind each time.
func TestBreakersGoWithTheirUsers(t *testing.T) {
	sets := &breakerSets{log: slog.New(slog.DiscardHandler)}
	settings := tokensource.BreakerSettings{TripAfter: 1, OpenFor: time.Minute}
	before, giveBefore := sets.take("api:443", settings)
	after, giveAfter := sets.take("api:443", settings)
	giveBefore()
	giveBefore() // Cleanup may come twice
	if again, give := sets.take("api:443", settings); before != after || again != after {
		t.Error("a reload has breakers of its own")
	} else {
		give()
	}
	giveAfter()
	if len(sets.sets) != 0 {
		t.Errorf("%d sets are left, with no user", len(sets.sets))
	}
}
