package caddymodule

import "github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

// UnmarshalCaddyfile sets up the transport from Caddyfile tokens. Syntax:
//
//	transport bearer <source> {
//	    header <name> <value>
//	    query  <name> <value>
//	    cookie <name> <value>
//	    replay_body <size>
//	    settle      <duration>|off
//	    callers     <ranges...>
//	    hosts       <names...>
//	    allow_http  <hosts...>
//	    forwarded
//	    auth_failure {
//	        status <codes...>
//	        header <name> [<patterns...>]
//	        json   <path> [<values...>]
//	        text   [<patterns...>]
//	        except status|header|json|text ...
//	    }
//	    breaker {
//	        trip_after <number>
//	        open_for   <duration>
//	    }
//
//	    <options of transport http>
//	}
func (t *Transport) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // bearer
	head := d.Token()
	t.Origin = originAt(d)
	if !d.NextArg() {
		return d.Err("transport bearer: got no source: expected transport bearer <source>")
	}
	t.Source = d.Val()
	if d.NextArg() {
		return d.Errf("transport bearer %s: unexpected %q: expected its options in a block", t.Source, d.Val())
	}
	return t.parse(d, head, "transport bearer", t.options())
}

// Interface guard
var _ caddyfile.Unmarshaler = (*Transport)(nil)
