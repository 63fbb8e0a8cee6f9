package caddymodule

import (
	"fmt"
	"net/http"
	"net/textproto"
	"strings"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-bearer/caddy-bearer/tokensource"
	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenendpoint"
)

// keyReader reads a source's key from requests.
type keyReader struct {
	names   []string
	values  []tokenendpoint.Template
	headers []string // that the key is read from
}

const (
	headerPlaceholder = "http.request.header."
	queryPlaceholder  = "http.request.uri.query."
	cookiePlaceholder = "http.request.cookie."
)

func newKeyReader(parts []KeyPart) (keyReader, error) {
	var kr keyReader
	for _, part := range parts {
		t, err := tokenendpoint.ParseTemplate(part.Value)
		if err != nil {
			return kr, fmt.Errorf("%s: %w", part.Name, err)
		}
		if len(t.Variables()) == 0 {
			return kr, fmt.Errorf("%s: %q is the same for every request: expected a placeholder such as {http.request.header.X-User}", part.Name, part.Value)
		}
		for _, name := range t.Variables() {
			if !strings.HasPrefix(name, "http.") {
				return kr, fmt.Errorf("%s: {%s} says nothing of a request: expected a placeholder such as {http.request.header.X-User}", part.Name, name)
			}
			if header, ok := strings.CutPrefix(name, headerPlaceholder); ok {
				kr.headers = append(kr.headers, textproto.CanonicalMIMEHeaderKey(header))
			}
		}
		kr.names = append(kr.names, part.Name)
		kr.values = append(kr.values, t)
	}
	return kr, nil
}

// keyError says which value of the key is missing or cannot be used. It never quotes
// the value, which names a person.
type keyError struct {
	name, why string
	// bad: there is a value, but it is too long.
	bad bool
}

func (e *keyError) Error() string { return "key " + e.name + ": " + e.why }

// maxKeyValue bounds what a request can make the source remember, in bytes. A user's
// own JWT may be a key, and can be as long as a header may be.
const maxKeyValue = 16 << 10

// read returns the request's key, and its values.
func (kr *keyReader) read(req *http.Request) (tokensource.Key, []string, error) {
	if len(kr.names) == 0 {
		return tokensource.Key{}, nil, nil
	}
	repl, ok := req.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	if !ok {
		repl = caddy.NewReplacer()
	}
	values := make([]string, 0, len(kr.names))
	for i, t := range kr.values {
		ke := &keyError{name: kr.names[i]}
		value, err := t.Expand(func(name string) (string, bool) { return kr.lookup(repl, req, name, ke) })
		switch {
		case ke.why != "":
			return tokensource.Key{}, nil, ke
		case err != nil || value == "":
			ke.why = "the request has no value for it"
			return tokensource.Key{}, nil, ke
		case len(value) > maxKeyValue:
			ke.why, ke.bad = fmt.Sprintf("its value is longer than %d bytes", maxKeyValue), true
			return tokensource.Key{}, nil, ke
		}
		values = append(values, value)
	}
	return tokensource.NewKey(values...), values, nil
}

// lookup returns a placeholder's value. If the request has the header, parameter or
// cookie twice, it is refused: a wrong guess would use another user's token.
func (kr *keyReader) lookup(repl *caddy.Replacer, req *http.Request, name string, ke *keyError) (string, bool) {
	if what := twice(req, name); what != "" {
		ke.why = "the " + what + " came more than once"
		return "", false
	}
	value, ok := repl.GetString(name)
	if what := carrier(name); (!ok || value == "") && what != "" {
		ke.why = "the request has no " + what
	}
	return value, ok && value != ""
}

// carrier names the header, query parameter or cookie that a placeholder reads; "" if
// it reads none of them.
func carrier(placeholder string) string {
	if name, ok := strings.CutPrefix(placeholder, headerPlaceholder); ok {
		return "header " + textproto.CanonicalMIMEHeaderKey(name)
	}
	if name, ok := strings.CutPrefix(placeholder, queryPlaceholder); ok {
		return "query parameter " + name
	}
	if name, ok := strings.CutPrefix(placeholder, cookiePlaceholder); ok {
		return "cookie " + name
	}
	if placeholder == "http.bearer.proxy_user" {
		return "user in the proxy's URL (HTTPS_PROXY=http://USER:any@127.0.0.1:3128)"
	}
	return ""
}

// twice returns the carrier of a placeholder if the request has it more than once,
// else "".
func twice(req *http.Request, placeholder string) string {
	n := 0
	if name, ok := strings.CutPrefix(placeholder, headerPlaceholder); ok {
		n = len(req.Header.Values(name))
	} else if name, ok := strings.CutPrefix(placeholder, queryPlaceholder); ok {
		n = len(req.URL.Query()[name])
	} else if name, ok := strings.CutPrefix(placeholder, cookiePlaceholder); ok {
		n = len(req.CookiesNamed(name))
	}
	if n > 1 {
		return carrier(placeholder)
	}
	return ""
}

func hasPlaceholder(text string) bool { return strings.Contains(text, "{") }
