package caddymodule

import (
	"net/http"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"golang.org/x/oauth2"

	"github.com/caddy-bearer/caddy-bearer/tokensource"
	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenendpoint"
)

func init() {
	caddy.RegisterModule(ClientCredentials{})
	caddy.RegisterModule(Password{})
	caddy.RegisterModule(AuthorizationCode{})
	caddy.RegisterModule(RefreshToken{})
	caddy.RegisterModule(Request{})
}

// ClientCredentials obtains a token for the client itself (RFC 6749, section
// 4.4).
type ClientCredentials struct {
	Endpoint
}

// CaddyModule returns the Caddy module information.
func (ClientCredentials) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "token_sources.grants.client_credentials",
		New: func() caddy.Module { return new(ClientCredentials) },
	}
}

// TokenGrant implements [Grant].
func (g *ClientCredentials) TokenGrant(gc *GrantContext) (tokensource.Grant, error) {
	return gc.grant(&g.Endpoint, func(ep *tokenendpoint.Endpoint) *tokensource.EndpointGrant {
		return tokensource.ClientCredentials(ep)
	})
}

// Password obtains a token with a user's name and password (RFC 6749, section 4.3).
type Password struct {
	Endpoint
	// The user's name. Required.
	Username string `json:"username,omitempty"`
	// The user's password. Required.
	Password string `json:"password,omitempty"`
}

// CaddyModule returns the Caddy module information.
func (Password) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "token_sources.grants.password",
		New: func() caddy.Module { return new(Password) },
	}
}

// TokenGrant implements [Grant].
func (g *Password) TokenGrant(gc *GrantContext) (tokensource.Grant, error) {
	if g.Username == "" || g.Password == "" {
		return nil, g.Origin.errorf("", "grant password: got no username and password: expected both")
	}
	username, err := gc.template(g.Origin, "username", g.Username, keepsNone)
	if err != nil {
		return nil, err
	}
	g.warnLiteral(gc, "password", g.Password)
	password, err := gc.template(g.Origin, "password", g.Password, keepsFiles)
	if err != nil {
		return nil, err
	}
	return gc.grant(&g.Endpoint, func(ep *tokenendpoint.Endpoint) *tokensource.EndpointGrant {
		return tokensource.Password(ep, username, password)
	})
}

// AuthorizationCode obtains a token with an authorization code (RFC 6749, section
// 4.1). A person's consent brings the code, and the handler token_login receives it.
type AuthorizationCode struct {
	Endpoint
	// The provider's page to which token_login sends a person. Without it, the app
	// obtains codes by itself.
	AuthURL string `json:"auth_url,omitempty"`
	// Where the provider sends the person back: token_login's callback, or a page of
	// the app.
	RedirectURI string `json:"redirect_uri,omitempty"`
	// The provider's issuer identifier. A callback must name it (RFC 9207).
	Issuer string `json:"issuer,omitempty"`
	// Further parameters of the authorization request.
	AuthParams []Param `json:"auth_params,omitempty"`
}

// CaddyModule returns the Caddy module information.
func (AuthorizationCode) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "token_sources.grants.authorization_code",
		New: func() caddy.Module { return new(AuthorizationCode) },
	}
}

// TokenGrant implements [Grant].
func (g *AuthorizationCode) TokenGrant(gc *GrantContext) (tokensource.Grant, error) {
	redirectURI, err := gc.template(g.Origin, "redirect_uri", g.RedirectURI, keepsNone)
	if err != nil {
		return nil, err
	}
	if g.RedirectURI != "" && !absoluteURI(redirectURI) {
		return nil, g.Origin.errorf("redirect_uri", notAbsoluteURI+" (RFC 6749, section 3.1.2)")
	}
	g.warnRedirect(gc, redirectURI)
	grant, err := gc.grant(&g.Endpoint, func(ep *tokenendpoint.Endpoint) *tokensource.EndpointGrant {
		return tokensource.AuthorizationCode(ep, redirectURI)
	})
	if err != nil {
		return nil, err
	}
	if gc.Forever && gc.Refresh == nil {
		// Tokens that live for ever need no refresh. MonPay sends a refresh token all
		// the same, and refuses it.
		grant.RefreshEndpoint = nil
	}
	return grant, nil
}

