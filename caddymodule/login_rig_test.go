package caddymodule

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
	"golang.org/x/oauth2"

	"github.com/caddy-bearer/caddy-bearer/tokensource"
)

// loginRig is a token_login handler before a fake token endpoint.
type loginRig struct {
	*TokenLogin
	mu     sync.Mutex
	forms  []url.Values // of the token calls
	answer func() (int, string)
}

func newLoginRig(t testing.TB, issuer string, keys ...KeyPart) *loginRig {
	t.Helper()
	rig := &loginRig{answer: func() (int, string) { return 200, `{"access_token": "issued", "expires_in": 3600}` }}
	grant := testGrant(func(req *http.Request) (int, string) {
		body, _ := io.ReadAll(req.Body)
		form, _ := url.ParseQuery(string(body))
		rig.mu.Lock()
		defer rig.mu.Unlock()
		rig.forms = append(rig.forms, form)
		return rig.answer()
	})
	grant.Type, grant.Interactive = "authorization_code", true
	kr, err := newKeyReader(keys)
	if err != nil {
		t.Fatal(err)
	}
	auth := &authorization{issuer: issuer, config: oauth2.Config{
		ClientID: "id", RedirectURL: "https://app.example/tokens/callback",
		Endpoint: oauth2.Endpoint{AuthURL: "https://idp.example/authorize"}, Scopes: []string{"read", "write"},
	}}
	rig.TokenLogin = &TokenLogin{
		Source: "api", keys: kr, callers: *mustCallers(t, nil, nil), log: zap.NewNop(),
		source: &pooledSource{
			Source: testSource(t, tokensource.Config{Grant: grant, KeyNames: kr.names}),
			logins: newPendingLogins(auth),
		},
	}
	return rig
}

func (rig *loginRig) calls() []url.Values {
	rig.mu.Lock()
	defer rig.mu.Unlock()
	return append([]url.Values{}, rig.forms...)
}

// serve serves a request as Caddy would pass it on.
func (rig *loginRig) serve(t testing.TB, req *http.Request) *http.Response {
	t.Helper()
	repl := caddyhttp.NewTestReplacer(req)
	ctx := context.WithValue(req.Context(), caddy.ReplacerCtxKey, repl)
	ctx = context.WithValue(ctx, caddyhttp.VarsCtxKey, map[string]any{})
	req = req.WithContext(ctx)
	w := httptest.NewRecorder()
	next := caddyhttp.HandlerFunc(func(http.ResponseWriter, *http.Request) error { return errors.New("passed on") })
	if err := rig.ServeHTTP(w, req, next); err != nil {
		t.Fatal(err)
	}
	if skip, _ := caddyhttp.GetVar(req.Context(), caddyhttp.LogSkipVar).(bool); !skip {
		t.Error("the access log would hold the request, with its code")
	}
	res := w.Result()
	if res.Header.Get("Cache-Control") != "no-store" || res.Header.Get("Referrer-Policy") != "no-referrer" {
		t.Errorf("headers %v", res.Header)
	}
	return res
}

func local(method, target string, body io.Reader) *http.Request {
	req := httptest.NewRequest(method, "http://localhost:9000"+target, body)
	req.RemoteAddr = "127.0.0.1:1234"
	return req
}

// begun is a login in the middle of which a person is.
type begun struct {
	query  url.Values // of the provider's page
	cookie *http.Cookie
}

func (rig *loginRig) begin(t testing.TB, req *http.Request) begun {
	t.Helper()
	res := rig.serve(t, req)
	if res.StatusCode != http.StatusFound || len(res.Cookies()) != 1 {
		t.Fatalf("status %d, cookies %v", res.StatusCode, res.Cookies())
	}
	to, err := res.Location()
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(to.String(), "https://idp.example/authorize?") {
		t.Errorf("sent to %s", to)
	}
	return begun{to.Query(), res.Cookies()[0]}
}

func (b begun) state() string { return b.query.Get("state") }

// back is the request that a provider sends the person back with.
func (b begun) back(more url.Values, cookies ...*http.Cookie) *http.Request {
	q := url.Values{"state": {b.state()}, "code": {"a-code"}}
	for name, values := range more {
		q[name] = values
	}
	req := local(http.MethodGet, "/tokens/callback?"+q.Encode(), nil)
	for _, c := range cookies {
		req.AddCookie(c)
	}
	return req
}
