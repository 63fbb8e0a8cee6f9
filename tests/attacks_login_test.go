package tests

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/caddy-bearer/caddy-bearer/tests/provider"
)

// withLogin is a sidecar whose users log in at the provider, each for a key of his own.
func withLogin(t *testing.T) *sidecar {
	t.Helper()
	p := provider.New(provider.Generic)
	port := freePort(t)
	p.RedirectURI = "http://127.0.0.1:" + port + "/tokens/callback"
	s := newSidecarOf(t, p, setup{
		port: port, grantType: "authorization_code",
		grant:  "auth_url " + theAPI + "/authorize\nissuer " + theAPI + "\nscope read\nredirect_uri " + p.RedirectURI,
		source: "key user {header.X-User}",
		site:   "handle /tokens/* {\ntoken_login api\n}",
	})
	s.start(t)
	return s
}

// browser follows no redirect by itself, and has its own cookies.
type browser struct{ *app }

func (s *sidecar) browser(t *testing.T) browser {
	t.Helper()
	b := browser{newApp(t, "")}
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	b.client.Jar = jar
	b.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return b
}

func (b browser) open(t *testing.T, address string) answer {
	t.Helper()
	return b.call(t, http.MethodGet, address, http.Header{"Sec-Fetch-Site": {"cross-site"}}, "")
}

// as makes a call to the API for a user.
func (s *sidecar) as(t *testing.T, user string) answer {
	t.Helper()
	return s.call(t, http.MethodGet, "/things", http.Header{"X-User": {user}}, "")
}

// loginLink is where the sidecar would have a user log in.
func (s *sidecar) loginLink(t *testing.T, user string) string {
	t.Helper()
	got := s.as(t, user)
	got.wantProblem(t, http.StatusForbidden, "authorization-required")
	var p struct {
		Login string `json:"login"`
	}
	if err := json.Unmarshal([]byte(got.body), &p); err != nil || p.Login == "" {
		t.Fatalf("no login link: %s", got.body)
	}
	return p.Login
}

// begin follows a login link to the provider and gives where that sends the person back.
func (b browser) begin(t *testing.T, link string) (authorize, back *url.URL) {
	t.Helper()
	got := b.open(t, link)
	if got.status != http.StatusFound {
		t.Fatalf("status %d: %s", got.status, got.body)
	}
	authorize, err := url.Parse(got.header.Get("Location"))
	if err != nil {
		t.Fatal(err)
	}
	got = b.open(t, authorize.String())
	if got.status != http.StatusFound {
		t.Fatalf("the provider answers %d: %s", got.status, got.body)
	}
	back, err = url.Parse(got.header.Get("Location"))
	if err != nil {
		t.Fatal(err)
	}
	return authorize, back
}

// finish comes back from the provider, and gives the confirmation that the page shows.
func (b browser) finish(t *testing.T, back *url.URL) string {
	t.Helper()
	got := b.open(t, back.String())
	confirmation := regexp.MustCompile(`([A-Z2-7]{4}-){3}[A-Z2-7]{4}`).FindString(got.body)
	if got.status != http.StatusOK || confirmation == "" {
		t.Fatalf("status %d, no confirmation: %s", got.status, got.body)
	}
	return confirmation
}

// confirm is the app's word for a user's login.
func (s *sidecar) confirm(t *testing.T, user, confirmation string) answer {
	t.Helper()
	header := http.Header{"X-User": {user}, "Content-Type": {"application/x-www-form-urlencoded"}}
	return s.call(t, http.MethodPost, "/tokens/confirm", header, "confirmation="+confirmation)
}

// with is a URL with another parameter.
func with(u *url.URL, name string, values ...string) string {
	out := *u
	q := out.Query()
	q[name] = values
	out.RawQuery = q.Encode()
	return out.String()
}

