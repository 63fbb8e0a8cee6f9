package caddymodule

import (
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-bearer/caddy-bearer/tokensource"
)

// confirming is the app's request that confirms a login for a user.
func confirming(user, confirmation string) *http.Request {
	req := local(http.MethodPost, "/tokens/confirm", strings.NewReader(url.Values{"confirmation": {confirmation}}.Encode()))
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("X-User", user)
	return req
}

var confirmationForm = regexp.MustCompile(`\b(?:[A-Z2-7]{4}-){3}[A-Z2-7]{4}\b`)

// confirmationOn is the confirmation that a page shows.
func confirmationOn(t *testing.T, page string) string {
	t.Helper()
	found := confirmationForm.FindString(page)
	if found == "" {
		t.Fatalf("no confirmation on the page: %s", page)
	}
	return found
}

// opening is a browser's request for a login link.
func (rig *loginRig) opening(t testing.TB, binding string, cookies ...*http.Cookie) *http.Request {
	t.Helper()
	link, err := url.Parse(rig.source.logins.link("api", []string{"alice"}, binding))
	if err != nil {
		t.Fatal(err)
	}
	req := local(http.MethodGet, link.RequestURI(), nil)
	req.RemoteAddr = "10.1.2.3:1234"
	for _, c := range cookies {
		req.AddCookie(c)
	}
	return req
}

func (rig *loginRig) has(t *testing.T, user string) bool {
	t.Helper()
	_, err := rig.source.Token(t.Context(), tokensource.NewKey(user))
	return err == nil
}

// TestAttack12Confirm: what comes by a link is sent to the provider when the app has confirmed it with the
// key's own headers, and not before.
func TestAttack12Confirm(t *testing.T) {
	for name, c := range map[string]struct {
		user   string
		change func(confirmation string) string
		status int
	}{
		"by the app":      {"alice", func(text string) string { return text }, 200},
		"as it was typed": {"alice", func(text string) string { return " " + strings.ToLower(text) + "\n" }, 200},
		"for another":     {"mallory", func(text string) string { return text }, 422},
		"guessed":         {"alice", func(string) string { return "AAAA-BBBB-CCCC-DDDD" }, 422},
		"empty":           {"alice", func(string) string { return "" }, 400},
	} {
		t.Run(name, func(t *testing.T) {
			rig := newLoginRig(t, "", byUser)
			b := rig.begin(t, rig.opening(t, ""))
			res := rig.serve(t, b.back(nil, b.cookie))
			confirmation := confirmationOn(t, readAll(t, res.Body))
			if len(rig.calls()) != 0 || rig.has(t, "alice") {
				t.Error("it is used before the app has confirmed it")
			}
			if got := rig.serve(t, confirming(c.user, c.change(confirmation))); got.StatusCode != c.status {
				t.Errorf("status %d, want %d", got.StatusCode, c.status)
			}
			if rig.has(t, "alice") != (c.status == 200) || rig.has(t, "mallory") {
				t.Error("the wrong one has a token")
			}
			// the app may not have got the answer: it confirms once more, and the code is not sent again
			for range 2 {
				if got := rig.serve(t, confirming("alice", confirmation)); got.StatusCode != http.StatusOK {
					t.Errorf("once more: status %d", got.StatusCode)
				}
			}
			if n := len(rig.calls()); n != 1 {
				t.Errorf("%d token calls", n)
			}
		})
	}
}

// TestConfirmAgain: a token endpoint that is down for a moment costs nobody their login.
func TestConfirmAgain(t *testing.T) {
	rig := newLoginRig(t, "", byUser)
	works := rig.answer
	rig.answer = func() (int, string) { return 503, "" }
	b := rig.begin(t, rig.opening(t, ""))
	confirmation := confirmationOn(t, readAll(t, rig.serve(t, b.back(nil, b.cookie)).Body))
	if got := rig.serve(t, confirming("alice", confirmation)); got.StatusCode != http.StatusServiceUnavailable {
		t.Fatalf("status %d", got.StatusCode)
	}
	rig.answer = works
	if got := rig.serve(t, confirming("alice", confirmation)); got.StatusCode != http.StatusOK || !rig.has(t, "alice") {
		t.Errorf("status %d", got.StatusCode)
	}
}

