package caddymodule

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/url"
	"path"
	"strings"
	"sync"
	"time"

	"golang.org/x/oauth2"

	"github.com/caddy-bearer/caddy-bearer/tokensource"
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
	pending map[[sha256.Size]byte]*login // by the state's hash
	order   [][sha256.Size]byte          // oldest first
}

// login is one person's login.
type login struct {
	key      tokensource.Key
	verifier string            // of PKCE
	browser  [sha256.Size]byte // hash of the cookie
	begun    time.Time
}

const (
	// loginLife is how long a person may take, and how long a login link is valid.
	loginLife = 10 * time.Minute
	// maxPending bounds the memory. If there are more logins, the oldest go.
	maxPending = 10_000
)

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
	return &pendingLogins{auth: auth, seal: seal, pending: make(map[[sha256.Size]byte]*login)}
}

// randomText is 256 random bits.
func randomText() string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// begin starts a login. It returns the provider's address for the browser, the
// state, and the value that the browser must bring back in a cookie.
func (ls *pendingLogins) begin(key tokensource.Key) (authURL, state, cookie string) {
	state, cookie = randomText(), randomText()
	l := &login{key: key, verifier: oauth2.GenerateVerifier(), browser: sha256.Sum256([]byte(cookie)), begun: time.Now()}
	ls.mu.Lock()
	id := sha256.Sum256([]byte(state))
	ls.pending[id] = l
	ls.order = append(ls.order, id)
	for len(ls.order) > 0 {
		oldest, ok := ls.pending[ls.order[0]]
		if ok && len(ls.order) <= maxPending && time.Since(oldest.begun) < loginLife {
			break
		}
		delete(ls.pending, ls.order[0])
		ls.order = ls.order[1:]
	}
	ls.mu.Unlock()
	opts := append([]oauth2.AuthCodeOption{oauth2.S256ChallengeOption(l.verifier)}, ls.auth.params...)
	return ls.auth.config.AuthCodeURL(state, opts...), state, cookie
}

var (
	errLoginUnknown = errors.New("this login is unknown, was used, or is too old")
	errLoginBrowser = errors.New("this login was begun in another browser")
	errLoginIssuer  = errors.New("the callback names another issuer, or none")
)

// finish ends a login. The state is removed before anything is checked, so that
// nobody can try several cookies or codes with it.
func (ls *pendingLogins) finish(state, cookie, issuer string) (*login, error) {
	ls.mu.Lock()
	id := sha256.Sum256([]byte(state))
	l, ok := ls.pending[id]
	delete(ls.pending, id)
	ls.mu.Unlock()
	browser := sha256.Sum256([]byte(cookie))
	switch {
	case !ok || time.Since(l.begun) >= loginLife:
		return nil, errLoginUnknown
	case subtle.ConstantTimeCompare(browser[:], l.browser[:]) != 1:
		return nil, errLoginBrowser
	case ls.auth.issuer != "" && issuer != ls.auth.issuer: // RFC 9207, section 2.4
		return nil, errLoginIssuer
	}
	return l, nil
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

// ticket is the sealed content of a login link: the values of the key, and how long
// the link is valid. A person's browser cannot send the key's headers, so the link
// has to carry the key. Only a permitted caller gets a link, in a problem document.
type ticket struct {
	Values []string  `json:"v"`
	Until  time.Time `json:"u"`
}

// link returns the address at which a person begins the login for a key. It returns
// "" if the redirect_uri does not lead to token_login, because then the address of
// start is not known.
func (ls *pendingLogins) link(source string, values []string) string {
	base, ok := strings.CutSuffix(ls.auth.config.RedirectURL, "/"+loginCallback)
	if !ok {
		return ""
	}
	plain, err := json.Marshal(ticket{values, time.Now().Add(loginLife)})
	if err != nil {
		return ""
	}
	sealed := ls.seal.Seal(nil, nil, plain, []byte(source))
	return base + "/" + loginStart + "?ticket=" + base64.RawURLEncoding.EncodeToString(sealed)
}

var errTicket = errors.New("this login link is not valid, or too old")

// open returns the key's values in a login link. The link is valid for one source
// only: the source's name is authenticated with it.
func (ls *pendingLogins) open(source, text string) ([]string, error) {
	sealed, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		return nil, errTicket
	}
	plain, err := ls.seal.Open(nil, nil, sealed, []byte(source))
	if err != nil {
		return nil, errTicket
	}
	var t ticket
	if json.Unmarshal(plain, &t) != nil || time.Now().After(t.Until) {
		return nil, errTicket
	}
	return t.Values, nil
}
