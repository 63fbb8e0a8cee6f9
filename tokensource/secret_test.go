package tokensource_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/caddy-bearer/caddy-bearer/tokensource"
	"github.com/caddy-bearer/caddy-bearer/tokensource/internal/wiretest"
	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenendpoint"
)

const canary = "canary-4711-secret"

// Attack 4: nothing that holds a secret prints it.
func TestTokensDoNotPrint(t *testing.T) {
	secret := tokenendpoint.NewSecret(canary)
	s := newSource(t, tokensource.Config{Grant: &fakeGrant{onToken: issue(canary, time.Hour)}})
	tok := want(t, s, noKey, canary)
	for name, v := range map[string]any{
		"a code":                      tokensource.Code{Code: secret, Verifier: secret},
		"a token":                     tok,
		"a token in a struct":         struct{ T *tokensource.Token }{tok},
		"a key, which names a person": tokensource.NewKey(canary),
	} {
		t.Run(name, func(t *testing.T) {
			text := wiretest.Printed(t, v)
			if strings.Contains(text, canary) || strings.Contains(text, fmt.Sprintf("%x", canary)) {
				t.Errorf("it prints:\n%s", text)
			}
		})
	}
}