// forged is a text with another first character. A fixed one would now and then
// be the one that it begins with.
func forged(text string) string {
	first := "A"
	if text[0] == 'A' {
		first = "B"
	}
	return first + text[1:]
}

// TestAttack5Login goes the whole way, for two users, and looks at what is sent.
func TestAttack5Login(t *testing.T) {
	s := withLogin(t)
	states := map[string]bool{}
	for _, user := range []string{"alice", "bob"} {
		s.p.SetUser(user)
		b := s.browser(t)
		authorize, back := b.begin(t, s.loginLink(t, user))
		q := authorize.Query()
		if state, err := base64.RawURLEncoding.DecodeString(q.Get("state")); err != nil || len(state)*8 < 256 || states[q.Get("state")] {
			t.Errorf("state %q", q.Get("state"))
		}
		states[q.Get("state")] = true
		if q.Get("code_challenge_method") != "S256" || len(q.Get("code_challenge")) != 43 {
			t.Errorf("PKCE: %q, %q", q.Get("code_challenge_method"), q.Get("code_challenge"))
		}
		confirmation := b.finish(t, back)
		if got := s.as(t, user); got.status != http.StatusForbidden || s.p.TokenCount() != len(states)-1 {
			t.Errorf("before it is confirmed: status %d, %d token calls", got.status, s.p.TokenCount())
		}
		if got := s.confirm(t, user, confirmation); got.status != http.StatusOK {
			t.Fatalf("status %d: %s", got.status, got.body)
		}
		if e := s.as(t, user).wantOK(t); e.Holder != user {
			t.Errorf("%s's call went out with %s's token", user, e.Holder)
		}
	}
	if e := s.as(t, "alice").wantOK(t); e.Holder != "alice" {
		t.Errorf("alice's call went out with %s's token", e.Holder)
	}
}

// TestAttack5Callbacks that did not come as they should bring no token, and their page is always one of a few.
func TestAttack5Callbacks(t *testing.T) {
	s := withLogin(t)
	pages := map[string]bool{}
	const mark = "<script>alert(1)</script>"
	for name, forge := range map[string]func(b browser, back *url.URL) (browser, string){
		"another state": func(b browser, u *url.URL) (browser, string) {
			return b, with(u, "state", forged(u.Query().Get("state")))
		},
		"no state":       func(b browser, u *url.URL) (browser, string) { return b, with(u, "state") },
		"another issuer": func(b browser, u *url.URL) (browser, string) { return b, with(u, "iss", "https://evil.example") },
		"no issuer":      func(b browser, u *url.URL) (browser, string) { return b, with(u, "iss") },
		"other browser":  func(_ browser, u *url.URL) (browser, string) { return s.browser(t), u.String() },
		"an error":       func(b browser, u *url.URL) (browser, string) { return b, with(u, "error", "access_denied"+mark) },
		"two codes":      func(b browser, u *url.URL) (browser, string) { return b, with(u, "code", "a", "b") },
		"no code":        func(b browser, u *url.URL) (browser, string) { return b, with(u, "code") },
	} {
		t.Run(name, func(t *testing.T) {
			b := s.browser(t)
			_, back := b.begin(t, s.loginLink(t, name))
			b, address := forge(b, back)
			got := b.open(t, address+"&error_description="+url.QueryEscape(mark)+"&redirect=https://evil.example&next=//evil.example")
			if got.status < 400 || got.header.Get("Location") != "" {
				t.Errorf("status %d, %v", got.status, got.header)
			}
			if strings.Contains(got.body, "alert") || strings.Contains(got.body, "evil") || strings.Contains(got.body, s.p.Canary()) {
				t.Errorf("the page reflects what came: %s", got.body)
			}
			if got.header.Get("Cache-Control") != "no-store" || got.header.Get("Referrer-Policy") != "no-referrer" {
				t.Errorf("headers: %v", got.header)
			}
			pages[got.body] = true
			if s.as(t, name).status != http.StatusForbidden {
				t.Error("it brought a token")
			}
			if name == "other browser" || name == "an error" { // the state is used up by then
				if got := b.open(t, back.String()); got.status < 400 {
					t.Errorf("the state was good for a second use: status %d", got.status)
				}
			}
		})
	}
	if len(pages) > 3 {
		t.Errorf("%d different pages", len(pages))
	}
}

