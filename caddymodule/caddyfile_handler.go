package caddymodule

import (
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// parseBearer parses the directive bearer; see [Handler.UnmarshalCaddyfile].
func parseBearer(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	handler := new(Handler)
	return handler, handler.UnmarshalCaddyfile(h.Dispenser)
}

// UnmarshalCaddyfile sets up the handler from Caddyfile tokens. Syntax, with the
// options of transport bearer:
//
//	bearer [<matcher>] <source> <upstream> {
//	    header <name> <value>
//	    query  <name> <value>
//	    cookie <name> <value>
//	    replay_body <size>
//	    settle      <duration>|off
//	    callers     <ranges...>
//	    hosts       <names...>
//	    allow_http  <hosts...>
//	    allow_hosts <hosts...>
//	    timeout     <duration>
//	    forwarded
//	    auth_failure {
//	        ...
//	    }
//	    breaker {
//	        ...
//	    }
//
//	    <options of transport http>
//	}
func (h *Handler) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // bearer
	head := d.Token()
	h.Origin = originAt(d)
	args := d.RemainingArgs()
	switch len(args) {
	case 2:
		h.Source, h.Upstream = args[0], args[1]
	case 0, 1:
		return d.Errf("bearer: got %s: expected bearer <source> <upstream>, such as: bearer acme https://api.acme.example", counted(len(args), "argument"))
	default:
		return d.Errf("bearer %s: unexpected %q: expected one upstream, and the options in a block; for several upstreams there is reverse_proxy with transport bearer", args[0], args[2])
	}
	table := h.options()
	table["allow_hosts"] = listOption(&h.AllowHosts, "<hosts...>")
	table["timeout"] = positiveOption(&h.Timeout)
	return h.parse(d, head, "bearer", table)
}

// Interface guard
var _ caddyfile.Unmarshaler = (*Handler)(nil)
