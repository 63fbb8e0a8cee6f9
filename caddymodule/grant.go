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

// grant puts a grant's pieces together: its endpoint, its own parameters, and
// the endpoint that refreshes, which is the refresh block's or else the same.
func (gc *GrantContext) grant(name string, e *Endpoint, params []tokenendpoint.Param) (*tokensource.EndpointGrant, error) {
	ep, err := e.build(gc)
	if err != nil {
		return nil, err
	}
	g := &tokensource.EndpointGrant{Name: name, Endpoint: ep, Params: params}
	if len(e.Scope) > 0 {
		scope, err := gc.template(e.Origin, "scope", strings.Join(e.Scope, " "))
		if err != nil {
			return nil, err
		}
		g.Params = append(g.Params, tokenendpoint.Param{Name: "scope", Value: scope})
	}
	refresh := e.refreshing()
	if gc.Refresh != nil {
		refresh = gc.Refresh
		if name != requestGrant {
			refresh = refresh.inherit(e)
		}
	} else if name == requestGrant {
		return g, nil // a call of its own kind says nothing of where tokens are refreshed
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

func grantType(name string) tokenendpoint.Param {
	return tokenendpoint.Param{Name: "grant_type", Value: tokenendpoint.Literal(name)}
}

const requestGrant = "request"

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
