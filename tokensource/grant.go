package tokensource

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenendpoint"
)

// Grant is a way to obtain a token. Its methods make token calls: they may
// block, respect ctx, and answer failures with an [*tokenendpoint.Error] so that
// the source knows what to do next.
type Grant interface {
	// Info describes the grant. It says the same each time.
	Info() GrantInfo
	// Token obtains a token from nothing but the settings and the key. It is
	// not called for an interactive grant.
	Token(ctx context.Context, v Vars) (*tokenendpoint.Response, error)
	// Refresh obtains a token for a refresh token (RFC 6749, section 6). It is
	// not called unless the grant is Refreshable.
	Refresh(ctx context.Context, v Vars, refreshToken tokenendpoint.Secret) (*tokenendpoint.Response, error)
}

// GrantInfo describes a [Grant].
type GrantInfo struct {
	// Type names the grant, such as client_credentials.
	Type string
	// Identity lists what a token belongs to: the endpoint, the client, the
	// user. Tokens of another identity are never mixed with these. It holds no
	// plain secret.
	Identity []string
	// Interactive: once the refresh token is gone, a new token cannot be had
	// without a person.
	Interactive bool
	// Refreshable: there is a place to refresh tokens at.
	Refreshable bool
	// InitialRefreshToken is a refresh token from elsewhere, to begin with; empty:
	// none.
	InitialRefreshToken tokenendpoint.Secret
	// PerKey: what Token sends depends on the key, so that a refusal of it may be
	// about the one key.
	PerKey bool
	// ClientPerKey: so do the client's credentials.
	ClientPerKey bool
	// Timeout is how long one call may take at the most, with all that it waits for;
	// 0: it is not known.
	Timeout time.Duration
	// SameEndpoint: Token and Refresh call the same place, so that one's outage is
	// the other's.
	SameEndpoint bool
}

// CodeGrant is a Grant that takes an authorization code (RFC 6749, section 4.1).
type CodeGrant interface {
	Grant
	// Exchange obtains a token for a code. It sends the code once.
	Exchange(ctx context.Context, v Vars, c Code) (*tokenendpoint.Response, error)
}

// Code is an authorization code and what belongs to it.
type Code struct {
	Code tokenendpoint.Secret
	// Verifier is the PKCE verifier (RFC 7636); empty without PKCE.
	Verifier tokenendpoint.Secret
}

// Vars gives the key's values to a grant's templates, as "key.NAME".
type Vars struct {
	names []string
	key   Key
}

// keyPrefix begins the names of the key's variables.
const keyPrefix = "key."

// Lookup returns the value of a variable such as key.user.
func (v Vars) Lookup(name string) (string, bool) {
	name, ok := strings.CutPrefix(name, keyPrefix)
	if !ok {
		return "", false
	}
	for i, value := range v.key.Values() {
		if i < len(v.names) && v.names[i] == name {
			return value, true
		}
	}
	return "", false
}

// EndpointGrant is the grant of HTTP calls: one that obtains a token, and one
// that refreshes it. The constructors make those of OAuth:
// [ClientCredentials], [Password], [AuthorizationCode], [RefreshToken] and
// [Request].
type EndpointGrant struct {
	// Type names the grant, such as client_credentials.
	Type string
	// Endpoint obtains a token. Required.
	Endpoint *tokenendpoint.Endpoint
	// Params are the grant's own parameters, such as grant_type and username.
	Params []tokenendpoint.Param
	// Scope is sent with the grant (RFC 6749, section 3.3), but not with an
	// authorization code: there it belongs to the authorization request.
	Scope tokenendpoint.Template
	// RefreshEndpoint refreshes the token; nil: it cannot be refreshed. Where it is
	// the Endpoint itself, the refresh is the grant, and the scope goes with it.
	RefreshEndpoint *tokenendpoint.Endpoint
	// Interactive: a token cannot be had without a person. Exchange, or an initial
	// refresh token, brings the first.
	Interactive bool
	// RedirectURI is sent with a code (RFC 6749, section 4.1.3).
	RedirectURI tokenendpoint.Template
	// InitialRefreshToken is a refresh token from elsewhere.
	InitialRefreshToken tokenendpoint.Secret
	// User is part of the identity, where the grant names one user.
	User string
}

// Info implements [Grant].
func (g *EndpointGrant) Info() GrantInfo {
	return GrantInfo{
		Type:                g.Type,
		Identity:            g.identity(),
		Interactive:         g.Interactive,
		Refreshable:         g.RefreshEndpoint != nil,
		InitialRefreshToken: g.InitialRefreshToken,
		PerKey:              !g.Interactive && g.usesKey(),
		ClientPerKey:        usesKey(g.Endpoint.Client.ID) || usesKey(g.Endpoint.Client.Secret),
		Timeout:             g.timeout(),
		SameEndpoint:        g.RefreshEndpoint == nil || g.RefreshEndpoint.URL.Text() == g.Endpoint.URL.Text(),
	}
}

