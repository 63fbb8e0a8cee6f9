package caddymodule

import (
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenendpoint"
)

// options is the table of an endpoint's options, which every grant and the
// refresh block have:
//
//	token_url     <url>
//	method        POST|GET
//	client_id     <id>
//	client_secret <secret>
//	client_auth   client_secret_basic|client_secret_post|client_secret_basic_raw|client_secret_query|none
//	client_auth   header <id_name> <secret_name>
//	client_auth   template <authorization>
//	scope         <scopes...>
//	resource      <uri>
//	params_in     form|query|json|multipart|none
//	param         <name> <value> [query|body] [string|number|bool|raw]
//	rename        <param> <name>
//	omit          <params...>
//	header        <name> <value>
//	bearer        <source>
//	timeout       <duration>
//	response      { ... }
//	transport     { <options of transport http> }
//	allow_http    <hosts...>
func (e *Endpoint) options() options {
	return options{
		"token_url":     textOption(&e.TokenURL, "<url>"),
		"method":        choiceOption(&e.Method, "POST", "GET"),
		"client_id":     textOption(&e.ClientID, "<id>"),
		"client_secret": textOption(&e.ClientSecret, "<secret>"),
		"client_auth": {usage: "<method> [<words...>]", min: 1, max: 3, parse: func(d *caddyfile.Dispenser, args []string) error {
			if err := checkClientAuth(args[0], args[1:]); err != nil {
				return d.Errf("client_auth: %v", err)
			}
			e.ClientAuth = args
			return nil
		}},
		"scope": listOption(&e.Scope, "<scopes...>"),
		"resource": {usage: "<uri>", min: 1, max: 1, repeat: true, parse: func(_ *caddyfile.Dispenser, args []string) error {
			e.Resource = append(e.Resource, args[0])
			return nil
		}},
		"params_in": choiceOption(&e.ParamsIn, "form", "query", "json", "multipart", "none"),
		"param":     {usage: "<name> <value> [query|body] [string|number|bool|raw]", min: 2, max: 4, repeat: true, parse: e.parseParam},
		"rename":    {usage: "<param> <name>", min: 2, max: 2, repeat: true, parse: e.parseRename},
		"omit":      listOption(&e.Omit, "<params...>"),
		"header":    {usage: "<name> <value>", min: 2, max: 2, repeat: true, parse: e.parseHeader},
		"bearer":    textOption(&e.Bearer, "<source>"),
		"timeout":   positiveOption(&e.Timeout),
		"response":  {usage: "{ ... }", max: 0, parse: e.parseResponse},
		"transport": {usage: "{ ... }", max: 0, parse: func(d *caddyfile.Dispenser, _ []string) error {
			e.Transport = new(reverseproxy.HTTPTransport)
			return parseHTTPTransport(e.Transport, d.NextSegment(), "the endpoint's transport", func(string) string {
				return "an option of transport http"
			})
		}},
		"allow_http": listOption(&e.AllowHTTP, "<hosts...>"),
	}
}

func (e *Endpoint) parseParam(d *caddyfile.Dispenser, args []string) error {
	p := Param{Name: args[0], Value: args[1]}
	if slices.ContainsFunc(e.Params, func(o Param) bool { return o.Name == p.Name }) {
		return d.Errf("param %s: given twice: expected it once", p.Name)
	}
	for _, word := range args[2:] {
		switch {
		case slices.Contains([]string{"query", "body"}, word) && p.In == "":
			p.In = word
		case slices.Contains([]string{"string", "number", "bool", "raw"}, word) && p.Type == "":
			p.Type = word
		default:
			return d.Errf("param %s: %q: expected query or body, or string, number, bool or raw", p.Name, word)
		}
	}
	e.Params = append(e.Params, p)
	return nil
}

func (e *Endpoint) parseRename(d *caddyfile.Dispenser, args []string) error {
	if _, twice := e.Rename[args[0]]; twice {
		return d.Errf("rename %s: given twice: expected it once", args[0])
	}
	if e.Rename == nil {
		e.Rename = make(map[string]string)
	}
	e.Rename[args[0]] = args[1]
	return nil
}

func (e *Endpoint) parseHeader(d *caddyfile.Dispenser, args []string) error {
	if !validHeaderName(args[0]) {
		return d.Errf("header %q: expected a header name", args[0])
	}
	if slices.ContainsFunc(e.Headers, func(o Header) bool { return strings.EqualFold(o.Name, args[0]) }) {
		return d.Errf("header %s: given twice: expected it once", args[0])
	}
	e.Headers = append(e.Headers, Header{Name: args[0], Value: args[1]})
	return nil
}

