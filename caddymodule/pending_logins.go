package caddymodule

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"net/http"
	"net/url"
	"path"
	"strings"
	"sync"
	"time"

	"golang.org/x/oauth2"

	"github.com/caddy-bearer/caddy-bearer/internal/plainhttp"
	"github.com/caddy-bearer/caddy-bearer/tokensource"
	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenendpoint"
)

// pendingLogins are the logins that people have begun and not finished. They belong
// to the source and not to the handler, so that a reload does not interrupt a
// person who is at the provider's page.
//
// They are in memory only. A restart, or a callback at another replica, ends a
// login with a page that asks the person to begin again. The state and the cookie
// are kept as hashes.
type pendingLogins struct {
	auth *authorization
	seal cipher.AEAD // for tickets; each process has a key of its own

	mu      sync.Mutex
	pending loginTable // by the state: the person is at the provider's page
	waiting loginTable // by the confirmation: the code is there, and the app has to confirm it
	used    usedLinks
}

// login is one person's login.
type login struct {
	key      tokensource.Key
	verifier string            // of PKCE
	browser  [sha256.Size]byte // hash of the cookie
	since    time.Time         // set by the table that it is in
	// unconfirmed: the app must confirm the login before its code is sent.
	unconfirmed bool
	code        tokenendpoint.Secret // while it waits for that
}

func newPendingLogins(auth *authorization) *pendingLogins {
	var key [32]byte
	_, _ = rand.Read(key[:]) // never fails
	block, err := aes.NewCipher(key[:])
	if err != nil {
		panic(err) // the key's length is right
	}
	seal, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		panic(err) // as is the block's
	}
	return &pendingLogins{auth: auth, seal: seal}
}

// randomText is 256 random bits.
func randomText() string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// begin starts a login. If it comes by a link, t is the link's ticket, and cookies are
// those that the browser has brought. begin returns the provider's address for the
// browser, the state, and the value that the browser must bring back in a cookie.
func (ls *pendingLogins) begin(key tokensource.Key, unconfirmed bool, t *ticket, cookies []*http.Cookie) (authURL, state, cookie string, err error) {
	state, cookie = randomText(), randomText()
	l := &login{key: key, unconfirmed: unconfirmed, verifier: oauth2.GenerateVerifier(), browser: sha256.Sum256([]byte(cookie))}
	ls.mu.Lock()
	defer ls.mu.Unlock()
	if t != nil {
		if err := ls.used.use(t, cookies, cookie); err != nil {
			return "", "", "", err
		}
	}
	ls.pending.add(state, l)
	opts := append([]oauth2.AuthCodeOption{oauth2.S256ChallengeOption(l.verifier)}, ls.auth.params...)
	return ls.auth.config.AuthCodeURL(state, opts...), state, cookie, nil
}

var (
	errLoginUnknown = errors.New("this login is unknown, was used, or is too old")
	errLoginBrowser = errors.New("this login was begun in another browser")
	errLoginIssuer  = errors.New("the callback names another issuer, or none")
)

// finish ends a person's part in a login. The state is removed before anything is
// checked, so that nobody can try several cookies or codes with it.
func (ls *pendingLogins) finish(state, cookie, issuer string) (*login, error) {
	ls.mu.Lock()
	l := ls.pending.take(state)
	ls.mu.Unlock()
	browser := sha256.Sum256([]byte(cookie))
	switch {
	case l == nil:
		return nil, errLoginUnknown
	case subtle.ConstantTimeCompare(browser[:], l.browser[:]) != 1:
		return nil, errLoginBrowser
	case ls.auth.issuer != "" && issuer != ls.auth.issuer: // RFC 9207, section 2.4
		return nil, errLoginIssuer
	}
	return l, nil
}

// await keeps a login's code until the app confirms it. It returns the confirmation,
// which only the browser gets.
func (ls *pendingLogins) await(l *login, code tokenendpoint.Secret) string {
	l.code = code
	text := rand.Text()[:16] // 80 random bits
	confirmation := text[:4] + "-" + text[4:8] + "-" + text[8:12] + "-" + text[12:]
	ls.mu.Lock()
	defer ls.mu.Unlock()
	ls.waiting.add(confirmation, l)
	return confirmation
}

// confirm returns the login that the app confirms for a key; nil if there is none. It
// stays: an app that got no answer may confirm it again, as it may hand over a code
// again, and the source sends the code once.
func (ls *pendingLogins) confirm(key tokensource.Key, confirmation string) *login {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	l := ls.waiting.get(strings.ToUpper(strings.TrimSpace(confirmation)))
	if l == nil || l.key != key {
		return nil
	}
	return l
}

// local reports whether the provider sends browsers back to this host only.
func (ls *pendingLogins) local() bool {
	u, err := url.Parse(ls.auth.config.RedirectURL)
	return err == nil && plainhttp.Loopback(u.Hostname())
}

// cookiePath is the path for which the browser sends the cookie back: the folder of
// the redirect_uri. The path of the request does not help, because another proxy
// may have rewritten it.
func (ls *pendingLogins) cookiePath() string {
	u, err := url.Parse(ls.auth.config.RedirectURL)
	if err != nil || u.Path == "" {
		return "/"
	}
	return path.Dir(u.Path)
}
