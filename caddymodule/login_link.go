package caddymodule

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// A login link is an address that the app gets in a problem document, and opens in a
// person's browser. Links travel, and whoever holds one could put an account of their
// own behind the key. So a link works once, and what comes by it is used only if one of
// these holds:
//
//   - The app has bound the link to the person's browser when it asked
//     (loginBindingHeader).
//   - The app confirms the login with the key's own headers (TokenLogin.confirm).
//   - The browser's request comes with the key's own headers, because the app passes it
//     on, or from this host to a redirect_uri on this host.

// loginBindingHeader is a header of the app's request. Its value must come back in the
// browser's cookie loginBindingCookie, or the link does not work.
const (
	loginBindingHeader = "Token-Login-Binding"
	loginBindingCookie = "token_login_binding"
	minLoginBinding    = 16
)

// ticket is the sealed content of a login link. A person's browser cannot send the
// key's headers, so the link has to carry the key.
type ticket struct {
	ID      string    `json:"i"`
	Values  []string  `json:"v"` // of the key
	Until   time.Time `json:"u"`
	Browser []byte    `json:"b,omitempty"` // hash of the value that binds it
}

// link returns the address at which a person begins the login for a key. It returns ""
// if the redirect_uri does not lead to token_login, because then the address of start
// is not known. binding is the value of loginBindingHeader; "" binds it to no browser.
func (ls *pendingLogins) link(source string, values []string, binding string) string {
	base, ok := strings.CutSuffix(ls.auth.config.RedirectURL, "/"+loginCallback)
	if !ok {
		return ""
	}
	t := ticket{ID: randomText(), Values: values, Until: time.Now().Add(loginLife)}
	if binding != "" {
		sum := sha256.Sum256([]byte(binding))
		t.Browser = sum[:]
	}
	plain, err := json.Marshal(t)
	if err != nil {
		return ""
	}
	sealed := ls.seal.Seal(nil, nil, plain, []byte(source))
	return base + "/" + loginStart + "?ticket=" + base64.RawURLEncoding.EncodeToString(sealed)
}

// loginBinding returns what the app's request says of the person's browser.
func loginBinding(req *http.Request) (string, error) {
	values := req.Header[loginBindingHeader]
	if len(values) == 0 {
		return "", nil
	}
	if len(values) > 1 || len(values[0]) < minLoginBinding {
		return "", fmt.Errorf("header %s: expected one value of at least %d characters", loginBindingHeader, minLoginBinding)
	}
	return values[0], nil
}

var (
	errTicket       = errors.New("this login link is not valid, or too old")
	errTicketUsed   = errors.New("this login link was used before, in another browser")
	errTicketBound  = errors.New("this login link is for another browser")
	errTooManyLinks = errors.New("too many login links were used in the last minutes")
)

// open returns the content of a login link. The link is valid for one source only: the
// source's name is authenticated with it.
func (ls *pendingLogins) open(source, text string) (*ticket, error) {
	sealed, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		return nil, errTicket
	}
	plain, err := ls.seal.Open(nil, nil, sealed, []byte(source))
	if err != nil {
		return nil, errTicket
	}
	t := new(ticket)
	if json.Unmarshal(plain, t) != nil || time.Now().After(t.Until) {
		return nil, errTicket
	}
	return t, nil
}

// boundTo reports whether the browser is the one that the app has named. A link that is
// bound to another browser is an error.
func (t *ticket) boundTo(req *http.Request) (bool, error) {
	if t.Browser == nil {
		return false, nil
	}
	for _, c := range req.CookiesNamed(loginBindingCookie) {
		sum := sha256.Sum256([]byte(c.Value))
		if subtle.ConstantTimeCompare(sum[:], t.Browser) == 1 {
			return true, nil
		}
	}
	return false, errTicketBound
}

// usedLinks remembers the links that were used, until they are too old anyway. A link
// belongs to the browser that was the first to use it: a person who clicks twice, or
// goes back, is let through.
type usedLinks struct {
	links map[string]usedLink // by the ticket's ID
}

type usedLink struct {
	until   time.Time
	browser [sha256.Size]byte // hash of the login's cookie
}

// use marks a link as used by the browser that gets the cookie.
func (u *usedLinks) use(t *ticket, cookies []*http.Cookie, cookie string) error {
	now := time.Now()
	before, used := u.links[t.ID]
	if used && !cameFrom(before.browser, cookies) {
		return errTicketUsed
	}
	if len(u.links) >= maxLogins {
		for id, l := range u.links {
			if now.After(l.until) {
				delete(u.links, id)
			}
		}
		if len(u.links) >= maxLogins { // to forget one would make it good again
			return errTooManyLinks
		}
	}
	if u.links == nil {
		u.links = make(map[string]usedLink)
	}
	u.links[t.ID] = usedLink{t.Until, sha256.Sum256([]byte(cookie))}
	return nil
}

func cameFrom(browser [sha256.Size]byte, cookies []*http.Cookie) bool {
	for _, c := range cookies {
		if !strings.HasPrefix(c.Name, loginCookiePrefix) {
			continue
		}
		if sum := sha256.Sum256([]byte(c.Value)); subtle.ConstantTimeCompare(sum[:], browser[:]) == 1 {
			return true
		}
	}
	return false
}

// prefetches reports whether a browser, or a program that shows previews, opens a link
// before the person does.
func prefetches(req *http.Request) bool {
	for _, name := range []string{"Sec-Purpose", "Purpose", "X-Purpose", "X-Moz"} {
		value := strings.ToLower(req.Header.Get(name))
		if strings.Contains(value, "prefetch") || strings.Contains(value, "preview") {
			return true
		}
	}
	return false
}
