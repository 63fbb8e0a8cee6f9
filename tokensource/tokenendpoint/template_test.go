package tokenendpoint_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/caddy-bearer/caddy-bearer/tokensource/internal/wiretest"
	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenendpoint"
)

// TestPathInErrors: the path says which call failed, and nothing that was put
// into it: a key's value is somebody's, and what was resolved may be a secret.
func TestPathInErrors(t *testing.T) {
	resolve := func(name string) (string, bool, error) {
		switch name {
		case "env.BASE":
			return "https://idp.example/canary-base", true, nil
		case "env.BOT", "file./run/secrets/bot":
			return "canary-secret", true, nil
		}
		return "", false, nil // key.user stays
	}
	for text, want := range map[string]string{
		"https://idp.example/oauth/token":                   "/oauth/token",
		"https://idp.example/token?client_secret=canary":    "/token",
		"https://idp.example/token#canary":                  "/token",
		"https://idp.example":                               "",
		"https://idp.example/{key.user}/token":              "/{key.user}/token",
		"https://idp.example/bot{env.BOT}/token":            "/bot{env.BOT}/token",
		"https://idp.example/{file./run/secrets/bot}/token": "/{file./run/secrets/bot}/token",
		"{env.BASE}/token":                                  "/token",
		"{env.BASE}":                                        "",
		"https://{key.user}.idp.example/token":              "/token",
	} {
		parsed, err := tokenendpoint.ParseTemplate(text)
		if err != nil {
			t.Fatal(err)
		}
		if parsed, err = parsed.Resolve(resolve); err != nil {
			t.Fatal(err)
		}
		ep := wiretest.Endpoint(wiretest.Responding(500, "", ""))
		ep.URL = parsed
		_, err = ep.Call(t.Context(), "client_credentials", nil, func(name string) (string, bool) { return "canary-user", name == "key.user" })
		var ee *tokenendpoint.Error
		if !errors.As(err, &ee) || ee.Path != want {
			t.Errorf("%s: %v, want the path %q", text, err, want)
			continue
		}
		if strings.Contains(ee.Error(), "canary") {
			t.Errorf("%s: %v", text, ee)
		}
	}
}
