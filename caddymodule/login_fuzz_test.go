package caddymodule

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
)

// FuzzLogin: whatever comes to token_login, a code is sent only with the state and the cookie that belong together, or by the
// app; and no page has a word of the request in it.
func FuzzLogin(f *testing.F) {
	for _, seed := range [][4]string{
		{"callback", "state=STATE&code=c", "NAME=COOKIE", ""},
		{"callback", "state=STATE&code=c&code=d&error=x&iss=y", "NAME=COOKIE; NAME=x", ""},
		{"callback", "state=STATE;code=c&state=x", "NAME=\"COOKIE\"", ""},
		{"callback", "state=%53TATE&code=<script>", "NAME=x", ""},
		{"start", "ticket=TICKET", "", ""},
		{"start", "ticket=TICKET&ticket=x&ticket=%", "token_login_binding=x", ""},
		{"confirm", "", "", "confirmation=AAAA-BBBB-CCCC-DDDD"},
		{"confirm", "confirmation=x", "", "confirmation=a&confirmation=b"},
		{"code", "", "", "code=c&error=x"},
		{"code", "code=d", "", "code=%zz"},
	} {
		f.Add(seed[0], seed[1], seed[2], seed[3])
	}
	rig := newLoginRig(f, "", byUser)
	titles := []string{
		"You are logged in", "This login cannot be finished", "The provider did not agree", "This link cannot be used", "Open this link yourself",
		"The provider refused the login", "The provider cannot be reached",
	}
	f.Fuzz(func(t *testing.T, step, query, cookies, form string) {
		if !slices.Contains([]string{loginStart, loginCallback, loginConfirm, loginCode}, step) {
			return
		}
		rig.source.logins.used = usedLinks{} // there may be only so many in ten minutes
		b := rig.begin(t, rig.opening(t, ""))
		ticket := rig.opening(t, "").URL.Query().Get("ticket")
		fill := strings.NewReplacer("STATE", b.state(), "COOKIE", b.cookie.Value, "NAME", b.cookie.Name, "TICKET", ticket)
		method := http.MethodGet
		if step == loginConfirm || step == loginCode {
			method = http.MethodPost
		}
		req := local(method, "/tokens/"+step, strings.NewReader(form))
		req.URL.RawQuery = fill.Replace(query)
		req.RemoteAddr = "10.1.2.3:1"
		req.Header.Set("Cookie", fill.Replace(cookies))
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		byTheApp := step == loginCode
		if byTheApp || step == loginConfirm {
			req.RemoteAddr = "127.0.0.1:1"
			req.Header.Set("X-User", "alice")
		}
		before := len(rig.calls())
		res := rig.serve(t, req)
		page := readAll(t, res.Body)
		if sent := len(rig.calls()) - before; sent > 1 || (sent == 1 && !byTheApp) {
			t.Errorf("%s: %d codes were sent: %q %q %q", step, sent, query, cookies, form)
		}
		if byTheApp {
			return
		}
		if confirmation := confirmationForm.FindString(page); confirmation != "" && step != loginConfirm {
			q := req.URL.Query()
			own, err := req.Cookie(b.cookie.Name)
			if step != loginCallback || q.Get("state") != b.state() || err != nil || own.Value != b.cookie.Value || q.Has("error") || len(q["code"]) != 1 {
				t.Errorf("%s: a login has ended: %q %q", step, query, cookies)
			}
			return
		}
		if strings.HasPrefix(res.Header.Get("Content-Type"), "text/html") && res.StatusCode != http.StatusFound &&
			!slices.ContainsFunc(titles, func(title string) bool { return strings.Contains(page, "<h1>"+title+"</h1>") }) {
			t.Errorf("%s: another page: %s", step, page)
		}
		if to := res.Header.Get("Location"); to != "" {
			if u, err := url.Parse(to); err != nil || step != loginStart || u.Host != "idp.example" {
				t.Errorf("%s: sent to %s", step, to)
			}
		}
	})
}
