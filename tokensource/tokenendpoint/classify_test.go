package tokenendpoint_test

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"golang.org/x/oauth2"

	"github.com/caddy-bearer/caddy-bearer/tokensource/internal/wiretest"
	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenendpoint"
)

// K11: what an error means, by its code, its status and the settings.
func TestClassification(t *testing.T) {
	const (
		transient = tokenendpoint.Transient
		throttled = tokenendpoint.Throttled
		permanent = tokenendpoint.Permanent
	)
	for name, c := range map[string]struct {
		status  int
		body    string
		headers []string
		class   tokenendpoint.Class
		code    string
	}{
		"invalid_grant":             {400, `{"error":"invalid_grant"}`, nil, permanent, "invalid_grant"},
		"invalid_client":            {401, `{"error":"invalid_client"}`, nil, permanent, "invalid_client"},
		"MonPay's 403":              {403, `{"error":"invalid_grant"}`, nil, permanent, "invalid_grant"},
		"MonPay's 415":              {415, `{"error":"unsupported_grant_type"}`, nil, permanent, "unsupported_grant_type"},
		"MonPay's 505":              {505, `{"error":"server_error"}`, nil, transient, "server_error"},
		"Gitea on reuse":            {400, `{"error":"unauthorized_client"}`, nil, permanent, "unauthorized_client"},
		"Dex on a password":         {401, `{"error":"access_denied"}`, nil, permanent, "access_denied"},
		"Dex on reuse":              {400, `{"error":"invalid_request"}`, nil, permanent, "invalid_request"},
		"Glewlwyd's empty 400":      {400, ``, nil, transient, ""},
		"Glewlwyd's empty 403":      {403, ``, nil, transient, ""},
		"an empty 401":              {401, ``, nil, transient, ""},
		"a gateway's 401":           {401, `<html>blocked</html>`, nil, transient, ""},
		"a gateway's 403":           {403, `<html>blocked</html>`, nil, transient, ""},
		"408":                       {408, `{"error":"x"}`, nil, transient, "x"},
		"Slack's rate limit":        {200, `{"ok":false,"error":"ratelimited"}`, nil, throttled, "ratelimited"},
		"another token's success":   {200, `{"code":"OK"}`, nil, transient, ""},
		"500":                       {500, ``, nil, transient, ""},
		"500 with a code":           {500, `{"error":"invalid_grant"}`, nil, transient, "invalid_grant"},
		"502 of a proxy":            {502, `<html>`, nil, transient, ""},
		"429":                       {429, ``, nil, throttled, ""},
		"slow_down":                 {400, `{"error":"slow_down"}`, nil, throttled, "slow_down"},
		"403 with Retry-After":      {403, ``, []string{"Retry-After", "5"}, throttled, ""},
		"503 with Retry-After":      {503, ``, []string{"Retry-After", "5"}, transient, ""},
		"refused, with Retry-After": {400, `{"error":"invalid_grant"}`, []string{"Retry-After", "5"}, permanent, "invalid_grant"},
		"temporarily_unavailable":   {400, `{"error":"temporarily_unavailable"}`, nil, transient, "temporarily_unavailable"},
		"an unknown refusal":        {400, `{"error":"whatever"}`, nil, permanent, "whatever"},
		"a nested code":             {400, `{"error":{"code":"invalid_grant","message":"x"}}`, nil, permanent, "invalid_grant"},
		"a code elsewhere":          {400, `{"errorCode":"invalid_scope"}`, nil, permanent, "invalid_scope"},
		"a number":                  {400, `{"code":40001}`, nil, permanent, ""},
		"a code of a form":          {400, `error=invalid_grant&error_description=x`, nil, permanent, "invalid_grant"},
		"GitHub's 200":              {200, `{"error":"bad_verification_code"}`, nil, permanent, "bad_verification_code"},
		"invalid_grant with 200":    {200, `{"error":"invalid_grant"}`, nil, permanent, "invalid_grant"},
		"a code that is a sentence": {400, `{"error":"the code abc was used"}`, nil, permanent, ""},
		"a code too long":           {400, `{"error":"` + strings.Repeat("x", 65) + `"}`, nil, permanent, ""},
	} {
		t.Run(name, func(t *testing.T) {
			ee := wiretest.MustFail(t, wiretest.Endpoint(wiretest.Responding(c.status, "application/json", c.body, c.headers...)))
			if ee.Class != c.class || string(ee.Code) != c.code || ee.Status != c.status {
				t.Errorf("%v, code %q, status %d, want %v, %q, %d", ee.Class, string(ee.Code), ee.Status, c.class, c.code, c.status)
			}
			if errors.Is(ee, tokenendpoint.ErrRefused) != (c.class == permanent) || errors.Is(ee, tokenendpoint.ErrUnavailable) == (c.class == permanent) {
				t.Errorf("%v is neither or both of ErrRefused and ErrUnavailable", ee)
			}
		})
	}
}

