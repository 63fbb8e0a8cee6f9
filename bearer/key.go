package bearer

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/caddy-bearer/caddy-bearer/tokensource"
)

// keyContext is the context key under which WithKey stores a keyed.
type keyContext struct{}

// keyed is a key together with its values. Each request needs the values, and
// reading them out of the key again would allocate.
type keyed struct {
	tokensource.Key
	values []string
}

// WithKey returns a context whose requests get the token of the key. It applies if
// the source has keys and [Transport.Key] is not set.
func WithKey(ctx context.Context, key tokensource.Key) context.Context {
	return context.WithValue(ctx, keyContext{}, &keyed{key, key.Values()})
}

// key returns the request's key and its values. A source with keys never accepts
// the zero key. Otherwise all requests without a key would share one token.
func (t *Transport) key(req *http.Request) (tokensource.Key, []string, error) {
	names := t.Source.KeyNames()
	if t.Key == nil {
		if len(names) == 0 {
			return tokensource.Key{}, nil, nil
		}
		k, ok := req.Context().Value(keyContext{}).(*keyed)
		if !ok {
			return tokensource.Key{}, nil, fmt.Errorf("the request has none: expected %s, by WithKey or Transport.Key", strings.Join(names, ", "))
		}
		return k.Key, k.values, checkKey(names, k.values)
	}
	k, err := t.Key(req)
	if err != nil {
		return tokensource.Key{}, nil, err
	}
	values := k.Values()
	return k, values, checkKey(names, values)
}

// checkKey checks that a key has one value for each name. Its errors never show a
// value, because a key names a person.
func checkKey(names, values []string) error {
	switch {
	case len(values) != len(names) && len(names) == 0:
		return errors.New("the source has no keys: expected the zero Key")
	case len(values) != len(names):
		return fmt.Errorf("got %d values: expected one for each of %s", len(values), strings.Join(names, ", "))
	}
	for i, v := range values {
		if v == "" {
			return fmt.Errorf("%s is empty", names[i])
		}
	}
	return nil
}
