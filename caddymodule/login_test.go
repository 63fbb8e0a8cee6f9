package caddymodule

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-bearer/caddy-bearer/tokensource"
)

var byUser = KeyPart{Name: "user", Value: "{http.request.header.X-User}"}

// TestLogin is a login that goes well. The exchange proves with the verifier
// that it began the login (PKCE, S256).
func TestLogin(t *testing.T) {
	rig := newLoginRig(t, "")
	b := rig.begin(t, local(http.MethodGet, "/tokens/start", nil))
	if state, err := base64.RawURLEncoding.DecodeString(b.state()); err != nil || len(state) < 32 {
		t.Errorf("a state of %d bytes: %v", len(state), err)
	}
	if got := b.query.Get("code_challenge_method"); got != "S256" {
		t.Errorf("code_challenge_method %q", got)
	}
	for name, want := range map[string]string{
		"response_type": "code", "client_id": "id", "scope": "read write", "redirect_uri": "https://app.example/tokens/callback",
	} {
		if got := b.query.Get(name); got != want {
			t.Errorf("%s: %q", name, got)
		}
	}
	c := b.cookie
	if !c.HttpOnly || !c.Secure || c.SameSite != http.SameSiteLaxMode || c.Path != "/tokens" || c.MaxAge != 600 {
		t.Errorf("cookie %v", c)
	}
	if strings.Contains(c.Value, b.state()) {
		t.Error("the cookie is the state: it binds nothing")
	}
	res := rig.serve(t, b.back(nil, c))
	page := readAll(t, res.Body)
	if res.StatusCode != http.StatusOK || !strings.Contains(page, "You are logged in") || res.Header.Get("Location") != "" {
		t.Errorf("got %d %v %s", res.StatusCode, res.Header, page)
	}
	calls := rig.calls()
	if len(calls) != 1 || calls[0].Get("code") != "a-code" {
		t.Fatalf("token calls %v", calls)
	}
	sum := sha256.Sum256([]byte(calls[0].Get("code_verifier")))
	if got := base64.RawURLEncoding.EncodeToString(sum[:]); got != b.query.Get("code_challenge") {
		t.Errorf("the verifier's challenge is %s, sent was %s", got, b.query.Get("code_challenge"))
	}
}

// TestLoginRefused holds what a callback must not do: each time nothing is
// sent, and the state is used up.
func TestLoginRefused(t *testing.T) {
	const issuer = "https://idp.example"
	good := url.Values{"iss": {issuer}}
	for name, c := range map[string]struct {
		query  url.Values
		cookie func(own, other *http.Cookie) []*http.Cookie
		status int
	}{
		"no cookie":        {good, func(_, _ *http.Cookie) []*http.Cookie { return nil }, 400},
		"another's cookie": {good, func(_, other *http.Cookie) []*http.Cookie { return []*http.Cookie{other} }, 400},
		"another's value": {good, func(own, other *http.Cookie) []*http.Cookie {
			return []*http.Cookie{{Name: own.Name, Value: other.Value}}
		}, 400},
		"no issuer":       {nil, nil, 400},
		"another issuer":  {url.Values{"iss": {"https://evil.example"}}, nil, 400},
		"unknown state":   {url.Values{"iss": {issuer}, "state": {"unknown"}}, nil, 400},
		"no state":        {url.Values{"iss": {issuer}, "state": nil}, nil, 400},
		"declined":        {url.Values{"iss": {issuer}, "code": nil, "error": {"access_denied"}}, nil, 403},
		"error with code": {url.Values{"iss": {issuer}, "error": {"server_error"}}, nil, 403},
		"two codes":       {url.Values{"iss": {issuer}, "code": {"a", "b"}}, nil, 403},
		"empty code":      {url.Values{"iss": {issuer}, "code": {""}}, nil, 403},
	} {
		t.Run(name, func(t *testing.T) {
			rig := newLoginRig(t, issuer)
			b := rig.begin(t, local(http.MethodGet, "/tokens/start", nil))
			other := rig.begin(t, local(http.MethodGet, "/tokens/start", nil))
			cookies := []*http.Cookie{b.cookie}
			if c.cookie != nil {
				cookies = c.cookie(b.cookie, other.cookie)
			}
			if res := rig.serve(t, b.back(c.query, cookies...)); res.StatusCode != c.status {
				t.Errorf("status %d, want %d", res.StatusCode, c.status)
			}
			usedUp := !c.query.Has("state")
			if res := rig.serve(t, b.back(good, b.cookie)); (res.StatusCode == http.StatusOK) == usedUp {
				t.Errorf("the state again: status %d", res.StatusCode)
			}
			if calls := rig.calls(); usedUp && len(calls) != 0 {
				t.Errorf("token calls %v", calls)
			}
		})
	}
}

// TestLoginStateOnce: a state that worked works no more.
func TestLoginStateOnce(t *testing.T) {
	rig := newLoginRig(t, "")
	b := rig.begin(t, local(http.MethodGet, "/tokens/start", nil))
	for i, want := range []int{200, 400, 400} {
		if res := rig.serve(t, b.back(url.Values{"code": {fmt.Sprint("code", i)}}, b.cookie)); res.StatusCode != want {
			t.Errorf("time %d: status %d, want %d", i+1, res.StatusCode, want)
		}
	}
	if calls := rig.calls(); len(calls) != 1 {
		t.Errorf("token calls %v", calls)
	}
}

// TestLoginLife: a login is good for ten minutes.
func TestLoginLife(t *testing.T) {
	for wait, want := range map[time.Duration]int{10*time.Minute - time.Second: 200, 10 * time.Minute: 400} {
		synctest.Test(t, func(t *testing.T) {
			rig := newLoginRig(t, "")
			b := rig.begin(t, local(http.MethodGet, "/tokens/start", nil))
			time.Sleep(wait)
			if res := rig.serve(t, b.back(nil, b.cookie)); res.StatusCode != want {
				t.Errorf("after %v: status %d, want %d", wait, res.StatusCode, want)
			}
		})
	}
}

