package tokensource_test

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-bearer/caddy-bearer/tokensource"
	"github.com/caddy-bearer/caddy-bearer/tokensource/internal/wiretest"
	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenendpoint"
)

// wants is an endpoint that answers 401 to any other authorization.
func wants(authorization string) *wiretest.Wire {
	return &wiretest.Wire{Respond: func(r *http.Request) (*http.Response, error) {
		if r.Header.Get("Authorization") != authorization {
			return wiretest.Respond(401, "", ""), nil
		}
		return wiretest.Respond(200, "application/json", `{"access_token":"user"}`), nil
	}}
}

// A 401 in the second step means that the client token is bad: it is renewed,
// and the step repeated once.
func TestBearerIsRenewed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := wants("Bearer granted-2")
		g, client, ep := chained(t, w)
		want(t, client, noKey, "granted-1")
		time.Sleep(10 * time.Second)
		wiretest.MustCall(t, ep)
		if w.Count() != 2 || g.calls() != 2 {
			t.Errorf("%d calls with %d client tokens, want 2 with 2", w.Count(), g.calls())
		}
	})
}

func TestBearerIsRenewedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := wants("none of them")
		g, client, ep := chained(t, w)
		want(t, client, noKey, "granted-1")
		time.Sleep(10 * time.Second)
		if ee := wiretest.MustFail(t, ep); ee.Status != 401 || w.Count() != 2 || g.calls() != 2 {
			t.Errorf("%v after %d calls with %d client tokens, want 401 after 2 with 2", ee, w.Count(), g.calls())
		}
	})
}

// The user's token hangs on the client's: what stops the first step for a
// while does not stop the second for good.
func TestBearerThatIsRefusedForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &wiretest.Wire{}
		w.Respond = func(*http.Request) (*http.Response, error) {
			if w.Count() <= 2 { // a new client token takes its time to spread
				return wiretest.Respond(401, "", ""), nil
			}
			return wiretest.Respond(200, "application/json", `{"access_token":"user"}`), nil
		}
		_, _, ep := chained(t, w)
		s := endpointSource(t, ep, tokensource.Config{Name: "user"})
		_, _ = s.Token(context.Background(), noKey)
		time.Sleep(10 * time.Minute)
		want(t, s, noKey, "user")
	})
}

func TestBearerThatAPersonMustBring(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ep := wiretest.Endpoint(&wiretest.Wire{})
		login := newSource(t, tokensource.Config{Name: "login", Grant: &fakeGrant{person: true}})
		ep.Bearer = login.Authorizer()
		s := endpointSource(t, ep, tokensource.Config{Name: "user"})
		wantErr(t, s, noKey, tokensource.ErrAuthorizationRequired)
		if _, err := login.Exchange(context.Background(), noKey, code("c")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Minute)
		want(t, s, noKey, "tok")
	})
}

// A call that never got an answer says nothing about the token it carried:
// when it is refused next, it counts as one that never worked.
func TestBearerIsAcceptedByAnAnswerOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := wiretest.Failing(context.DeadlineExceeded)
		_, client, ep := chained(t, w)
		tok, err := client.Renew(context.Background(), noKey, want(t, client, noKey, "granted-1"))
		if err != nil {
			t.Fatal(err)
		}
		wiretest.MustFail(t, ep)
		want(t, client, noKey, "granted-2")
		start := time.Now()
		if _, err := client.Renew(context.Background(), noKey, tok); !errors.Is(err, tokensource.ErrTooSoon) || time.Since(start) > 0 {
			t.Errorf("Renew: %v after %v, want ErrTooSoon at once", err, time.Since(start))
		}
	})
}

// Each source has its own key, of the names that it shares with the other.
func TestBearerOfAKey(t *testing.T) {
	w := &wiretest.Wire{}
	ep := wiretest.Endpoint(w)
	ep.Bearer = newSource(t, tokensource.Config{Name: "client", KeyNames: []string{"tenant"}, Grant: &fakeGrant{
		onToken: func(_ context.Context, _ int, v tokensource.Vars) (*tokenendpoint.Response, error) {
			tenant, _ := v.Lookup("key.tenant")
			return answer("of-"+tenant, "", time.Hour), nil
		},
	}}).Authorizer()
	g := &tokensource.EndpointGrant{Type: "request", Endpoint: ep}
	s := newSource(t, tokensource.Config{Name: "user", KeyNames: []string{"user", "tenant"}, Grant: g})
	want(t, s, tokensource.NewKey("ann", "acme"), "tok")
	if got := w.Last(t).Header.Get("Authorization"); got != "Bearer of-acme" {
		t.Errorf("Authorization is %q, want acme's", got)
	}
	other := newSource(t, tokensource.Config{Name: "other", KeyNames: []string{"user"}, Grant: g, MaxWait: -1})
	if _, err := other.Token(context.Background(), tokensource.NewKey("ann")); err == nil {
		t.Error("a source without the tenant got a token")
	}
}

