package caddymodule

import (
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

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
	var rest []caddyfile.Token
	err := t.options().parse(d, "transport bearer", t.Origin, func(d *caddyfile.Dispenser) (bool, error) {
		rest = append(rest, d.NextSegment()...)
		return true, nil
	})
	if err != nil {
		return err
	}
	return t.parseHTTP(d, head, rest)
}

// options is the table of the transport's own options.
func (t *Transport) options() options {
	inject := func(make func(name, value string) Injection) option {
		return option{usage: "<name> <value>", min: 2, max: 2, repeat: true, parse: func(d *caddyfile.Dispenser, args []string) error {
			in := make(args[0], args[1])
			if slices.ContainsFunc(t.Inject, func(o Injection) bool {
				return strings.EqualFold(o.Header, in.Header) && o.Query == in.Query && o.Cookie == in.Cookie
			}) {
				return d.Errf("%s: given twice: expected it once", args[0])
			}
			t.Inject = append(t.Inject, in)
			return nil
		}}
	}
	return options{
		"header":       inject(func(name, value string) Injection { return Injection{Header: name, Value: value} }),
		"query":        inject(func(name, value string) Injection { return Injection{Query: name, Value: value} }),
		"cookie":       inject(func(name, value string) Injection { return Injection{Cookie: name, Value: value} }),
		"replay_body":  sizeOption(&t.ReplayBody),
		"settle":       settleOption(&t.Settle),
		"callers":      callersOption(&t.Callers),
		"hosts":        listOption(&t.Hosts, "<names...>"),
		"forwarded":    flagOption(&t.Forwarded),
		"allow_http":   listOption(&t.AllowHTTP, "<hosts...>"),
		"auth_failure": {usage: "{ ... }", max: 0, parse: t.parseAuthFailure},
		"breaker":      breakerOption(&t.Breaker),
	}
}

// settleOption takes a duration, or off.
func settleOption(field *caddy.Duration) option {
	return option{usage: "<duration>|off", min: 1, max: 1, parse: func(d *caddyfile.Dispenser, args []string) (err error) {
		if args[0] == "off" {
			*field = -1
			return nil
		}
		*field, err = parsePositive(d, args[0])
		return err
	}}
}

// callersOption takes addresses and ranges.
func callersOption(field *[]string) option {
	return option{usage: "<ranges...>", min: 1, max: -1, parse: func(d *caddyfile.Dispenser, args []string) error {
		for _, arg := range args {
			if _, err := parseRange(arg); err != nil {
				return d.Errf("callers: %v", err)
			}
		}
		*field = args
		return nil
	}}
}

func (t *Transport) parseAuthFailure(d *caddyfile.Dispenser, _ []string) error {
	af := new(AuthFailure)
	t.AuthFailure = af
	os := matcherOptions(&af.Any)
	os["except"] = matcherOption(&af.Except)
	return os.parse(d, "auth_failure", nil, nil)
}

// parseHTTP hands the options that are not ours to Caddy's http transport.
func (t *Transport) parseHTTP(d *caddyfile.Dispenser, head caddyfile.Token, rest []caddyfile.Token) error {
	if len(rest) == 0 {
		return nil
	}
	help := t.options().expected
	opening, closing := head, rest[len(rest)-1]
	opening.Text, closing.Text = "{", "}"
	closing.Line++
	tokens := append([]caddyfile.Token{head, opening}, rest...)
	return parseHTTPTransport(&t.HTTPTransport, append(tokens, closing), "transport bearer", func(word string) string {
		return help(word) + ", or an option of transport http"
	})
}

// parseHTTPTransport lets Caddy's parser read a block of options of transport
// http, and says more of a word that it does not know.
func parseHTTPTransport(ht *reverseproxy.HTTPTransport, tokens []caddyfile.Token, within string, expected func(word string) string) error {
	err := ht.UnmarshalCaddyfile(caddyfile.NewDispenser(tokens))
	if err == nil {
		return nil
	}
	for _, token := range tokens {
		if strings.Contains(err.Error(), "unrecognized subdirective "+token.Text+",") {
			at := caddyfile.NewDispenser([]caddyfile.Token{token})
			at.Next()
			return at.Errf("unrecognized option %q in %s: expected %s", token.Text, within, expected(token.Text))
		}
	}
	return err
}

// Interface guard
var _ caddyfile.Unmarshaler = (*Transport)(nil)
