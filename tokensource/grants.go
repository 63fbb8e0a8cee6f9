package tokensource

import (
	"strings"

	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenendpoint"
)

// The grants of OAuth. Each says what is sent to an endpoint; how that is said
// there is the endpoint's to know. Fields of the returned grant may be changed
// before a source uses it.

// ClientCredentials obtains tokens for the client itself (RFC 6749, section
// 4.4).
func ClientCredentials(ep *tokenendpoint.Endpoint, scope ...string) *EndpointGrant {
	return standardGrant("client_credentials", ep, scope)
}

// Password obtains tokens for a user's name and password (RFC 6749, section
// 4.3). Both may hold {key.NAME}, for a user each.
func Password(ep *tokenendpoint.Endpoint, username, password tokenendpoint.Template, scope ...string) *EndpointGrant {
	g := standardGrant("password", ep, scope)
	g.Params = append(g.Params,
		tokenendpoint.Param{Name: "username", Value: username},
		tokenendpoint.Param{Name: "password", Value: password, Secret: true})
	g.User = username.Text()
	return g
}

// AuthorizationCode obtains tokens for codes, which a person's consent brought
// and which [Source.Exchange] takes (RFC 6749, section 4.1). redirectURI must be
// that of the authorization request; the zero Template if there was none.
func AuthorizationCode(ep *tokenendpoint.Endpoint, redirectURI tokenendpoint.Template) *EndpointGrant {
	g := standardGrant("authorization_code", ep, nil)
	g.Interactive, g.RedirectURI = true, redirectURI
	return g
}

// RefreshToken obtains tokens for a refresh token from elsewhere (RFC 6749,
// section 6), and for those that come in its stead. Here the refresh is the
// grant: the endpoint's own parameters and the scope are sent with it.
func RefreshToken(ep *tokenendpoint.Endpoint, initial tokenendpoint.Secret, scope ...string) *EndpointGrant {
	return &EndpointGrant{
		Type: "refresh_token", Endpoint: ep, RefreshEndpoint: ep, Scope: scopeOf(scope),
		Interactive: true, InitialRefreshToken: initial,
	}
}

// Request obtains tokens by any HTTP call that responds with one. It sends only
// what the endpoint says. It is not refreshed unless the grant's RefreshEndpoint
// is set.
func Request(ep *tokenendpoint.Endpoint) *EndpointGrant {
	return &EndpointGrant{Type: "request", Endpoint: ep}
}

// standardGrant sends grant_type, and refreshes at the same endpoint without the
// parameters that were added for the grant.
func standardGrant(name string, ep *tokenendpoint.Endpoint, scope []string) *EndpointGrant {
	refresh := *ep
	refresh.Params = nil
	return &EndpointGrant{
		Type: name, Endpoint: ep, RefreshEndpoint: &refresh, Scope: scopeOf(scope),
		Params: []tokenendpoint.Param{{Name: "grant_type", Value: tokenendpoint.Literal(name)}},
	}
}

func scopeOf(scope []string) tokenendpoint.Template {
	return tokenendpoint.Literal(strings.Join(scope, " "))
}