// What a token belongs to is part of its record's name: with another of these
// it is another token, and must not come out of the store.
func TestIdentity(t *testing.T) {
	for name, edit := range map[string]func(g *tokensource.EndpointGrant){
		"endpoint": func(g *tokensource.EndpointGrant) { g.Endpoint.URL = wiretest.Literal("https://other.example/token") },
		"client":   func(g *tokensource.EndpointGrant) { g.Endpoint.Client.ID = wiretest.Literal("other") },
		"user":     func(g *tokensource.EndpointGrant) { g.User = "other" },
		"grant":    func(g *tokensource.EndpointGrant) { g.Type = "other" },
		"tenant, a header": func(g *tokensource.EndpointGrant) {
			g.Endpoint.Header = []tokenendpoint.HeaderField{{Name: "tenantId", Value: wiretest.Literal("other")}}
		},
		"audience": func(g *tokensource.EndpointGrant) {
			g.Endpoint.Params = []tokenendpoint.Param{wiretest.Param("audience", "other")}
		},
		"secret audience": func(g *tokensource.EndpointGrant) {
			p := wiretest.Param("audience", "other")
			p.Secret = true
			g.Endpoint.Params = []tokenendpoint.Param{p}
		},
		"client that refreshes": func(g *tokensource.EndpointGrant) {
			refresh := *g.Endpoint
			refresh.Client.ID = wiretest.Literal("other")
			g.RefreshEndpoint = &refresh
		},
		"scope": func(g *tokensource.EndpointGrant) { g.Params = []tokenendpoint.Param{wiretest.Param("scope", "other")} },
	} {
		t.Run(name, func(t *testing.T) {
			store, w := newMemStore(), &wiretest.Wire{}
			grant := func() *tokensource.EndpointGrant {
				ep := wiretest.Endpoint(w)
				ep.Client.ID = wiretest.Literal("me")
				return &tokensource.EndpointGrant{Type: "client_credentials", Endpoint: ep, User: "me"}
			}
			want(t, newSource(t, tokensource.Config{Store: store, Grant: grant()}), noKey, "tok")
			want(t, newSource(t, tokensource.Config{Store: store, Grant: grant()}), noKey, "tok")
			if w.Count() != 1 {
				t.Fatalf("%d token calls for the same settings, want 1", w.Count())
			}
			changed := grant()
			edit(changed)
			want(t, newSource(t, tokensource.Config{Store: store, Grant: changed}), noKey, "tok")
			if w.Count() != 2 {
				t.Errorf("with another %s the old token was taken", name)
			}
		})
	}
}

// The calls of an EndpointGrant, as they go out.
func TestEndpointGrantCalls(t *testing.T) {
	w := &wiretest.Wire{}
	refresh := wiretest.Endpoint(w)
	refresh.URL = wiretest.Literal("https://idp.example/refresh")
	g := &tokensource.EndpointGrant{
		Type: "authorization_code", Endpoint: wiretest.Endpoint(w), RefreshEndpoint: refresh, Interactive: true,
		Params: []tokenendpoint.Param{wiretest.Param("grant_type", "authorization_code")}, RedirectURI: wiretest.Literal("http://127.0.0.1/cb"),
	}
	ctx := context.Background()
	c := tokensource.Code{Code: tokenendpoint.NewSecret("c{1}"), Verifier: tokenendpoint.NewSecret("v")}
	if _, err := g.Exchange(ctx, tokensource.Vars{}, c); err != nil {
		t.Fatal(err)
	}
	if _, err := g.Refresh(ctx, tokensource.Vars{}, tokenendpoint.NewSecret("r&{x}")); err != nil {
		t.Fatal(err)
	}
	for i, body := range []string{
		"code=c%7B1%7D&code_verifier=v&grant_type=authorization_code&redirect_uri=http%3A%2F%2F127.0.0.1%2Fcb",
		"grant_type=refresh_token&refresh_token=r%26%7Bx%7D",
	} {
		if w.Requests[i].Body != body {
			t.Errorf("call %d sent %s, want %s", i+1, w.Requests[i].Body, body)
		}
	}
	if w.Requests[1].URL != "https://idp.example/refresh" || g.Info().SameEndpoint {
		t.Errorf("the refresh went to %s", w.Requests[1].URL)
	}
}

// chained is a source of client tokens c1, c2 and an endpoint that wants one.
func chained(t *testing.T, w http.RoundTripper) (*fakeGrant, *tokensource.Source, *tokenendpoint.Endpoint) {
	g := &fakeGrant{}
	ep := wiretest.Endpoint(w)
	client := newSource(t, tokensource.Config{Name: "client", Grant: g, MaxWait: -1})
	ep.Bearer = client.Authorizer()
	return g, client, ep
}

// Mondia's second step: the call is authorized by another source's token.
func TestBearer(t *testing.T) {
	w := &wiretest.Wire{}
	_, _, ep := chained(t, w)
	ep.Client = tokenendpoint.Client{ID: wiretest.Literal("id"), Secret: wiretest.Literal("s")}
	wiretest.MustCall(t, ep)
	if got := w.Last(t).Header.Values("Authorization"); !slices.Equal(got, []string{"Bearer granted-1"}) {
		t.Errorf("Authorization is %q, want the client token alone", got)
	}
}
