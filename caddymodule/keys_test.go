package caddymodule

import (
	"bufio"
	"context"
	"net/http"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-bearer/caddy-bearer/bearer"
	"github.com/caddy-bearer/caddy-bearer/tokensource"
)

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// received is a request as net/http's server reads it from the wire.
func received(t *testing.T, lines ...string) *http.Request {
	t.Helper()
	text := "GET /path?q=1 HTTP/1.1\r\nHost: localhost\r\n" + strings.Join(lines, "\r\n")
	if len(lines) > 0 {
		text += "\r\n"
	}
	req, err := http.ReadRequest(bufio.NewReader(strings.NewReader(text + "\r\n")))
	if err != nil {
		t.Fatal(err)
	}
	return req
}

// readKey reads the key of a request to target with these header lines.
func readKey(t *testing.T, value, target string, lines ...string) (tokensource.Key, error) {
	t.Helper()
	kr, err := newKeyReader([]KeyPart{{Name: "user", Value: value}})
	if err != nil {
		t.Fatal(err)
	}
	req := received(t, lines...)
	if req.URL, err = req.URL.Parse(target); err != nil {
		t.Fatal(err)
	}
	ctx := context.WithValue(req.Context(), caddyhttp.VarsCtxKey, map[string]any{})
	req = req.WithContext(ctx)
	ctx = context.WithValue(ctx, caddy.ReplacerCtxKey, caddyhttp.NewTestReplacer(req))
	key, _, err := kr.read(req.WithContext(ctx))
	return key, err
}

const (
	fromHeader = "{http.request.header.X-User}"
	fromQuery  = "{http.request.uri.query.user}"
	fromCookie = "{http.request.cookie.user}"
)

// TestKeyRead: keys are kept byte for byte.
func TestKeyRead(t *testing.T) {
	for _, c := range []struct {
		value, target string
		lines         []string
		want          string
	}{
		{fromHeader, "/", []string{"X-User: alice"}, "alice"},
		{fromHeader, "/", []string{"x-user: Alice"}, "Alice"},
		{fromHeader, "/", []string{"X-User: ../a:b/"}, "../a:b/"},
		{fromHeader, "/", []string{"X-User: {env.GOOD}"}, "{env.GOOD}"}, // and never read as a placeholder
		{fromHeader, "/", []string{"X-User: e\u0301"}, "e\u0301"},
		{fromQuery, "/?user=alice", nil, "alice"},
		{fromQuery, "/?user=a%2Fb", nil, "a/b"},
		{fromCookie, "/", []string{"Cookie: user=alice"}, "alice"},
		{fromHeader, "/", []string{"X-User: " + strings.Repeat("j", 3105)}, strings.Repeat("j", 3105)}, // a JWT's usual length
		{fromHeader, "/", []string{"X-User: " + strings.Repeat("j", 16384)}, strings.Repeat("j", 16384)},
		{"acme/" + fromHeader, "/", []string{"X-User: alice"}, "acme/alice"},
	} {
		key, err := readKey(t, c.value, c.target, c.lines...)
		if err != nil || key != tokensource.NewKey(c.want) {
			t.Errorf("%s of %s %q: got %q, %v", c.value, c.target, c.lines, key.Values(), err)
		}
	}
}

// TestKeyRefused: where a request does not say whose token it wants, or says
// it twice, it gets none. Which of two users is meant is not ours to guess.
func TestKeyRefused(t *testing.T) {
	for name, c := range map[string]struct {
		value, target string
		lines         []string
	}{
		"no header":      {fromHeader, "/", nil},
		"empty header":   {fromHeader, "/", []string{"X-User:"}},
		"two headers":    {fromHeader, "/", []string{"X-User: alice", "X-User: bob"}},
		"same twice":     {fromHeader, "/", []string{"X-User: alice", "x-user: alice"}},
		"other spelling": {fromHeader, "/", []string{"X_User: alice"}},
		"too long":       {fromHeader, "/", []string{"X-User: " + strings.Repeat("a", maxKeyValue+1)}},
		"no parameter":   {fromQuery, "/", nil},
		"no cookie":      {fromCookie, "/", nil},
	} {
		if key, err := readKey(t, c.value, c.target, c.lines...); err == nil {
			t.Errorf("%s: read %q", name, key.Values())
		} else if strings.Contains(err.Error(), "alice") {
			t.Errorf("%s: the error names the user: %v", name, err)
		}
	}
}

// TestKeyTooLong is a problem of its own: the request does say whose token it
// wants.
func TestKeyTooLong(t *testing.T) {
	_, err := readKey(t, fromHeader, "/", "X-User: "+strings.Repeat("a", 16385))
	if err == nil || err.Error() != "key user: its value is longer than 16384 bytes" || keyProblem(err).name != problemBadRequest {
		t.Errorf("got %v", err)
	}
	if _, err = readKey(t, fromHeader, "/"); err == nil || keyProblem(err).name != problemKeyMissing {
		t.Errorf("none: got %v", err)
	}
}

// TestKeyTwice: nor is it when it comes by a parameter or a cookie.
func TestKeyTwice(t *testing.T) {
	if key, err := readKey(t, fromQuery, "/?user=alice&user=bob"); err == nil {
		t.Errorf("two parameters: read %q", key.Values())
	}
	if key, err := readKey(t, fromCookie, "/", "Cookie: user=alice; user=bob"); err == nil {
		t.Errorf("two cookies: read %q", key.Values())
	}
}

// TestKeyHeadersStayHere: the API does not see what the key was read from.
func TestKeyHeadersStayHere(t *testing.T) {
	kr, err := newKeyReader([]KeyPart{{"user", "{http.request.header.x-user}"}, {"tenant", "{http.request.header.X-Tenant}"}})
	if err != nil {
		t.Fatal(err)
	}
	var out *http.Request
	engine := &bearer.Transport{
		Source: testSource(t, tokensource.Config{Grant: testGrant(func(*http.Request) (int, string) { return 200, `{"access_token": "ours"}` })}),
		Base: roundTripper(func(req *http.Request) (*http.Response, error) {
			out = req
			return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: http.NoBody}, nil
		}),
		Remove: kr.headers,
	}
	req := received(t, "X-User: alice", "X_User: bob", "X-Tenant: acme", "X-Other: 1")
	if _, err := engine.Send(req, new(bearer.Call)); err != nil {
		t.Fatal(err)
	}
	want := http.Header{"Authorization": {"Bearer ours"}, "X-Other": {"1"}}
	for name := range out.Header {
		if want[name] == nil {
			t.Errorf("%s is forwarded", name)
		}
	}
}
