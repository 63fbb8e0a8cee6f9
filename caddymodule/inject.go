package caddymodule

import (
	"fmt"
	"strings"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-bearer/caddy-bearer/bearer"
	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenendpoint"
)

// Injection is one thing that is put into a request. Exactly one of Header,
// Query and Cookie is set.
type Injection struct {
	// The name of a header.
	Header string `json:"header,omitempty"`
	// The name of a query parameter.
	Query string `json:"query,omitempty"`
	// The name of a cookie.
	Cookie string `json:"cookie,omitempty"`
	// What goes there: {token} is the token, {token.NAME} a member of the answer
	// that it came in, by its path: user.tenant, tenants.0, id_token (left out, with
	// a warning, if the answer had none), {key.NAME} a value of the key; {env.*} and {file.*} are read when the config is loaded.
	Value string `json:"value,omitempty"`
}

// AuthFailure says which of the API's answers mean that it refuses the token.
type AuthFailure = bearer.AuthFailure

// option is the Caddyfile's name for it.
func (in Injection) option() string {
	switch {
	case in.Query != "":
		return "query " + in.Query
	case in.Cookie != "":
		return "cookie " + in.Cookie
	}
	return "header " + in.Header
}

// resolveInjections resolves the placeholders of a list of injections, all but those that
// only a request can: the token's and the key's.
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
			err = fmt.Errorf("%w; the token is {token}, a member of its answer {token.NAME}", err)
		}
		return value, known, err
	})
}