func (g *AuthorizationCode) authorization(gc *GrantContext) (*authorization, bool, error) {
	issuer, err := g.issuer(gc)
	if g.AuthURL == "" || err != nil {
		return nil, false, err
	}
	values := make(map[string]string)
	for _, field := range []struct{ option, text string }{ // in a fixed order, because the resolved values go into a sum
		{"auth_url", g.AuthURL},
		{"redirect_uri", g.RedirectURI},
		{"client_id", g.ClientID},
		{"scope", strings.Join(g.Scope, " ")},
	} {
		value, err := gc.resolver.plain(field.text)
		if err != nil {
			return nil, false, g.Origin.errorf(field.option, "%w", err)
		}
		values[field.option] = value
	}
	if values["redirect_uri"] == "" || values["client_id"] == "" {
		return nil, false, g.Origin.errorf("auth_url", "got no redirect_uri and client_id with it: expected both")
	}
	if err := checkURL(g.Origin, "auth_url", tokenendpoint.Literal(values["auth_url"]), g.AllowHTTP); err != nil {
		return nil, false, err
	}
	a := &authorization{issuer: issuer, config: oauth2.Config{
		ClientID: values["client_id"], RedirectURL: values["redirect_uri"],
		Endpoint: oauth2.Endpoint{AuthURL: values["auth_url"]}, Scopes: strings.Fields(values["scope"]),
	}}
	for _, p := range g.AuthParams {
		value, err := gc.resolver.plain(p.Value)
		if err != nil {
			return nil, false, g.Origin.errorf("auth_param "+p.Name, "%w", err)
		}
		a.params = append(a.params, oauth2.SetAuthURLParam(p.Name, value))
	}
	return a, true, nil
}

func (g *AuthorizationCode) issuer(gc *GrantContext) (string, error) {
	if g.Issuer == "" {
		return "", nil
	}
	issuer, err := gc.resolver.plain(g.Issuer)
	if err == nil {
		err = checkIssuer(issuer, g.AllowHTTP)
	}
	if err != nil {
		return "", g.Origin.errorf("issuer", "%w", err)
	}
	return issuer, nil
}

// RefreshToken obtains tokens with a refresh token from elsewhere (RFC 6749, section
// 6), and then with the refresh tokens that replace it.
type RefreshToken struct {
	Endpoint
	// The initial refresh token. Required.
	Token string `json:"refresh_token,omitempty"`
}

// CaddyModule returns the Caddy module information.
func (RefreshToken) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "token_sources.grants.refresh_token",
		New: func() caddy.Module { return new(RefreshToken) },
	}
}

// TokenGrant implements [Grant].
func (g *RefreshToken) TokenGrant(gc *GrantContext) (tokensource.Grant, error) {
	if g.Token == "" {
		return nil, g.Origin.errorf("", "grant refresh_token: got no refresh_token: expected refresh_token <token>")
	}
	g.warnLiteral(gc, "refresh_token", g.Token)
	initial, err := gc.secret(g.Origin, "refresh_token", g.Token)
	if err != nil {
		return nil, err
	}
	return gc.grant(&g.Endpoint, func(ep *tokenendpoint.Endpoint) *tokensource.EndpointGrant {
		return tokensource.RefreshToken(ep, initial)
	})
}

// Request obtains a token by any HTTP call whose response contains one. It sends only
// what the settings say.
type Request struct {
	Endpoint
}

// CaddyModule returns the Caddy module information.
func (Request) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "token_sources.grants.request",
		New: func() caddy.Module { return new(Request) },
	}
}