// TestAttack12WhoConfirms: the app itself, and nobody whom a transport would not serve.
func TestAttack12WhoConfirms(t *testing.T) {
	rig := newLoginRig(t, "", byUser)
	b := rig.begin(t, rig.opening(t, ""))
	confirmation := confirmationOn(t, readAll(t, rig.serve(t, b.back(nil, b.cookie)).Body))
	page, outside, nobody := confirming("alice", confirmation), confirming("alice", confirmation), confirming("alice", confirmation)
	page.Header.Set("Origin", "https://evil.example")
	outside.RemoteAddr = "10.1.2.3:1"
	nobody.Header.Del("X-User")
	for name, c := range map[string]struct {
		req    *http.Request
		status int
	}{"a web page": {page, 403}, "another host": {outside, 403}, "without the key": {nobody, 400}} {
		if got := rig.serve(t, c.req); got.StatusCode != c.status {
			t.Errorf("%s: status %d, want %d", name, got.StatusCode, c.status)
		}
	}
	if got := rig.serve(t, confirming("alice", confirmation)); got.StatusCode != http.StatusOK {
		t.Errorf("the app: status %d", got.StatusCode)
	}
}

// TestAttack12Once: a link works once; again only in the browser that it worked in.
func TestAttack12Once(t *testing.T) {
	rig := newLoginRig(t, "", byUser)
	first := rig.opening(t, "")
	again := func(cookies ...*http.Cookie) *http.Request {
		req := local(http.MethodGet, first.URL.RequestURI(), nil)
		req.RemoteAddr = "10.9.9.9:1"
		for _, c := range cookies {
			req.AddCookie(c)
		}
		return req
	}
	prefetched := again()
	prefetched.Header.Set("Sec-Purpose", "prefetch;prerender")
	if res := rig.serve(t, prefetched); res.StatusCode != http.StatusServiceUnavailable || len(res.Cookies()) != 0 {
		t.Errorf("prefetched: status %d", res.StatusCode)
	}
	b := rig.begin(t, first)
	for name, req := range map[string]*http.Request{
		"no cookie": again(), "another's cookie": again(&http.Cookie{Name: b.cookie.Name, Value: "x"}), "under another name": again(&http.Cookie{Name: "x", Value: b.cookie.Value}),
	} {
		if res := rig.serve(t, req); res.StatusCode != http.StatusBadRequest {
			t.Errorf("%s: status %d", name, res.StatusCode)
		}
	}
	twice := rig.begin(t, again(b.cookie))
	rig.begin(t, again(b.cookie, twice.cookie))
	if res := rig.serve(t, twice.back(nil, twice.cookie)); res.StatusCode != http.StatusOK {
		t.Errorf("the second click: status %d", res.StatusCode)
	}
}

// TestAttack12Bound: a link that the app has bound to a browser works there, and needs no confirmation.
func TestAttack12Bound(t *testing.T) {
	const binding = "a value that the app has drawn"
	rig := newLoginRig(t, "", byUser)
	for name, cookies := range map[string][]*http.Cookie{
		"no cookie": nil, "another value": {{Name: loginBindingCookie, Value: "x"}}, "another name": {{Name: "token_login", Value: "x"}},
	} {
		if res := rig.serve(t, rig.opening(t, binding, cookies...)); res.StatusCode != http.StatusForbidden {
			t.Errorf("%s: status %d", name, res.StatusCode)
		}
	}
	quoted := strings.ReplaceAll(binding, " ", "-")
	b := rig.begin(t, rig.opening(t, quoted, &http.Cookie{Name: loginBindingCookie, Value: "of another login"}, &http.Cookie{Name: loginBindingCookie, Value: quoted}))
	if page := readAll(t, rig.serve(t, b.back(nil, b.cookie)).Body); !strings.Contains(page, "You are logged in") {
		t.Errorf("the page: %s", page)
	}
	if !rig.has(t, "alice") {
		t.Error("no token")
	}
	for _, values := range [][]string{{"short"}, {binding, binding}, {""}} {
		req := local(http.MethodGet, "/", nil)
		req.Header[loginBindingHeader] = values
		if _, err := loginBinding(req); err == nil {
			t.Errorf("%q: no error", values)
		}
	}
}

