package caddymodule

import (
	"fmt"
	"net/http"
	"net/textproto"
	"strings"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-bearer/caddy-bearer/tokensource"
)

// keyReader reads a source's key from requests.
type keyReader struct {
	names   []string
	values  []tokensource.Template
	headers []string // that the key is read from
}

const headerPlaceholder = "http.request.header."

func newKeyReader(parts []KeyPart) (keyReader, error) {
	var kr keyReader
	for _, part := range parts {
		t, err := tokensource.ParseTemplate(part.Value)
		if err != nil {
			return kr, fmt.Errorf("%s: %w", part.Name, err)
		}
		if len(t.Variables()) == 0 {
			return kr, fmt.Errorf("%s: %q is the same for every request: expected a placeholder such as {http.request.header.X-User}", part.Name, part.Value)
		}
		for _, name := range t.Variables() {
			if header, ok := strings.CutPrefix(name, headerPlaceholder); ok {
				kr.headers = append(kr.headers, textproto.CanonicalMIMEHeaderKey(header))
			}
		}
		kr.names = append(kr.names, part.Name)
		kr.values = append(kr.values, t)
	}
	return kr, nil
}

// keyError says which value is not there.
type keyError struct{ name, why string }

func (e *keyError) Error() string { return "key " + e.name + ": " + e.why }

// maxKeyValue bounds what a request can make us remember.
const maxKeyValue = 1 << 10

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
			ke.why = fmt.Sprintf("its value is longer than %d bytes", maxKeyValue)
			return tokensource.Key{}, nil, ke
		}
		values = append(values, value)
	}
	return tokensource.NewKey(values...), values, nil
}

// lookup returns a placeholder's value. A header that comes twice is refused:
// which of two users is meant is not ours to guess.
func (kr *keyReader) lookup(repl *caddy.Replacer, req *http.Request, name string, ke *keyError) (string, bool) {
	if header, ok := strings.CutPrefix(name, headerPlaceholder); ok {
		if len(req.Header.Values(header)) > 1 {
			ke.why = "the header " + textproto.CanonicalMIMEHeaderKey(header) + " came more than once"
			return "", false
		}
	}
	value, ok := repl.GetString(name)
	return value, ok && value != ""
}

func hasPlaceholder(text string) bool { return strings.Contains(text, "{") }
