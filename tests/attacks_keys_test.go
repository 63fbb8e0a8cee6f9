package tests

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/caddy-bearer/caddy-bearer/tests/provider"
)

// forUsers is a sidecar with two keys whose provider gives each user a token of his own: the username of the password
// grant is written by the key.
func forUsers(t *testing.T) *sidecar {
	t.Helper()
	p := provider.New(provider.Generic)
	idp := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := r.ParseForm(); err != nil {
			t.Error(err)
		}
		// a code for the user that was asked for, in place of the password: the provider then issues that user's token
		who := r.PostForm.Get("user") + "\x00" + r.PostForm.Get("realm")
		form := url.Values{"grant_type": {"authorization_code"}, "code": {p.NewCode(who)}, "redirect_uri": {p.RedirectURI}}
		inner := httptest.NewRequestWithContext(r.Context(), http.MethodPost, "/token", strings.NewReader(form.Encode()))
		inner.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		inner.SetBasicAuth(url.QueryEscape(p.ClientID), url.QueryEscape(p.ClientSecret))
		p.ServeHTTP(w, inner)
	}))
	t.Cleanup(idp.Close)
	s := newSidecarOf(t, p, setup{
		grantType: "request", tokenURL: idp.URL + "/token", grant: "param user {key.user}\nparam realm {key.realm}",
		source: "key user {header.X-User}\nkey realm {header.X-Realm}\nmin_interval 1ms",
	})
	s.start(t)
	return s
}

func of(user, realm string) http.Header {
	return http.Header{"X-User": {user}, "X-Realm": {realm}}
}

// TestAttack6KeysStayApart: whatever could be folded together, or run into one another, is not.
func TestAttack6KeysStayApart(t *testing.T) {
	s := forUsers(t)
	pairs := [][2]string{
		{"alice", "r"},
		{"Alice", "r"},
		{"ALICE", "r"},
		{"alic", "er"},
		{"alice/r", "x"},
		{"alice", "r/x"},
		{"alice:r", "x"},
		{"alice", "r:x"},
		{"..", "alice"},
		{"../alice", "r"},
		{"alice/..", "r"},
		{"./alice", "r"},
		{"alice\\", "r"},
		{"alice%2F", "r"},
		{"\u00e9", "r"},
		{"e\u0301", "r"},
		{"\u2126", "r"},
		{"\u03a9", "r"},
		{"a,b", "r"},
		{"a", "b,r"},
		{"\"alice\"", "r"},
		{"5:alice", "r"},
		{"{key.realm}", "r"},
		{"{env.TEST_CLIENT_SECRET}", "r"},
		{"alice\tx", "r"},
		{"alice x", "r"},
		{"0", "r"},
		{"00", "r"},
	}
	serials := map[int]string{}
	for range 2 { // made, and found again
		for _, pair := range pairs {
			e := s.call(t, http.MethodGet, "/", of(pair[0], pair[1]), "").wantOK(t)
			if want := pair[0] + "\x00" + pair[1]; e.Holder != want {
				t.Errorf("for %q a token of %q went out", want, e.Holder)
			}
			if whose := serials[e.Serial]; whose != "" && whose != e.Holder {
				t.Errorf("token %d is of %q and of %q", e.Serial, whose, e.Holder)
			}
			serials[e.Serial] = e.Holder
		}
	}
	if n := s.p.TokenCount(); n != len(pairs) {
		t.Errorf("%d token calls for %d keys", n, len(pairs))
	}
	if n := len(s.records(t)); n != len(pairs) {
		t.Errorf("%d records for %d keys", n, len(pairs))
	}
}

// TestAttack6Interleaved has many users call at once, some of whose tokens are revoked meanwhile: the provider names the
// token's holder in each answer. Under the race detector it shows more.
func TestAttack6Interleaved(t *testing.T) {
	const users, calls, clients = 200, 4000, 16
	s := forUsers(t)
	s.p.SetForgetful(true)
	// A token is revoked once, and after it was accepted: then a new one cures the refusal, and every call is answered. One
	// revoked while it is being written, before its first use, is refused twice, which the app is to see.
	var answered [users]atomic.Bool
	revoked := 0
	next := make(chan int)
	go func() {
		defer close(next)
		for i := range calls {
			if whose := i / 100 * 13 % users; i%100 == 50 && answered[whose].Load() {
				revoked++
				s.p.RevokeUser(fmt.Sprintf("user %d\x00r", whose))
			}
			next <- i * 7919 % users
		}
	}()
	done := make(chan struct{})
	for range clients {
		go func() {
			defer func() { done <- struct{}{} }()
			for i := range next {
				user := fmt.Sprintf("user %d", i)
				req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.base+"/", nil)
				if err != nil {
					t.Error(err)
					continue
				}
				req.Header = of(user, "r")
				resp, err := s.client.Do(req)
				if err != nil {
					t.Error(err)
					continue
				}
				e, err := readEcho(resp)
				if err != nil || e.Holder != user+"\x00r" {
					t.Errorf("%q got a token of %q: status %d, %v", user, e.Holder, resp.StatusCode, err)
					continue
				}
				answered[i].Store(true)
			}
		}()
	}
	for range clients {
		<-done
	}
	if revoked < 20 {
		t.Errorf("%d tokens were revoked: too few to show anything", revoked)
	}
}

// TestAttack6AmbiguousKey: a header that comes twice names two users, or one that some server before us did not see.
func TestAttack6AmbiguousKey(t *testing.T) {
	s := forUsers(t)
	for _, lines := range []string{
		"X-User: alice\r\nX-User: bob\r\nX-Realm: r", "X-User: alice\r\nx-user: alice\r\nX-Realm: r", "X-User: \r\nX-Realm: r",
		"X-User: alice", "X-User: alice\r\nX-Realm:", "X-User: alice\r\nX-Realm: r\r\nX-Realm: s",
	} {
		c := s.raw(t)
		c.send(t, "GET / HTTP/1.1\r\nHost: %s\r\n%s\r\n\r\n", s.address, lines)
		c.answer(t).wantProblem(t, http.StatusBadRequest, "key-missing")
	}
	c := s.raw(t)
	c.send(t, "GET / HTTP/1.1\r\nHost: %s\r\nX-User: %s\r\nX-Realm: r\r\n\r\n", s.address, strings.Repeat("a", 20_000))
	c.answer(t).wantProblem(t, http.StatusBadRequest, "bad-request")
	wantNoCalls(t, s)
}

// TestAttack6Caches: a shared cache stores no answer to a request with Authorization unless the answer says so (RFC 9111,
// section 3.5); between the app and the sidecar there is none in the request, so the answer says it is private.
func TestAttack6Caches(t *testing.T) {
	s := launch(t, setup{})
	for _, c := range []struct{ sent, want []string }{
		{nil, []string{"private"}},
		{[]string{"max-age=60"}, []string{"max-age=60", "private"}},
		{[]string{"no-store"}, []string{"no-store"}},
		{[]string{"private, max-age=60"}, []string{"private, max-age=60"}},
		{[]string{"public, max-age=60"}, []string{"public, max-age=60"}},
		{[]string{"max-age=1", "s-maxage=2"}, []string{"max-age=1", "s-maxage=2"}},
	} {
		s.p.ScriptAPI(provider.Status(200, http.Header{"Cache-Control": c.sent, "Vary": {"Accept"}}, "{}"))
		got := s.get(t)
		if !slices.Equal(got.header.Values("Cache-Control"), c.want) || got.header.Get("Vary") != "Accept" {
			t.Errorf("%q arrived as %q, want %q", c.sent, got.header.Values("Cache-Control"), c.want)
		}
	}
}