// TestLoginWithoutConfirmation: who brings the key's own headers, or is on this host with the redirect_uri, has nothing to
// confirm.
func TestLoginWithoutConfirmation(t *testing.T) {
	for name, c := range map[string]struct {
		redirect, peer, user string
		confirms             bool
	}{
		"the app passes the browser on":     {"https://app.example/tokens/callback", "127.0.0.1:1", "alice", false},
		"with another key":                  {"https://app.example/tokens/callback", "127.0.0.1:1", "mallory", true},
		"another proxy passes it on":        {"https://app.example/tokens/callback", "127.0.0.1:1", "", true},
		"another host has the key's header": {"https://app.example/tokens/callback", "10.1.2.3:1", "alice", true},
		"all on this host":                  {"http://127.0.0.1:9000/tokens/callback", "127.0.0.1:1", "", false},
		"this host, called from another":    {"http://localhost:9000/tokens/callback", "10.1.2.3:1", "", true},
	} {
		t.Run(name, func(t *testing.T) {
			rig := newLoginRig(t, "", byUser)
			rig.source.logins.auth.config.RedirectURL = c.redirect
			req := rig.opening(t, "")
			req.RemoteAddr = c.peer
			if c.user != "" {
				req.Header.Set("X-User", c.user)
			}
			b := rig.begin(t, req)
			if page := readAll(t, rig.serve(t, b.back(nil, b.cookie)).Body); confirmationForm.MatchString(page) != c.confirms || rig.has(t, "alice") == c.confirms {
				t.Errorf("confirms: %v; the page: %s", !c.confirms, page)
			}
		})
	}
}

// TestLoginConfirmationLife: a confirmation is good for ten minutes.
func TestLoginConfirmationLife(t *testing.T) {
	for wait, want := range map[time.Duration]int{10*time.Minute - time.Second: 200, 10 * time.Minute: 422} {
		synctest.Test(t, func(t *testing.T) {
			rig := newLoginRig(t, "", byUser)
			b := rig.begin(t, rig.opening(t, ""))
			confirmation := confirmationOn(t, readAll(t, rig.serve(t, b.back(nil, b.cookie)).Body))
			time.Sleep(wait)
			if res := rig.serve(t, confirming("alice", confirmation)); res.StatusCode != want {
				t.Errorf("after %v: status %d, want %d", wait, res.StatusCode, want)
			}
		})
	}
}

// TestLoginReturnTo: the browser goes back to the app, and to no other place.
func TestLoginReturnTo(t *testing.T) {
	rig := newLoginRig(t, "", byUser)
	rig.ReturnTo = "https://app.example/connected?tab=1"
	b := rig.begin(t, rig.opening(t, ""))
	res := rig.serve(t, b.back(url.Values{"return_to": {"https://evil.example"}}, b.cookie))
	to, err := res.Location()
	if err != nil || res.StatusCode != http.StatusSeeOther || !strings.HasPrefix(to.String(), "https://app.example/connected?") || to.Query().Get("tab") != "1" {
		t.Fatalf("status %d, to %v, %v", res.StatusCode, to, err)
	}
	if res := rig.serve(t, confirming("alice", to.Query().Get("confirmation"))); res.StatusCode != http.StatusOK {
		t.Errorf("status %d", res.StatusCode)
	}
	for text, valid := range map[string]bool{
		"": true, "/connected": true, "/a?b=c": true, "https://app.example/": true, "http://localhost:3000/x": true,
		"http://app.example/": false, "//evil.example/": false, "connected": false, "javascript:alert(1)": false, "https:///x": false, "https://u:p@app.example/": false, "/a#b": false, "%zz": false,
	} {
		if validReturnTo(text) != valid {
			t.Errorf("%q: valid is %v", text, !valid)
		}
	}
}

// TestUsedLinksBounded: as many as there may be are remembered; to forget one would make it good again.
func TestUsedLinksBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var u usedLinks
		use := func() error { return u.use(&ticket{ID: randomText(), Until: time.Now().Add(loginLife)}, nil, "cookie") }
		for range maxLogins {
			if err := use(); err != nil {
				t.Fatal(err)
			}
		}
		if err := use(); err == nil {
			t.Error("one more than there may be")
		}
		time.Sleep(loginLife + time.Second)
		if err := use(); err != nil || len(u.links) != 1 {
			t.Errorf("later: %v, %d remembered", err, len(u.links))
		}
	})
}
