package tokensource_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/caddy-bearer/caddy-bearer/tokensource"
	"github.com/caddy-bearer/caddy-bearer/tokensource/internal/wiretest"
	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenendpoint"
)

// Each constructor's grant sends what its RFC section says, and no more.
func TestGrants(t *testing.T) {
	ctx, secret := context.Background(), tokenendpoint.NewSecret
	vars, refresh := tokensource.Vars{}, secret("r")
	for name, c := range map[string]struct {
		grant func(*tokenendpoint.Endpoint) *tokensource.EndpointGrant
		call  func(*tokensource.EndpointGrant) error
		body  string
	}{
		"client_credentials": {
			func(ep *tokenendpoint.Endpoint) *tokensource.EndpointGrant {
				return tokensource.ClientCredentials(ep, "a", "b")
			},
			func(g *tokensource.EndpointGrant) error { _, err := g.Token(ctx, vars); return err },
			"audience=x&grant_type=client_credentials&scope=a+b",
		},
		"client_credentials, refreshed": {
			func(ep *tokenendpoint.Endpoint) *tokensource.EndpointGrant {
				return tokensource.ClientCredentials(ep, "a", "b")
			},
			func(g *tokensource.EndpointGrant) error { _, err := g.Refresh(ctx, vars, refresh); return err },
			"grant_type=refresh_token&refresh_token=r",
		},
		"password": {
			func(ep *tokenendpoint.Endpoint) *tokensource.EndpointGrant {
				return tokensource.Password(ep, wiretest.Literal("ann"), wiretest.Literal("pw"))
			},
			func(g *tokensource.EndpointGrant) error { _, err := g.Token(ctx, vars); return err },
			"audience=x&grant_type=password&password=pw&username=ann",
		},
		"authorization_code": {
			func(ep *tokenendpoint.Endpoint) *tokensource.EndpointGrant {
				return tokensource.AuthorizationCode(ep, wiretest.Literal("https://app/cb"))
			},
			func(g *tokensource.EndpointGrant) error {
				_, err := g.Exchange(ctx, vars, tokensource.Code{Code: secret("c")})
				return err
			},
			"audience=x&code=c&grant_type=authorization_code&redirect_uri=https%3A%2F%2Fapp%2Fcb",
		},
		"refresh_token": {
			func(ep *tokenendpoint.Endpoint) *tokensource.EndpointGrant {
				return tokensource.RefreshToken(ep, secret("first"), "a")
			},
			func(g *tokensource.EndpointGrant) error { _, err := g.Refresh(ctx, vars, refresh); return err },
			"audience=x&grant_type=refresh_token&refresh_token=r&scope=a",
		},
		"request": {
			tokensource.Request,
			func(g *tokensource.EndpointGrant) error { _, err := g.Token(ctx, vars); return err },
			"audience=x",
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := &wiretest.Wire{}
			ep := wiretest.Endpoint(w)
			ep.Params = []tokenendpoint.Param{wiretest.Param("audience", "x")}
			g := c.grant(ep)
			if err := c.call(g); err != nil {
				t.Fatal(err)
			}
			if got := w.Last(t).Body; got != c.body {
				t.Errorf("sent %s\nwant %s", got, c.body)
			}
			info := g.Info()
			if kind, _, _ := strings.Cut(name, ","); info.Type != kind {
				t.Errorf("its type is %s", info.Type)
			}
			person := name == "authorization_code" || name == "refresh_token"
			if info.Interactive != person || info.Refreshable == (name == "request") || !info.SameEndpoint {
				t.Errorf("it says of itself: interactive %v, refreshable %v, same endpoint %v", info.Interactive, info.Refreshable, info.SameEndpoint)
			}
		})
	}
}

// A source without what it needs is an error, not a panic at the first call.
func TestGrantWithoutEndpoint(t *testing.T) {
	for name, g := range map[string]*tokensource.EndpointGrant{"nil": nil, "empty": {}} {
		if _, err := tokensource.New(tokensource.Config{Name: "a", Grant: g}); err == nil || !strings.Contains(err.Error(), "Endpoint is required") {
			t.Errorf("%s: %v, want an error that names the Endpoint", name, err)
		}
	}
}

// A key of another source, or none where there must be one, is an error and not
// somebody's token.
func TestKeyArity(t *testing.T) {
	for name, c := range map[string]struct {
		names  []string
		values []string
	}{
		"none for two":         {[]string{"tenant", "user"}, nil},
		"one for two":          {[]string{"tenant", "user"}, []string{"a"}},
		"three for two":        {[]string{"tenant", "user"}, []string{"a", "b", "c"}},
		"one for no key names": {nil, []string{"a"}},
	} {
		t.Run(name, func(t *testing.T) {
			g := &fakeGrant{}
			s := newSource(t, tokensource.Config{Grant: g, KeyNames: c.names})
			k := tokensource.NewKey(c.values...)
			wantErr(t, s, k, tokensource.ErrKey)
			if _, err := s.Exchange(context.Background(), k, code("c")); !errors.Is(err, tokensource.ErrKey) {
				t.Errorf("Exchange: %v, want ErrKey", err)
			}
			wantCalls(t, g, 0, 0)
		})
	}
}