// TestLoginsBounded: whoever begins logins without end makes us remember no
// more than so many, pushes out none of another key, and time clears them away.
func TestLoginsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ls := newLoginRig(t, "").source.logins
		begin := func(user string) (state, cookie string) {
			t.Helper()
			_, state, cookie, err := ls.begin(tokensource.NewKey(user), false, nil, nil)
			if err != nil {
				t.Fatal(err)
			}
			return state, cookie
		}
		patient, patientCookie := begin("patient")
		oldest, oldCookie := begin("mallory")
		var newest, newCookie string
		for range 2 * maxLogins {
			newest, newCookie = begin("mallory")
		}
		if n := len(ls.pending.logins); n != maxLoginsOfKey+1 || len(ls.pending.order) != n || len(ls.pending.count) != 2 {
			t.Errorf("%d pending, %d in order, %d keys", n, len(ls.pending.order), len(ls.pending.count))
		}
		for name, c := range map[string]struct {
			state, cookie string
			known         bool
		}{
			"the oldest": {oldest, oldCookie, false}, "the newest": {newest, newCookie, true}, "another's": {patient, patientCookie, true},
		} {
			if _, err := ls.finish(c.state, c.cookie, ""); (err == nil) != c.known {
				t.Errorf("%s: %v", name, err)
			}
		}
		for i := range maxLogins + 100 {
			begin(fmt.Sprint("user ", i))
		}
		if n := len(ls.pending.logins); n != maxLogins || len(ls.pending.order) != n || len(ls.pending.count) > n {
			t.Errorf("%d pending, %d in order, %d keys", n, len(ls.pending.order), len(ls.pending.count))
		}
		time.Sleep(loginLife)
		begin("late")
		if len(ls.pending.logins) != 1 || len(ls.pending.order) != 1 || len(ls.pending.count) != 1 {
			t.Errorf("after ten minutes: %d pending, %d in order", len(ls.pending.logins), len(ls.pending.order))
		}
	})
}

// TestLoginPagesReflectNothing: no text of a request is in an answer.
func TestLoginPagesReflectNothing(t *testing.T) {
	const canary = "canary<script>alert(1)</script>"
	for name, answer := range map[string]func() (int, string){
		"accepted": func() (int, string) { return 200, `{"access_token": "issued"}` },
		"refused":  func() (int, string) { return 400, `{"error": "invalid_grant", "error_description": "canary"}` },
		"down":     func() (int, string) { return 500, `canary` },
	} {
		t.Run(name, func(t *testing.T) {
			rig := newLoginRig(t, "")
			rig.answer = answer
			for _, query := range []url.Values{
				{"code": {canary}},
				{"error": {canary}, "error_description": {canary}, "error_uri": {"https://evil.example/" + canary}},
				{"state": {canary}},
				{"iss": {canary}, "next": {canary}, "redirect_uri": {"https://evil.example/" + canary}},
			} {
				b := rig.begin(t, local(http.MethodGet, "/tokens/start?next="+url.QueryEscape(canary), nil))
				res := rig.serve(t, b.back(query, b.cookie))
				seen := readAll(t, res.Body) + fmt.Sprint(res.Header["Location"], res.Header["Content-Type"])
				if strings.Contains(seen, "canary") || strings.Contains(seen, "evil") {
					t.Errorf("%v: %s", query, seen)
				}
				if csp := res.Header.Get("Content-Security-Policy"); !strings.Contains(csp, "default-src 'none'") {
					t.Errorf("Content-Security-Policy %q", csp)
				}
			}
			res := rig.serve(t, local(http.MethodGet, "/tokens/start?ticket="+url.QueryEscape(canary), nil))
			if page := readAll(t, res.Body); res.StatusCode != 400 || strings.Contains(page, "canary") {
				t.Errorf("got %d %s", res.StatusCode, page)
			}
		})
	}
}

func TestLoginMethods(t *testing.T) {
	rig := newLoginRig(t, "")
	for target, allow := range map[string]string{"/tokens/start": "GET", "/tokens/callback": "GET", "/tokens/code": "POST", "/tokens/confirm": "POST"} {
		for _, method := range []string{"GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS"} {
			if method == allow {
				continue
			}
			res := rig.serve(t, local(method, target, nil))
			if res.StatusCode != http.StatusMethodNotAllowed || res.Header.Get("Allow") != allow {
				t.Errorf("%s %s: %d, Allow %q", method, target, res.StatusCode, res.Header.Get("Allow"))
			}
		}
	}
}

// gone is the connection of a browser that did not wait.
type gone struct{ *httptest.ResponseRecorder }

func (gone) Write([]byte) (int, error) { return 0, errors.New("broken pipe") }

// TestLoginErrorsAreNotCaddys: Caddy logs a handler's error with the request's
// address, in which the code is.
func TestLoginErrorsAreNotCaddys(t *testing.T) {
	rig := newLoginRig(t, "")
	b := rig.begin(t, local(http.MethodGet, "/tokens/start", nil))
	for name, req := range map[string]*http.Request{
		"callback":        b.back(nil, b.cookie),
		"another's state": local(http.MethodGet, "/tokens/callback?state=other&code=a-code", nil),
		"wrong method":    local(http.MethodPut, "/tokens/callback?code=a-code", nil),
	} {
		ctx := context.WithValue(req.Context(), caddyhttp.VarsCtxKey, map[string]any{})
		if err := rig.ServeHTTP(gone{httptest.NewRecorder()}, req.WithContext(ctx), nil); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
