package tokensource

import (
	"context"
	"fmt"
	"time"

	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenendpoint"
)

// Authorizer returns the source as what authorizes another source's token
// calls. The other source must have key values of the same names.
func (s *Source) Authorizer() tokenendpoint.Authorizer { return authorizer{s} }

type authorizer struct{ s *Source }

// Name implements [tokenendpoint.Authorizer].
func (a authorizer) Name() string { return a.s.Name() }

// Identity implements [tokenendpoint.Authorizer].
func (a authorizer) Identity() string { return a.s.recordPrefix }

// Longest implements [tokenendpoint.Authorizer].
func (a authorizer) Longest() time.Duration {
	return max(a.s.grant.Timeout, tokenendpoint.DefaultTimeout)
}

// Token implements [tokenendpoint.Authorizer].
func (a authorizer) Token(ctx context.Context, vars tokenendpoint.Lookup) (tokenendpoint.Authorization, error) {
	key, err := a.key(vars)
	if err != nil {
		return nil, err
	}
	t, err := a.s.Token(ctx, key)
	if err != nil {
		return nil, err
	}
	return t, nil
}

// Renew implements [tokenendpoint.Authorizer].
func (a authorizer) Renew(ctx context.Context, vars tokenendpoint.Lookup, refused tokenendpoint.Authorization) (tokenendpoint.Authorization, error) {
	key, err := a.key(vars)
	if err != nil {
		return nil, err
	}
	t, err := a.s.Renew(ctx, key, refused.(*Token))
	if err != nil {
		return nil, err
	}
	return t, nil
}

// key picks this source's key out of the other's: the values of the same names.
func (a authorizer) key(vars tokenendpoint.Lookup) (Key, error) {
	values := make([]string, 0, len(a.s.cfg.KeyNames))
	for _, name := range a.s.cfg.KeyNames {
		value, ok := vars("key." + name)
		if !ok {
			return Key{}, fmt.Errorf("source %s has the key %q, which the source that uses it has not", a.s.cfg.Name, name)
		}
		values = append(values, value)
	}
	return NewKey(values...), nil
}