// TestAttack5SingleUse: what worked once does not work again, for a browser that kept its cookie either.
func TestAttack5SingleUse(t *testing.T) {
	s := withLogin(t)
	b := s.browser(t)
	_, back := b.begin(t, s.loginLink(t, "alice"))
	cookies := b.client.Jar.Cookies(back)
	if len(cookies) != 1 || len(cookies[0].Value) < 43 {
		t.Fatalf("%d cookies", len(cookies))
	}
	kept := http.Header{"Cookie": {cookies[0].Name + "=" + cookies[0].Value}}
	if got := s.confirm(t, "alice", b.finish(t, back)); got.status != http.StatusOK {
		t.Fatalf("status %d: %s", got.status, got.body)
	}
	s.p.Forget()
	if got := b.call(t, http.MethodGet, back.String(), kept, ""); got.status != http.StatusBadRequest {
		t.Errorf("status %d: %s", got.status, got.body)
	}
	if n := s.p.TokenCount(); n != 0 {
		t.Errorf("the code was sent %d times more", n)
	}
}

// TestAttack5Links that are forged name nobody.
func TestAttack5Links(t *testing.T) {
	s := withLogin(t)
	link, err := url.Parse(s.loginLink(t, "alice"))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(link.String(), "alice") {
		t.Error("the link tells the user's name")
	}
	ticket := link.Query().Get("ticket")
	for _, text := range []string{"x", ticket[:len(ticket)-2], forged(ticket), ticket + "AA", ""} {
		want := http.StatusBadRequest
		if text == "" { // no ticket: then only a caller may begin, and no browser that came from elsewhere
			want = http.StatusForbidden
		}
		if got := s.browser(t).open(t, with(link, "ticket", text)); got.status != want {
			t.Errorf("status %d, %v", got.status, got.header)
		}
	}
}

// TestAttack5Bounded: who begins logins and never ends them pushes out the oldest of that key, nobody else's, and fills no
// memory.
func TestAttack5Bounded(t *testing.T) {
	s := withLogin(t)
	patient, first := s.browser(t), s.browser(t)
	_, back := patient.begin(t, s.loginLink(t, "bob"))
	_, pushedOut := first.begin(t, s.loginLink(t, "alice"))
	b := s.browser(t)
	b.client.Jar = nil
	for range 500 {
		if got := b.open(t, s.loginLink(t, "alice")); got.status != http.StatusFound {
			t.Fatalf("status %d: %s", got.status, got.body)
		}
	}
	if got := first.open(t, pushedOut.String()); got.status != http.StatusBadRequest {
		t.Errorf("status %d: the oldest of 501 logins for one key is still known", got.status)
	}
	patient.finish(t, back)
	late := s.browser(t)
	_, back = late.begin(t, s.loginLink(t, "alice"))
	late.finish(t, back)
}

