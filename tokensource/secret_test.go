package tokensource_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/caddy-bearer/caddy-bearer/tokensource"
)

const canary = "canary-4711-secret"

// printed is v in every way that a program prints things by accident.
func printed(t *testing.T, v any) string {
	t.Helper()
	var b bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		fmt.Fprintf(&b, verb+"\n", v)
	}
	if err := json.NewEncoder(&b).Encode(v); err != nil {
		t.Fatal(err)
	}
	slog.New(slog.NewTextHandler(&b, nil)).Info("x", "v", v)
	slog.New(slog.NewJSONHandler(&b, nil)).Info("x", "v", v)
	return b.String()
}

// Attack 4: nothing that holds a secret prints it.
func TestSecretsDoNotPrint(t *testing.T) {
	secret := tokensource.NewSecret(canary)
	s := newSource(t, tokensource.Config{Grant: &fakeGrant{onToken: issue(canary, time.Hour)}})
	tok := want(t, s, noKey, canary)
	for name, v := range map[string]any{
		"a secret":                    secret,
		"a pointer to it":             &secret,
		"in an exported field":        struct{ S tokensource.Secret }{secret},
		"in a slice":                  []tokensource.Secret{secret},
		"in a map":                    map[string]tokensource.Secret{"s": secret},
		"in an unexported field":      struct{ s tokensource.Secret }{secret},
		"a code":                      tokensource.Code{Code: secret, Verifier: secret},
		"an answer":                   tokensource.Answer{AccessToken: secret, RefreshToken: secret},
		"a token":                     tok,
		"a token in a struct":         struct{ T *tokensource.Token }{tok},
		"the client's secret":         tokensource.Client{ID: lit("id"), Secret: lit(canary)},
		"a parameter":                 tokensource.Param{Name: "password", Value: lit(canary), Secret: true},
		"an endpoint":                 tokensource.Endpoint{URL: lit(idp), Client: tokensource.Client{Secret: lit(canary)}},
		"a header of a token request": tokensource.HeaderField{Name: "X-Api-Key", Value: lit(canary)},
		"a key, which names a person": tokensource.NewKey(canary),
	} {
		t.Run(name, func(t *testing.T) {
			text := printed(t, v)
			if strings.Contains(text, canary) || strings.Contains(text, fmt.Sprintf("%x", canary)) {
				t.Errorf("it prints:\n%s", text)
			}
		})
	}
}

// withSecrets is an endpoint to which everything secret is sent, in the query.
func withSecrets(w http.RoundTripper) (*tokensource.Endpoint, []tokensource.Param) {
	ep := endpoint(w)
	ep.ParamsIn, ep.Auth = tokensource.ParamsQuery, tokensource.ClientSecretPost
	ep.Client = tokensource.Client{ID: lit("id"), Secret: lit(canary)}
	ep.Header = []tokensource.HeaderField{{Name: "X-Api-Key", Value: lit("canary-api-key")}}
	return ep, []tokensource.Param{
		{Name: "code", Value: lit("canary-code"), Secret: true},
		{Name: "refresh_token", Value: lit("canary-refresh"), Secret: true},
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
		ep, params := withSecrets(failing(cause))
		ee := mustFail(t, ep, params...)
		if strings.Contains(printed(t, ee), "canary") || strings.Contains(ee.Error(), "?") {
			t.Errorf("%s: %v", name, ee)
		}
	}
	ep, params := withSecrets(tokensource.NewTransport())
	ep.URL = lit("http://127.0.0.1:1/token?tenant=canary")
	if ee := mustFail(t, ep, params...); strings.Contains(printed(t, ee), "canary") || !strings.Contains(ee.Error(), "refused") {
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
				w := answering(400, "application/json", fmt.Sprintf(body, echo))
				ep, params := withSecrets(w)
				if ee := mustFail(t, ep, params...); strings.Contains(strings.ToLower(printed(t, ee)), "canary") {
					t.Errorf("%s: %v", fmt.Sprintf(body, echo), ee)
				}
			}
		})
	}
}

// The credentials as HTTP Basic has them are as good as the secret.
func TestBasicCredentialsAreNotInErrorCodes(t *testing.T) {
	credentials := base64.StdEncoding.EncodeToString([]byte("id:" + canary))
	w := answering(401, "application/json", `{"error":"`+credentials+`"}`)
	ep := endpoint(w)
	ep.Client = tokensource.Client{ID: lit("id"), Secret: lit(canary)}
	if ee := mustFail(t, ep); strings.Contains(ee.Error(), credentials) {
		t.Errorf("%v", ee)
	}
}
