package tokensource_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-bearer/caddy-bearer/tokensource"
)

// A template that parses gives back its text when each variable stands for
// itself, but for the backslashes before braces.
func FuzzParseTemplate(f *testing.F) {
	for _, seed := range []string{"", "plain", "Bearer {token}", "{a}{b}", `\{x\}`, `C:\x`, "{", "}", "{}", "{a", "a}b", `{a\}b}`, "{{a}}", "ä{ö}ü", "{a}\x00\xff", `{"json":{"user":"{key.user}"}}`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		parsed, err := tokensource.ParseTemplate(text)
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
		literal, err := tokensource.Literal(text).Expand(nil)
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
	f.Fuzz(func(t *testing.T, status int, contentType, body, kind, retryAfter string) {
		if status < 100 || status > 999 {
			return
		}
		ep := endpoint(answering(status, contentType, body, "Retry-After", retryAfter))
		ep.Response.ExpiryKind = tokensource.ExpiryKind(kind)
		if kind == "text" {
			ep.Response.Format = tokensource.FormatText
		}
		a, err := call(ep)
		if err != nil {
			var ee *tokensource.EndpointError
			if !errors.As(err, &ee) || errors.Is(err, tokensource.ErrRefused) == errors.Is(err, tokensource.ErrUnavailable) || tokensource.RetryAfter(err) < 0 {
				t.Errorf("%v", err)
			}
			return
		}
		token := a.AccessToken.Reveal()
		if token == "" || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) || a.Lifetime < 0 {
			t.Errorf("token %q, lifetime %v", token, a.Lifetime)
		}
	})
}

// A key gives back its values, and no two lists of values are one key.
func FuzzKey(f *testing.F) {
	for _, values := range alike {
		f.Add(values[0], values[1], "x", "y")
	}
	f.Add("a", "b", "a", "b")
	f.Fuzz(func(t *testing.T, a, b, c, d string) {
		one, other := tokensource.NewKey(a, b), tokensource.NewKey(c, d)
		if got := one.Values(); !slices.Equal(got, []string{a, b}) {
			t.Errorf("NewKey(%q, %q) gives back %q", a, b, got)
		}
		if (one == other) != (a == c && b == d) || (one.String() == other.String()) != (one == other) {
			t.Errorf("(%q, %q) and (%q, %q) are taken for one or for two", a, b, c, d)
		}
		if one == tokensource.NewKey(a+b) || one == tokensource.NewKey(a, b, "") {
			t.Errorf("(%q, %q) is a key of another length too", a, b)
		}
	})
}
