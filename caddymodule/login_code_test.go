package caddymodule

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-bearer/caddy-bearer/tokensource"
)

// TestLoginTicket: a login link works for the key that it was made for, at the
// source that made it, for ten minutes.
func TestLoginTicket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rig, another := newLoginRig(t, "", byUser), newLoginRig(t, "", byUser)
		ls := rig.source.logins
		link := ls.link("api", []string{"alice"}, "")
		text, ok := strings.CutPrefix(link, "https://app.example/tokens/start?ticket=")
		if !ok || strings.Contains(link, "alice") {
			t.Fatalf("the link is %s", link)
		}
		if ticket, err := ls.open("api", text); err != nil || fmt.Sprint(ticket.Values) != "[alice]" {
			t.Errorf("opened: %v %v", ticket, err)
		}
		flipped := []byte(text)
		flipped[len(flipped)/2] ^= 1
		for name, open := range map[string]func() (*ticket, error){
			"at another source":  func() (*ticket, error) { return ls.open("other", text) },
			"in another process": func() (*ticket, error) { return another.source.logins.open("api", text) },
			"changed":            func() (*ticket, error) { return ls.open("api", string(flipped)) },
			"cut short":          func() (*ticket, error) { return ls.open("api", text[:len(text)-4]) },
			"empty":              func() (*ticket, error) { return ls.open("api", "") },
			"not even base64":    func() (*ticket, error) { return ls.open("api", "%%%") },
		} {
			if values, err := open(); err == nil {
				t.Errorf("%s: opened: %v", name, values)
			}
		}
		time.Sleep(loginLife + time.Second)
		if values, err := ls.open("api", text); err == nil {
			t.Errorf("too old: opened: %v", values)
		}
	})
}

// TestLoginTicketNamesTheKey: the link says whose login it is, whatever the
// request says.
func TestLoginTicketNamesTheKey(t *testing.T) {
	rig := newLoginRig(t, "", byUser)
	link, err := url.Parse(rig.source.logins.link("api", []string{"alice"}, ""))
	if err != nil {
		t.Fatal(err)
	}
	req := local(http.MethodGet, link.RequestURI(), nil)
	req.RemoteAddr = "10.1.2.3:1234" // a person's browser may be anywhere
	req.Header.Set("X-User", "mallory")
	b := rig.begin(t, req)
	res := rig.serve(t, b.back(nil, b.cookie))
	if res.StatusCode != http.StatusOK {
		t.Fatalf("status %d", res.StatusCode)
	}
	if res := rig.serve(t, confirming("alice", confirmationOn(t, readAll(t, res.Body)))); res.StatusCode != http.StatusOK {
		t.Fatalf("status %d", res.StatusCode)
	}
	if _, err := rig.source.Token(t.Context(), tokensource.NewKey("alice")); err != nil {
		t.Errorf("alice: %v", err)
	}
	if _, err := rig.source.Token(t.Context(), tokensource.NewKey("mallory")); err == nil {
		t.Error("mallory has a token")
	}
}

// TestLoginWithoutTicket: who says by a header whose login it is could put an
// account of their own behind another user's key. Only a permitted caller may.
func TestLoginWithoutTicket(t *testing.T) {
	rig := newLoginRig(t, "", byUser)
	req := local(http.MethodGet, "/tokens/start", nil)
	req.Header.Set("X-User", "alice")
	req.RemoteAddr = "10.1.2.3:1234"
	if res := rig.serve(t, req); res.StatusCode != http.StatusForbidden {
		t.Errorf("another host begins a login for a key of its choice: status %d", res.StatusCode)
	}
	req.RemoteAddr = "127.0.0.1:1234"
	rig.begin(t, req)
}

func handOver(form string) *http.Request {
	req := local(http.MethodPost, "/tokens/code", strings.NewReader(form))
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("X-User", "alice")
	return req
}

// TestLoginCode: a code that the app received is sent once, for its key.
func TestLoginCode(t *testing.T) {
	rig := newLoginRig(t, "", byUser)
	res := rig.serve(t, handOver("code=a-code"))
	body := readAll(t, res.Body)
	if res.StatusCode != 200 || !strings.Contains(body, `"status":"authorized"`) || strings.Contains(body, "issued") {
		t.Errorf("got %d %s", res.StatusCode, body)
	}
	rig.serve(t, handOver("code=a-code"))
	if calls := rig.calls(); len(calls) != 1 || calls[0].Get("code") != "a-code" {
		t.Errorf("token calls %v", calls)
	}
	token, err := rig.source.Token(t.Context(), tokensource.NewKey("alice"))
	if err != nil || token.AccessToken() != "issued" {
		t.Errorf("alice's token: %v", err)
	}
}

// TestLoginCodeRefused holds what is answered before a code is sent, and what
// is when it is refused.
func TestLoginCodeRefused(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*http.Request)
		form   string
		status int
		kind   string
		sent   int
	}{
		"another host":   {func(r *http.Request) { r.RemoteAddr = "10.1.2.3:1" }, "code=a", 403, problemCallerRefused, 0},
		"a page":         {func(r *http.Request) { r.Header.Set("Origin", "https://evil.example") }, "code=a", 403, problemCallerRefused, 0},
		"a rebound name": {func(r *http.Request) { r.Host = "evil.example" }, "code=a", 403, problemCallerRefused, 0},
		"no key":         {func(r *http.Request) { r.Header.Del("X-User") }, "code=a", 400, problemKeyMissing, 0},
		"two keys":       {func(r *http.Request) { r.Header.Add("X-User", "bob") }, "code=a", 400, problemKeyMissing, 0},
		"no code":        {nil, "", 400, problemBadRequest, 0},
		"empty code":     {nil, "code=", 400, problemBadRequest, 0},
		"two codes":      {nil, "code=a&code=b", 400, problemBadRequest, 0},
		"broken form":    {nil, "code=%zz", 400, problemBadRequest, 0},
		"too long":       {nil, "code=" + strings.Repeat("a", maxCodeForm), 400, problemBadRequest, 0},
		"JSON":           {func(r *http.Request) { r.Header.Set("Content-Type", "application/json") }, `{"code":"a"}`, 400, problemBadRequest, 0},
		"in the query":   {func(r *http.Request) { r.URL.RawQuery = "code=a" }, "", 400, problemBadRequest, 0},
		"with an error":  {nil, "code=a&error=insufficient_funds", 422, problemCodeRefused, 0},
		"refused":        {nil, "code=a", 422, problemCodeRefused, 1},
	} {
		t.Run(name, func(t *testing.T) {
			rig := newLoginRig(t, "", byUser)
			rig.answer = func() (int, string) { return 400, `{"error": "invalid_grant"}` }
			req := handOver(c.form)
			if c.change != nil {
				c.change(req)
			}
			res := rig.serve(t, req)
			d := checkProblem(t, res.StatusCode, res.Header, res.Body)
			if res.StatusCode != c.status || !strings.HasSuffix(d.Type, "#"+c.kind) {
				t.Errorf("got %d %s, want %d %s", res.StatusCode, d.Type, c.status, c.kind)
			}
			if calls := rig.calls(); len(calls) != c.sent {
				t.Errorf("token calls %v", calls)
			}
		})
	}
}