// TestAttack12TakenLink: mallory has alice's link, and binds an account of his own to her key. It is not used, for he cannot
// confirm it; nor is it while she has a token.
func TestAttack12TakenLink(t *testing.T) {
	s := withLogin(t)
	link := s.loginLink(t, "alice")
	mallory := s.browser(t)
	s.p.SetUser("mallory")
	_, back := mallory.begin(t, link)
	confirmation := mallory.finish(t, back)
	if got := s.as(t, "alice"); got.status != http.StatusForbidden {
		t.Errorf("alice gets status %d: %s", got.status, got.body)
	}
	if got := s.browser(t).open(t, link); got.status != http.StatusBadRequest {
		t.Errorf("the link again: status %d", got.status)
	}
	if got := s.confirm(t, "mallory", confirmation); got.status != http.StatusUnprocessableEntity || got.problem() != "code-refused" {
		t.Errorf("for his own key: status %d: %s", got.status, got.body)
	}
	if n := s.p.TokenCount(); n != 0 {
		t.Errorf("%d codes were sent", n)
	}
	// alice logs in herself
	s.p.SetUser("alice")
	alice := s.browser(t)
	_, back = alice.begin(t, s.loginLink(t, "alice"))
	if got := s.confirm(t, "alice", alice.finish(t, back)); got.status != http.StatusOK {
		t.Fatalf("status %d: %s", got.status, got.body)
	}
	if e := s.as(t, "alice").wantOK(t); e.Holder != "alice" {
		t.Errorf("alice's call goes out with %s's token", e.Holder)
	}
}

// TestAttack12BoundLink: the app binds the link to its browser, and then nothing has to be confirmed.
func TestAttack12BoundLink(t *testing.T) {
	s := withLogin(t)
	const binding = "drawn-by-the-app-for-this-browser"
	got := s.call(t, http.MethodGet, "/things", http.Header{"X-User": {"alice"}, "Token-Login-Binding": {binding}}, "")
	got.wantProblem(t, http.StatusForbidden, "authorization-required")
	var p struct{ Login string }
	if err := json.Unmarshal([]byte(got.body), &p); err != nil {
		t.Fatal(err)
	}
	if got := s.browser(t).open(t, p.Login); got.status != http.StatusForbidden {
		t.Errorf("in another browser: status %d", got.status)
	}
	b := s.browser(t)
	u, err := url.Parse(p.Login)
	if err != nil {
		t.Fatal(err)
	}
	b.client.Jar.SetCookies(u, []*http.Cookie{{Name: "token_login_binding", Value: binding, Path: "/"}})
	s.p.SetUser("alice")
	_, back := b.begin(t, p.Login)
	if got := b.open(t, back.String()); got.status != http.StatusOK || !strings.Contains(got.body, "You are logged in") {
		t.Fatalf("status %d: %s", got.status, got.body)
	}
	header := http.Header{"X-User": {"alice"}, "Token-Login-Binding": {binding}, "Token_login_binding": {binding}}
	e := s.call(t, http.MethodGet, "/things", header, "").wantOK(t)
	for name := range e.Header {
		if strings.Contains(strings.ToLower(name), "binding") {
			t.Errorf("the API gets %s", name)
		}
	}
	s.call(t, http.MethodGet, "/things", http.Header{"X-User": {"bob"}, "Token-Login-Binding": {"short"}}, "").wantProblem(t, http.StatusBadRequest, "bad-request")
}

// TestAttack5ForeignHandover: a page of another origin may not hand over a code of its own.
func TestAttack5ForeignHandover(t *testing.T) {
	s := withLogin(t)
	for name, header := range map[string]http.Header{
		"foreign Origin": {"Origin": {"https://evil.example"}}, "cross-site": {"Sec-Fetch-Site": {"cross-site"}},
	} {
		header.Set("X-User", "alice")
		header.Set("Content-Type", "application/x-www-form-urlencoded")
		got := s.call(t, http.MethodPost, "/tokens/code", header, "code="+s.p.NewCode("mallory"))
		if got.status != http.StatusForbidden || got.problem() != "caller-refused" {
			t.Errorf("%s: status %d: %s", name, got.status, got.body)
		}
	}
	if n := s.p.TokenCount(); n != 0 {
		t.Errorf("%d codes were sent", n)
	}
	for _, method := range []string{http.MethodPost, http.MethodPut, http.MethodHead} {
		if got := s.call(t, method, "/tokens/callback?code=x", nil, ""); got.status != http.StatusMethodNotAllowed {
			t.Errorf("%s: %s", method, fmt.Sprint(got.status))
		}
	}
}
