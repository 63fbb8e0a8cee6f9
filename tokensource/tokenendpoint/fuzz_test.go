package tokenendpoint_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/caddy-bearer/caddy-bearer/tokensource/internal/wiretest"
	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenendpoint"
)

// A template that parses gives back its text when each variable stands for
// itself, but for the backslashes before braces.
func FuzzParseTemplate(f *testing.F) {
	for _, seed := range []string{"", "plain", "Bearer {token}", "{a}{b}", `\{x\}`, `C:\x`, "{", "}", "{}", "{a", "a}b", `{a\}b}`, "{{a}}", "ä{ö}ü", "{a}\x00\xff", `{"json":{"user":"{key.user}"}}`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		parsed, err := tokenendpoint.ParseTemplate(text)
		if err != nil {
			return
		}
		got, err := parsed.Expand(func(name string) (string, bool) { return "{" + name + "}", true })
		if err != nil {
			t.Fatal(err)
		}
		unescape := func(s string) string { return strings.NewReplacer(`\{`, "{", `\}`, "}").Replace(s) }
		if unescape(got) != unescape(text) {
			t.Errorf("%q gives back %q", text, got)
		}
		literal, err := tokenendpoint.Literal(text).Expand(nil)
		if err != nil || literal != text {
			t.Errorf("Literal(%q) gives back %q, %v", text, literal, err)
		}
	})
}

// Whatever an endpoint answers, there is a token that fits a header, or an
// EndpointError.
func FuzzAnswer(f *testing.F) {
	for _, body := range []string{
		"", "null", "{", "[]", `{"access_token":"a","expires_in":3600,"refresh_token":"r"}`, `{"access_token":"a\r\nb"}`, `{"error":"invalid_grant"}`,
		"access_token=a&expires_in=5", "access_token=%zz", "<html>", `{"access_token":1e400,"expires_in":[1]}`, `{"access_token":"a","expires_in":"1:2:3"}`,
		`{"access_token":"e30.eyJleHAiOjF9.x"}`, strings.Repeat("[", 5000), "\xff\xfe", `{"a":{"b":{"c":1}},"access_token":true}`,
	} {
		for _, contentType := range []string{"application/json", formType, "text/html", ";;"} {
			f.Add(200, contentType, body, "auto", "")
		}
		f.Add(400, "", body, "jwt_exp", "5")
		f.Add(200, "", body, "text", "-1")
	}
	for _, expiry := range []string{"1e400", `"9999-12-31T23:59:59Z"`, `"20261127153641"`, `"PT6S"`, `"1h, 2 min and 3s"`, `"1:2:3"`, `"-P1D"`, `"Fri, 27 Nov 2026 15:04:05 GMT"`, "-1"} {
		for _, kind := range tokenendpoint.ExpiryKinds() {
			f.Add(200, "", `{"access_token":"a","expires_in":`+expiry+`}`, string(kind), "")
		}
	}
	f.Fuzz(func(t *testing.T, status int, contentType, body, kind, retryAfter string) {
		if status < 100 || status > 999 {
			return
		}
		ep := wiretest.Endpoint(wiretest.Responding(status, contentType, body, "Retry-After", retryAfter))
		ep.Response.ExpiryKind = tokenendpoint.ExpiryKind(kind)
		if kind == "text" {
			ep.Response.Format = tokenendpoint.FormatText
		}
		a, err := wiretest.Call(ep)
		if err != nil {
			var ee *tokenendpoint.Error
			if !errors.As(err, &ee) || errors.Is(err, tokenendpoint.ErrRefused) == errors.Is(err, tokenendpoint.ErrUnavailable) || ee.RetryAfter < 0 {
				t.Errorf("%v", err)
			}
			return
		}
		token := a.AccessToken.Reveal()
		if token == "" || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) || (a.Expiry.State == tokenendpoint.ExpirySaid) != (a.Expiry.In > 0) {
			t.Errorf("token %q, expiry %+v", token, a.Expiry)
		}
	})
}