// TokenGrant implements [Grant].
func (g *Request) TokenGrant(gc *GrantContext) (tokensource.Grant, error) {
	return gc.grant(&g.Endpoint, tokensource.Request)
}

// Grant is a module in the namespace token_sources.grants: a way to obtain tokens.
// Other Go modules may add more.
type Grant interface {
	caddy.Module
	// TokenGrant makes the grant for a source. It does no network I/O.
	TokenGrant(gc *GrantContext) (tokensource.Grant, error)
}

// GrantContext is what a grant module needs to know of its source.
type GrantContext struct {
	caddy.Context
	// Refresh is the source's refresh block, nil if it has none.
	Refresh *Endpoint
	// Forever: the source's tokens never expire.
	Forever bool

	resolver *resolver
	keyNames []string
	source   func(name string) (*tokensource.Source, error)
	// transports are those of the endpoints that were built, by their settings.
	transports map[*reverseproxy.HTTPTransport]http.RoundTripper
	// warned are the options of which a warning was logged.
	warned map[string]bool
}

// template resolves the placeholders in an option's text, but for those that it
// keeps for each token call.
func (gc *GrantContext) template(o *Origin, option, text string, keep keeps) (tokenendpoint.Template, error) {
	t, err := gc.resolver.template(text, keep)
	if err != nil {
		return t, o.errorf(option, "%w", err)
	}
	return t, nil
}

// secret resolves an option's text that must be complete when the config is loaded.
func (gc *GrantContext) secret(o *Origin, option, text string) (tokenendpoint.Secret, error) {
	s, err := gc.resolver.plain(text)
	if err != nil {
		return tokenendpoint.Secret{}, o.errorf(option, "%w", err)
	}
	return tokenendpoint.NewSecret(s), nil
}

// grant puts a grant together from its parts: the grant that newGrant makes of its
// endpoint, the scope, and the endpoint for refreshes. That is the refresh block's
// endpoint, or else the grant's.
func (gc *GrantContext) grant(e *Endpoint, newGrant func(*tokenendpoint.Endpoint) *tokensource.EndpointGrant) (*tokensource.EndpointGrant, error) {
	ep, err := e.build(gc)
	if err != nil {
		return nil, err
	}
	g := newGrant(ep)
	if len(e.Scope) > 0 {
		if g.Scope, err = gc.template(e.Origin, "scope", strings.Join(e.Scope, " "), keepsNone); err != nil {
			return nil, err
		}
	}
	refresh := e.refreshing()
	switch {
	case gc.Refresh != nil && g.RefreshEndpoint == nil: // grant request has nothing that a refresh could inherit
		refresh = gc.Refresh
	case gc.Refresh != nil:
		refresh = gc.Refresh.inherit(e)
	case g.RefreshEndpoint == nil || g.RefreshEndpoint == g.Endpoint:
		return g, nil
	}
	if g.RefreshEndpoint, err = refresh.build(gc); err != nil {
		return nil, err
	}
	return g, nil
}

// refreshing returns the endpoint as a refresh uses it by default. The grant's own
// further parameters are not part of a refresh.
func (e *Endpoint) refreshing() *Endpoint {
	out := *e
	out.Params, out.Scope = nil, nil
	return &out
}

// authorizer is a grant through which a person can be sent to the provider.
type authorizer interface {
	// authorization returns the settings of the authorization request; ok is
	// false when there is no page to send a person to.
	authorization(gc *GrantContext) (a *authorization, ok bool, err error)
}

// authorization is a resolved authorization request.
type authorization struct {
	config oauth2.Config
	issuer string
	params []oauth2.AuthCodeOption
}

// Interface guards
var (
	_ Grant      = (*ClientCredentials)(nil)
	_ Grant      = (*Password)(nil)
	_ Grant      = (*AuthorizationCode)(nil)
	_ Grant      = (*RefreshToken)(nil)
	_ Grant      = (*Request)(nil)
	_ authorizer = (*AuthorizationCode)(nil)
)
