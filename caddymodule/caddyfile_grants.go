package caddymodule

import (
	"maps"
	"slices"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// parseGrant reads a grant's block: the endpoint's options and those in more.
func (e *Endpoint) parseGrant(d *caddyfile.Dispenser, more options) error {
	d.Next() // the grant's type
	name := d.Val()
	e.Origin = originAt(d)
	if d.NextArg() {
		return d.Errf("grant %s: unexpected %q: expected its options in a block", name, d.Val())
	}
	all := e.options()
	maps.Copy(all, more)
	return all.parse(d, "grant "+name, e.Origin, nil)
}

func originAt(d *caddyfile.Dispenser) *Origin {
	o := &Origin{File: d.File()}
	o.note("", d.Line())
	return o
}

// UnmarshalCaddyfile sets up the grant from Caddyfile tokens. Syntax, with the
// options of [Endpoint]:
//
//	grant client_credentials {
//	    ...
//	}
func (g *ClientCredentials) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	return g.parseGrant(d, nil)
}

// UnmarshalCaddyfile sets up the grant from Caddyfile tokens. Syntax, with the
// options of [Endpoint]:
//
//	grant password {
//	    username <name>
//	    password <password>
//	    ...
//	}
func (g *Password) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	return g.parseGrant(d, options{
		"username": textOption(&g.Username, "<name>"),
		"password": textOption(&g.Password, "<password>"),
	})
}

// UnmarshalCaddyfile sets up the grant from Caddyfile tokens. Syntax, with the
// options of [Endpoint]:
//
//	grant authorization_code {
//	    auth_url     <url>
//	    redirect_uri <url>
//	    issuer       <identifier>
//	    auth_param   <name> <value>
//	    ...
//	}
func (g *AuthorizationCode) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	return g.parseGrant(d, options{
		"auth_url":     textOption(&g.AuthURL, "<url>"),
		"redirect_uri": textOption(&g.RedirectURI, "<url>"),
		"issuer":       textOption(&g.Issuer, "<identifier>"),
		"auth_param": {usage: "<name> <value>", min: 2, max: 2, repeat: true, parse: func(d *caddyfile.Dispenser, args []string) error {
			if slices.ContainsFunc(g.AuthParams, func(p Param) bool { return p.Name == args[0] }) {
				return d.Errf("auth_param %s: given twice: expected it once", args[0])
			}
			g.AuthParams = append(g.AuthParams, Param{Name: args[0], Value: args[1]})
			return nil
		}},
	})
}

// UnmarshalCaddyfile sets up the grant from Caddyfile tokens. Syntax, with the
// options of [Endpoint]:
//
//	grant refresh_token {
//	    refresh_token <token>
//	    ...
//	}
func (g *RefreshToken) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	return g.parseGrant(d, options{
		"refresh_token": textOption(&g.Token, "<token>"),
	})
}

// UnmarshalCaddyfile sets up the grant from Caddyfile tokens. Syntax, with the
// options of [Endpoint]:
//
//	grant request {
//	    ...
//	}
func (g *Request) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	return g.parseGrant(d, nil)
}

// Interface guards
var (
	_ caddyfile.Unmarshaler = (*ClientCredentials)(nil)
	_ caddyfile.Unmarshaler = (*Password)(nil)
	_ caddyfile.Unmarshaler = (*AuthorizationCode)(nil)
	_ caddyfile.Unmarshaler = (*RefreshToken)(nil)
	_ caddyfile.Unmarshaler = (*Request)(nil)
)