// timeout is how long the longest of the grant's calls may take.
func (g *EndpointGrant) timeout() time.Duration {
	longest := g.Endpoint.Longest()
	if g.RefreshEndpoint != nil {
		longest = max(longest, g.RefreshEndpoint.Longest())
	}
	return longest
}

// usesKey reports whether the grant's call depends on the key.
func (g *EndpointGrant) usesKey() bool {
	ep := g.Endpoint
	for _, p := range slices.Concat(g.Params, ep.Params) {
		if usesKey(p.Value) {
			return true
		}
	}
	for _, h := range ep.Header {
		if usesKey(h.Value) {
			return true
		}
	}
	return usesKey(ep.URL) || usesKey(g.Scope) || usesKey(ep.Client.ID) || usesKey(ep.Client.Secret)
}

// usesKey reports whether a template has a variable of the key.
func usesKey(t tokenendpoint.Template) bool {
	return slices.ContainsFunc(t.Variables(), func(name string) bool { return strings.HasPrefix(name, keyPrefix) })
}

// params are the grant's own parameters and the scope.
func (g *EndpointGrant) params() []tokenendpoint.Param {
	if g.Scope.IsZero() {
		return g.Params
	}
	return append(slices.Clip(g.Params), tokenendpoint.Param{Name: "scope", Value: g.Scope})
}

// identity lists what tokens belong to. Parameters and headers choose a tenant,
// a scope or an audience, and so belong to it, as does the client that
// refreshes. Those of an interactive grant do not: there a changed API key must
// not cost a consent.
func (g *EndpointGrant) identity() []string {
	id := []string{g.Type, g.Endpoint.URL.Text(), g.Endpoint.Client.ID.Text(), g.User, ""}
	if !g.InitialRefreshToken.Empty() {
		id[4] = hashParts("seed", g.InitialRefreshToken.Reveal())
	}
	if g.RefreshEndpoint != nil {
		id = append(id, "refresh", g.RefreshEndpoint.Client.ID.Text())
	}
	if g.Endpoint.Bearer != nil {
		id = append(id, "bearer", g.Endpoint.Bearer.Identity())
	}
	if g.Interactive {
		return id
	}
	for _, p := range g.params() {
		if !p.Secret { // not the password
			id = append(id, "param", p.Name, p.Value.Text())
		}
	}
	for _, p := range g.Endpoint.Params {
		id = append(id, "param", p.Name, hashParts("param", p.Value.Text()))
	}
	for _, h := range g.Endpoint.Header {
		id = append(id, "header", h.Name, hashParts("header", h.Value.Text()))
	}
	return id
}

// Token implements [Grant].
func (g *EndpointGrant) Token(ctx context.Context, v Vars) (*tokenendpoint.Response, error) {
	return g.Endpoint.Call(ctx, g.Type, g.params(), v.Lookup)
}

// Refresh implements [Grant].
func (g *EndpointGrant) Refresh(ctx context.Context, v Vars, refreshToken tokenendpoint.Secret) (*tokenendpoint.Response, error) {
	params := []tokenendpoint.Param{
		{Name: "grant_type", Value: tokenendpoint.Literal(callRefresh)},
		{Name: "refresh_token", Value: tokenendpoint.Literal(refreshToken.Reveal()), Secret: true},
	}
	if g.RefreshEndpoint == g.Endpoint && !g.Scope.IsZero() {
		params = append(params, tokenendpoint.Param{Name: "scope", Value: g.Scope})
	}
	return g.RefreshEndpoint.Call(ctx, callRefresh, params, v.Lookup)
}

// Exchange implements [CodeGrant].
func (g *EndpointGrant) Exchange(ctx context.Context, v Vars, c Code) (*tokenendpoint.Response, error) {
	if !g.Interactive {
		return nil, errors.ErrUnsupported
	}
	params := append([]tokenendpoint.Param{}, g.Params...)
	params = append(params, tokenendpoint.Param{Name: "code", Value: tokenendpoint.Literal(c.Code.Reveal()), Secret: true})
	if !g.RedirectURI.IsZero() {
		params = append(params, tokenendpoint.Param{Name: "redirect_uri", Value: g.RedirectURI})
	}
	if !c.Verifier.Empty() {
		params = append(params, tokenendpoint.Param{Name: "code_verifier", Value: tokenendpoint.Literal(c.Verifier.Reveal()), Secret: true})
	}
	return g.Endpoint.Call(ctx, g.Type, params, v.Lookup)
}

const callRefresh = "refresh_token"

// Interface guard
var _ CodeGrant = (*EndpointGrant)(nil)