func TestClassificationBySettings(t *testing.T) {
	for name, c := range map[string]struct {
		response tokenendpoint.ResponseOptions
		status   int
		body     string
		class    tokenendpoint.Class
	}{
		"Basiq throttles with 403": {tokenendpoint.ResponseOptions{Throttled: []tokenendpoint.Matcher{{Status: []int{403}}}}, 403, "", tokenendpoint.Throttled},
		"Sage: 404 is for good":    {tokenendpoint.ResponseOptions{Permanent: []tokenendpoint.Matcher{{Status: []int{404}}}}, 404, "", tokenendpoint.Permanent},
		"a code of its own":        {tokenendpoint.ResponseOptions{Permanent: []tokenendpoint.Matcher{{JSON: "error", Values: []string{"LOCKED_*"}}}}, 500, `{"error":"locked_out"}`, tokenendpoint.Permanent},
		"Zoho throttles with 200": {tokenendpoint.ResponseOptions{
			ErrorWhen: []tokenendpoint.Matcher{{JSON: "error"}},
			Throttled: []tokenendpoint.Matcher{{JSON: "error", Values: []string{"access denied"}}},
		}, 200, `{"error":"Access Denied","access_token":"a"}`, tokenendpoint.Throttled},
		"throttled before permanent": {tokenendpoint.ResponseOptions{
			Permanent: []tokenendpoint.Matcher{{Status: []int{403}}},
			Throttled: []tokenendpoint.Matcher{{Status: []int{403}}},
		}, 403, "", tokenendpoint.Throttled},
		"200 not accepted":  {tokenendpoint.ResponseOptions{Status: []int{201}}, 200, `{"access_token":"a"}`, tokenendpoint.Transient},
		"a refusal by text": {tokenendpoint.ResponseOptions{Permanent: []tokenendpoint.Matcher{{Text: []string{"<code>bad login<"}}}}, 400, `<e><code>Bad login</code></e>`, tokenendpoint.Permanent},
		"other text":        {tokenendpoint.ResponseOptions{Permanent: []tokenendpoint.Matcher{{Text: []string{"<code>bad login<"}}}}, 400, `<e><code>Busy</code></e>`, tokenendpoint.Transient},
	} {
		t.Run(name, func(t *testing.T) {
			ep := wiretest.Endpoint(wiretest.Responding(c.status, "application/json", c.body))
			ep.Response = c.response
			if ee := wiretest.MustFail(t, ep); ee.Class != c.class {
				t.Errorf("%v, want %v", ee.Class, c.class)
			}
		})
	}
}

// What an error means must not hang on whether its code may be printed: a
// short secret is part of many words.
func TestClassOfACodeThatHoldsASecret(t *testing.T) {
	for _, secret := range []string{"client", "invalid_client", "a", "my-invalid_client-secret"} {
		ep := wiretest.Endpoint(wiretest.Responding(400, "application/json", `{"error":"invalid_client"}`))
		ep.Client = tokenendpoint.Client{ID: wiretest.Literal("id"), Secret: wiretest.Literal(secret)}
		if ee := wiretest.MustFail(t, ep); ee.Class != tokenendpoint.Permanent {
			t.Errorf("with the secret %q: %v, want permanent", secret, ee.Class)
		}
	}
}

// docs/faults.md, fault 11: a redirect is an error, and reaches nobody.
func TestRedirectsAreNotFollowed(t *testing.T) {
	for _, status := range []int{301, 302, 303, 307, 308} {
		w := wiretest.Responding(status, "", "", "Location", "https://evil.example/token")
		ep := wiretest.Endpoint(w)
		ep.Client = tokenendpoint.Client{ID: wiretest.Literal("id"), Secret: wiretest.Literal("canary")}
		ep.Auth = tokenendpoint.ClientSecretPost
		ee := wiretest.MustFail(t, ep)
		if w.Count() != 1 {
			t.Errorf("%d: followed to %s", status, w.Requests[w.Count()-1].URL)
		}
		if ee.Status != status || ee.Class != tokenendpoint.Transient || strings.Contains(ee.Error(), "evil") {
			t.Errorf("%d: %v", status, ee)
		}
	}
}

// net/http parses Location before it asks whether to follow, and quotes it.
func TestRedirectToWhatIsNoURL(t *testing.T) {
	for _, location := range []string{":canary", "http://[::1]:canary/", "/%zz?canary"} {
		ep := wiretest.Endpoint(wiretest.Responding(302, "", "", "Location", location))
		ee := wiretest.MustFail(t, ep)
		if strings.Contains(ee.Error(), "canary") {
			t.Errorf("the error quotes Location: %v", ee)
		}
		if ee.Status != http.StatusFound {
			t.Errorf("Location %q: status %d in the error, want 302", location, ee.Status)
		}
	}
}

func TestErrorIsReadableForOAuth2(t *testing.T) {
	_, err := wiretest.Call(wiretest.Endpoint(wiretest.Responding(400, "application/json", `{"error":"invalid_grant","error_description":"canary"}`)))
	var re *oauth2.RetrieveError
	if !errors.As(err, &re) || re.ErrorCode != "invalid_grant" || re.Response.StatusCode != 400 || len(re.Body) > 0 || re.ErrorDescription != "" {
		t.Errorf("RetrieveError is %+v", re)
	}
	_, err = wiretest.Call(wiretest.Endpoint(wiretest.Failing(errors.New("gone"))))
	if errors.As(err, &re) {
		t.Errorf("without an answer there is a RetrieveError: %+v", re)
	}
}
