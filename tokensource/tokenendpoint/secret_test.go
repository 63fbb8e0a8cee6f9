package tokenendpoint_test

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/caddy-bearer/caddy-bearer/tokensource/internal/wiretest"
	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenendpoint"
)

const canary = "canary-4711-secret"

// Attack 4: nothing that holds a secret prints it.
func TestSecretsDoNotPrint(t *testing.T) {
	secret := tokenendpoint.NewSecret(canary)
	for name, v := range map[string]any{
		"a secret":                    secret,
		"a pointer to it":             &secret,
		"in an exported field":        struct{ S tokenendpoint.Secret }{secret},
		"in a slice":                  []tokenendpoint.Secret{secret},
		"in a map":                    map[string]tokenendpoint.Secret{"s": secret},
		"in an unexported field":      struct{ s tokenendpoint.Secret }{secret},
		"an answer":                   tokenendpoint.Response{AccessToken: secret, RefreshToken: secret},
		"the client's secret":         tokenendpoint.Client{ID: wiretest.Literal("id"), Secret: wiretest.Literal(canary)},
		"a parameter":                 tokenendpoint.Param{Name: "password", Value: wiretest.Literal(canary), Secret: true},
		"an endpoint":                 tokenendpoint.Endpoint{URL: wiretest.Literal(wiretest.URL), Client: tokenendpoint.Client{Secret: wiretest.Literal(canary)}},
		"a header of a token request": tokenendpoint.HeaderField{Name: "X-Api-Key", Value: wiretest.Literal(canary)},
	} {
		t.Run(name, func(t *testing.T) {
			text := wiretest.Printed(t, v)
			if strings.Contains(text, canary) || strings.Contains(text, fmt.Sprintf("%x", canary)) {
				t.Errorf("it prints:\n%s", text)
			}
		})
	}
}

// withSecrets is an endpoint to which everything secret is sent, in the query.
func withSecrets(w http.RoundTripper) (*tokenendpoint.Endpoint, []tokenendpoint.Param) {
	ep := wiretest.Endpoint(w)
	ep.ParamsIn, ep.Auth = tokenendpoint.ParamsQuery, tokenendpoint.ClientSecretPost
	ep.Client = tokenendpoint.Client{ID: wiretest.Literal("id"), Secret: wiretest.Literal(canary)}
	ep.Header = []tokenendpoint.HeaderField{{Name: "X-Api-Key", Value: wiretest.Literal("canary-api-key")}}
	return ep, []tokenendpoint.Param{
		{Name: "code", Value: wiretest.Literal("canary-code"), Secret: true},
		{Name: "refresh_token", Value: wiretest.Literal("canary-refresh"), Secret: true},
	}
}

// Attack 4: Go's *url.Error prints the whole URL, with the credentials in its
// query.
func TestSecretsAreNotInTransportErrors(t *testing.T) {
	for name, cause := range map[string]error{
		"plain":   errors.New("gone"),
		"echoing": errors.New("proxy says: no " + canary + " here"),
		"in part": errors.New("bad header canary-api-key"),
	} {
		ep, params := withSecrets(wiretest.Failing(cause))
		ee := wiretest.MustFail(t, ep, params...)
		if strings.Contains(wiretest.Printed(t, ee), "canary") || strings.Contains(ee.Error(), "?") {
			t.Errorf("%s: %v", name, ee)
		}
	}
	ep, params := withSecrets(tokenendpoint.NewTransport())
	ep.URL = wiretest.Literal("http://127.0.0.1:1/token?tenant=canary")
	if ee := wiretest.MustFail(t, ep, params...); strings.Contains(wiretest.Printed(t, ee), "canary") || !strings.Contains(ee.Error(), "refused") {
		t.Errorf("nobody listens: %v", ee)
	}
}

// An endpoint that echoes what it was sent, where an error code should be.
func TestSecretsAreNotInErrorCodes(t *testing.T) {
	for name, echo := range map[string]string{
		"the secret":         canary,
		"with more":          "bad:" + canary,
		"the first half":     canary[:10],
		"the refresh token":  "canary-refresh",
		"the code":           "canary-code",
		"a header":           "canary-api-key",
		"in capitals":        strings.ToUpper(canary),
		"a code description": "code " + canary,
	} {
		t.Run(name, func(t *testing.T) {
			for _, body := range []string{`{"error":%q}`, `{"error":{"code":%q}}`, `{"errorCode":%q}`, `{"error":"x y","code":%q}`} {
				w := wiretest.Responding(400, "application/json", fmt.Sprintf(body, echo))
				ep, params := withSecrets(w)
				ee := wiretest.MustFail(t, ep, params...)
				if strings.Contains(strings.ToLower(wiretest.Printed(t, ee)), "canary") || strings.Contains(strings.ToLower(string(ee.Code)), "canary") {
					t.Errorf("%s: %v", fmt.Sprintf(body, echo), ee)
				}
			}
		})
	}
}

// The credentials as HTTP Basic has them are as good as the secret.
func TestBasicCredentialsAreNotInErrorCodes(t *testing.T) {
	credentials := base64.StdEncoding.EncodeToString([]byte("id:" + canary))
	w := wiretest.Responding(401, "application/json", `{"error":"`+credentials+`"}`)
	ep := wiretest.Endpoint(w)
	ep.Client = tokenendpoint.Client{ID: wiretest.Literal("id"), Secret: wiretest.Literal(canary)}
	if ee := wiretest.MustFail(t, ep); strings.Contains(ee.Error(), credentials) {
		t.Errorf("%v", ee)
	}
}