// parseResponse reads the block
//
//	response {
//	    format        auto|json|form|text
//	    status        <codes...>
//	    access_token  <paths...>
//	    refresh_token <paths...>
//	    expires_in    <path> [<kind>]
//	    error_when    <path> [<values...>]
//	    error_when    text <patterns...>
//	    permanent     status <codes...>
//	    permanent     header <name> [<patterns...>]
//	    permanent     json <path> [<values...>]
//	    permanent     text [<patterns...>]
//	    transient, throttled, consent_lost, user_refused, client_refused: as permanent
//	}
//
// In error_when, a member with the name text is written \text.
func (e *Endpoint) parseResponse(d *caddyfile.Dispenser, _ []string) error {
	r := new(Response)
	e.Response = r
	return options{
		"format": choiceOption(&r.Format, "auto", "json", "form", "text"),
		"status": {usage: "<codes...>", min: 1, max: -1, parse: func(d *caddyfile.Dispenser, args []string) (err error) {
			r.Status, err = statusList(d, args)
			return err
		}},
		"access_token":  listOption(&r.AccessToken, "<paths...>"),
		"refresh_token": listOption(&r.RefreshToken, "<paths...>"),
		"expires_in": {usage: "<path> [<kind>]", min: 1, max: 2, parse: func(d *caddyfile.Dispenser, args []string) error {
			r.ExpiresIn = args[0]
			if len(args) == 2 {
				if !tokenendpoint.ValidExpiryKind(tokenendpoint.ExpiryKind(args[1])) {
					return d.Errf("expires_in: kind %q: expected one of %s", args[1], expiryKinds())
				}
				r.ExpiresKind = args[1]
			}
			return nil
		}},
		"error_when": {usage: "<path> [<values...>] | text <patterns...>", min: 1, max: -1, repeat: true, parse: func(_ *caddyfile.Dispenser, args []string) error {
			p := tokenendpoint.Matcher{JSON: args[0], Values: args[1:]}
			if args[0] == "text" && len(args) > 1 {
				p = tokenendpoint.Matcher{Text: args[1:]}
			}
			r.ErrorWhen = append(r.ErrorWhen, p)
			return nil
		}},
		"transient":      matcherOption(&r.Transient),
		"permanent":      matcherOption(&r.Permanent),
		"throttled":      matcherOption(&r.Throttled),
		"consent_lost":   matcherOption(&r.ConsentLost),
		"user_refused":   matcherOption(&r.UserRefused),
		"client_refused": matcherOption(&r.ClientRefused),
	}.parse(d, "response", nil, nil)
}

func expiryKinds() string {
	var names []string
	for _, kind := range tokenendpoint.ExpiryKinds() {
		names = append(names, string(kind))
	}
	return strings.Join(names, ", ")
}

const matcherUsage = "status <codes...> | header <name> [<patterns...>] | json <path> [<values...>] | text [<patterns...>]"

// matcherOption takes a matcher, and may be repeated.
func matcherOption(list *[]tokenendpoint.Matcher) option {
	return option{usage: matcherUsage, min: 1, max: -1, repeat: true, parse: func(d *caddyfile.Dispenser, args []string) error {
		p, err := parseMatcher(d, args[0], args[1:])
		if err == nil {
			*list = append(*list, p)
		}
		return err
	}}
}

// matcherOptions are the kinds of matcher as options of a block.
func matcherOptions(list *[]tokenendpoint.Matcher) options {
	of := func(kind, usage string, least int) option {
		return option{usage: usage, min: least, max: -1, repeat: kind != "status", parse: func(d *caddyfile.Dispenser, args []string) error {
			p, err := parseMatcher(d, kind, args)
			if err == nil {
				*list = append(*list, p)
			}
			return err
		}}
	}
	return options{
		"status": of("status", "<codes...>", 1),
		"header": of("header", "<name> [<patterns...>]", 1),
		"json":   of("json", "<path> [<values...>]", 1),
		"text":   of("text", "[<patterns...>]", 0),
	}
}

func parseMatcher(d *caddyfile.Dispenser, kind string, args []string) (tokenendpoint.Matcher, error) {
	if len(args) == 0 && slices.Contains([]string{"status", "header", "json"}, kind) {
		return tokenendpoint.Matcher{}, d.Errf("got 1 argument: expected %s", matcherUsage)
	}
	switch kind {
	case "status":
		codes, err := statusList(d, args)
		return tokenendpoint.Matcher{Status: codes}, err
	case "header":
		if !validHeaderName(args[0]) {
			return tokenendpoint.Matcher{}, d.Errf("header %q: expected a header name", args[0])
		}
		return tokenendpoint.Matcher{Header: args[0], Values: args[1:]}, nil
	case "json":
		return tokenendpoint.Matcher{JSON: args[0], Values: args[1:]}, nil
	case "text":
		return tokenendpoint.Matcher{Text: append([]string{}, args...)}, nil // none is not nil
	}
	return tokenendpoint.Matcher{}, d.Errf("%q: expected %s", kind, matcherUsage)
}
