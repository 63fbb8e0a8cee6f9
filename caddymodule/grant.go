package caddymodule

import (
	"strings"

	"github.com/caddyserver/caddy/v2"
	"golang.org/x/oauth2"

	"github.com/caddy-bearer/caddy-bearer/tokensource"
	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenendpoint"
)

// Grant is a module in the namespace token_sources.grants: a way to obtain
// tokens, by its settings. Others may add more.
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
}

// template resolves the placeholders in an option's text.
func (gc *GrantContext) template(o *Origin, option, text string) (tokenendpoint.Template, error) {
	t, err := gc.resolver.template(text)
	if err != nil {
		return t, o.errorf(option, "%w", err)
	}
	return t, nil
}

// secret resolves an option's text that must be whole by now.
func (gc *GrantContext) secret(o *Origin, option, text string) (tokenendpoint.Secret, error) {
	s, err := gc.resolver.plain(text)
	if err != nil {
		return tokenendpoint.Secret{}, o.errorf(option, "%w", err)
	}
	return tokenendpoint.NewSecret(s), nil
}

// grant puts a grant's pieces together: what newGrant makes of its endpoint, the
// scope, and the endpoint that refreshes, which is the refresh block's or else
// the same.
func (gc *GrantContext) grant(e *Endpoint, newGrant func(*tokenendpoint.Endpoint) *tokensource.EndpointGrant) (*tokensource.EndpointGrant, error) {
	ep, err := e.build(gc)
	if err != nil {
		return nil, err
	}
	g := newGrant(ep)
	if len(e.Scope) > 0 {
		if g.Scope, err = gc.template(e.Origin, "scope", strings.Join(e.Scope, " ")); err != nil {
			return nil, err
		}
	}
	refresh := e.refreshing()
	switch {
	case gc.Refresh != nil && g.RefreshEndpoint == nil: // a call of its own kind has nothing to inherit
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

// refreshing is the endpoint as a refresh uses it by default: the grant's
// own further parameters are not a refresh's.
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
