package caddymodule

import (
	"strings"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// parseBearerIntercept parses the directive bearer_intercept; see
// [Intercept.UnmarshalCaddyfile].
func parseBearerIntercept(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	ic := new(Intercept)
	return ic, ic.UnmarshalCaddyfile(h.Dispenser)
}

// UnmarshalCaddyfile sets up the handler from Caddyfile tokens. Each line that is not an
// option is a host and its token source. Syntax:
//
//	bearer_intercept {
//	    <host> <source> {
//	        <options of bearer, but for allow_hosts, allow_http, callers and hosts>
//	    }
//	    others          tunnel|refuse|<hosts...>
//	    allow_addresses <ranges...>
//	    callers         <ranges...>
//	    ca              <id>
//	}
func (ic *Intercept) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // bearer_intercept
	ic.Origin = originAt(d)
	if d.NextArg() {
		return d.Errf("bearer_intercept: unexpected %q: expected its hosts in a block", d.Val())
	}
	table := options{
		"others":          listOption(&ic.Others, "tunnel|refuse|<hosts...>"),
		"allow_addresses": callersOption(&ic.AllowAddresses),
		"callers":         callersOption(&ic.Callers),
		"ca":              textOption(&ic.CA, "<id>"),
	}
	return table.parse(d, "bearer_intercept", ic.Origin, func(d *caddyfile.Dispenser) (bool, error) {
		if host := d.Val(); !strings.ContainsAny(host, ".:") && host != "localhost" {
			return false, nil // a misspelt option
		}
		return true, ic.parseRoute(d)
	})
}

func (ic *Intercept) parseRoute(d *caddyfile.Dispenser) error {
	head := d.Token()
	route := &InterceptRoute{Host: d.Val()}
	route.Origin = originAt(d)
	args := d.RemainingArgs()
	if len(args) != 1 {
		return d.Errf("%s: got %s: expected <host> <source>, such as: api.acme.example acme", route.Host, counted(len(args), "argument"))
	}
	route.Source = args[0]
	table := route.options()
	for _, option := range []string{"callers", "hosts", "allow_http"} {
		delete(table, option)
	}
	table["timeout"] = positiveOption(&route.Timeout)
	ic.Routes = append(ic.Routes, route)
	return route.parse(d, head, "a host of bearer_intercept", table)
}

// Interface guard
var _ caddyfile.Unmarshaler = (*Intercept)(nil)
