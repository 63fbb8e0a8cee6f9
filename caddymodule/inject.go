package caddymodule

import (
	"fmt"
	"strings"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-bearer/caddy-bearer/bearer"
	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenendpoint"
)

// Injection is a header, query parameter or cookie that the transport puts into each
// request. Exactly one of Header, Query and Cookie is set.
type Injection struct {
	// The name of a header.
	Header string `json:"header,omitempty"`
	// The name of a query parameter.
	Query string `json:"query,omitempty"`
	// The name of a cookie.
	Cookie string `json:"cookie,omitempty"`
	// The value, in which {token} is the token and {key.NAME} a value of the key.
	// {token.NAME} is a member of the response that brought the token, by its path:
	// user.tenant, tenants.0, id_token. If the response has no such member, the
	// injection is left out, and a warning is logged once. {env.*} and {file.*} are
	// read when the config is loaded.
	Value string `json:"value,omitempty"`
}

// AuthFailure says which of the API's responses refuse the token.
type AuthFailure = bearer.AuthFailure

// option is the injection's option in a Caddyfile.
func (in Injection) option() string {
	switch {
	case in.Query != "":
		return "query " + in.Query
	case in.Cookie != "":
		return "cookie " + in.Cookie
	}
	return "header " + in.Header
}

// resolveInjections resolves the placeholders in a list of injections. {token} and
// {key.NAME} remain, because only a request has their values.
func resolveInjections(list []Injection, keyNames []string, o *Origin) ([]bearer.Injection, error) {
	var resolved []bearer.Injection
	for _, in := range list {
		b := bearer.Injection{Header: in.Header, Query: in.Query, Cookie: in.Cookie, Value: in.Value}
		err := b.Check()
		if err == nil {
			b.Template, err = resolveValue(in.Value, keyNames)
		}
		if err != nil {
			return nil, o.errorf(in.option(), "%w", err)
		}
		resolved = append(resolved, b)
	}
	return resolved, nil
}

func resolveValue(value string, keyNames []string) (tokenendpoint.Template, error) {
	r := resolver{repl: caddy.NewReplacer(), keyNames: keyNames}
	t, err := tokenendpoint.ParseTemplate(value)
	if err != nil {
		return t, err
	}
	return t.Resolve(func(name string) (string, bool, error) {
		if name == "token" || strings.HasPrefix(name, "token.") {
			return "", false, nil
		}
		if isTime(name) {
			return "", false, fmt.Errorf("{%s} changes from request to request: expected it in header_up of reverse_proxy", name)
		}
		value, known, err := r.resolve(name)
		if err != nil && !strings.Contains(name, ".") {
			err = fmt.Errorf("%w; the token is {token}, a member of its response {token.NAME}", err)
		}
		return value, known, err
	})
}
