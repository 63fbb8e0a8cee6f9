package caddymodule

import (
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// options is the table of a client's own options.
func (c *Client) options() options {
	inject := func(make func(name, value string) Injection) option {
		return option{usage: "<name> <value>", min: 2, max: 2, repeat: true, parse: func(d *caddyfile.Dispenser, args []string) error {
			in := make(args[0], args[1])
			if slices.ContainsFunc(c.Inject, func(o Injection) bool {
				return strings.EqualFold(o.Header, in.Header) && o.Query == in.Query && o.Cookie == in.Cookie
			}) {
				return d.Errf("%s: given twice: expected it once", args[0])
			}
			c.Inject = append(c.Inject, in)
			return nil
		}}
	}
	return options{
		"header":       inject(func(name, value string) Injection { return Injection{Header: name, Value: value} }),
		"query":        inject(func(name, value string) Injection { return Injection{Query: name, Value: value} }),
		"cookie":       inject(func(name, value string) Injection { return Injection{Cookie: name, Value: value} }),
		"replay_body":  sizeOption(&c.ReplayBody),
		"settle":       settleOption(&c.Settle),
		"callers":      callersOption(&c.Callers),
		"hosts":        listOption(&c.Hosts, "<names...>"),
		"forwarded":    flagOption(&c.Forwarded),
		"allow_http":   listOption(&c.AllowHTTP, "<hosts...>"),
		"auth_failure": {usage: "{ ... }", max: 0, parse: c.parseAuthFailure},
		"breaker":      breakerOption(&c.Breaker),
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
				return d.Errf("%v", err)
			}
		}
		*field = args
		return nil
	}}
}

func (c *Client) parseAuthFailure(d *caddyfile.Dispenser, _ []string) error {
	af := new(AuthFailure)
	c.AuthFailure = af
	os := matcherOptions(&af.Any)
	os["except"] = matcherOption(&af.Except)
	return os.parse(d, "auth_failure", nil, nil)
}

// parse reads the block of a client, whose options are in the table; the others are
// for Caddy's http transport. head is the token before the block, and within names the
// block in errors.
func (c *Client) parse(d *caddyfile.Dispenser, head caddyfile.Token, within string, table options) error {
	var rest []caddyfile.Token
	err := table.parse(d, within, c.Origin, func(d *caddyfile.Dispenser) (bool, error) {
		rest = append(rest, d.NextSegment()...)
		return true, nil
	})
	if err != nil || len(rest) == 0 {
		return err
	}
	opening, closing := head, rest[len(rest)-1]
	opening.Text, closing.Text = "{", "}"
	closing.Line++
	tokens := append([]caddyfile.Token{head, opening}, rest...)
	return parseHTTPTransport(&c.HTTPTransport, append(tokens, closing), within, func(word string) string {
		return table.expected(word) + ", or an option of transport http"
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
