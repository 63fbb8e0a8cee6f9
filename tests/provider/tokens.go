package provider

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"time"
)

// accessToken is one token that was issued.
type accessToken struct {
	value  string
	serial int
	holder string // the user or, for a client's own token, ""
	client bool
	family int
	// generation counts the refreshes of the grant, from 1 for its first token
	generation int
	expires    time.Time // zero: never
	revoked    bool
}

func (t *accessToken) live(now time.Time) bool {
	return !t.revoked && (t.expires.IsZero() || now.Before(t.expires))
}

// code is one authorization code.
type code struct {
	user      string
	redirect  string
	challenge string
	spent     bool
	family    int
}

// randomHex gives n random bytes as text.
func randomHex(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

// newSecret makes a secret and remembers it. The prefix is what the real system's values begin with.
func (p *Provider) newSecret(prefix, what string) string {
	s := prefix + p.canary + "-" + what + "-" + randomHex(24)
	p.secrets = append(p.secrets, s)
	return s
}

// addBasicForms remembers what the client's credentials look like in a Basic header, where the canary cannot be
// seen.
func (p *Provider) addBasicForms() {
	raw := p.ClientID + ":" + p.ClientSecret
	escaped := url.QueryEscape(p.ClientID) + ":" + url.QueryEscape(p.ClientSecret)
	for _, form := range []string{raw, escaped} {
		p.secrets = append(p.secrets, base64.StdEncoding.EncodeToString([]byte(form)))
	}
}

// Secrets lists every secret that this provider was ever configured with or has issued.
func (p *Provider) Secrets() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.secrets...)
}

// NewCode issues an authorization code for a user, as a redirect to the app would carry it.
func (p *Provider) NewCode(user string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.newCode(user, p.RedirectURI, "")
}

// newCode issues a code. The lock is held.
func (p *Provider) newCode(user, redirect, challenge string) string {
	prefix := ""
	if p.kind == MondiaPay {
		prefix = "A"
	}
	value := p.newSecret(prefix, "code")
	p.codes[value] = &code{user: user, redirect: redirect, challenge: challenge}
	return value
}

// newFamily numbers one grant and all that is derived from it. The lock is held.
func (p *Provider) newFamily() int {
	p.families++
	return p.families
}

// NewAccessToken issues a user's access token of a new grant, for something that is given one and does not renew it.
func (p *Provider) NewAccessToken(user string, lifetime time.Duration) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.issueFor(lifetime, user, false, p.newFamily()).value
}

// issue makes an access token. The lock is held.
func (p *Provider) issue(holder string, client bool, family int) *accessToken {
	key := fmt.Sprint(client, holder)
	if old := p.last[key]; old != nil && p.settings.reissue {
		return old
	}
	lifetime := p.settings.lifetime
	if client {
		lifetime = p.settings.clientLifetime
	}
	t := p.issueFor(lifetime, holder, client, family)
	p.last[key] = t
	return t
}

// issueFor makes an access token that lives for some time, or for ever if that is 0. The lock is held.
func (p *Provider) issueFor(lifetime time.Duration, holder string, client bool, family int) *accessToken {
	prefix := ""
	if p.kind == Mondia {
		prefix = "U"
		if client {
			prefix = "C"
		}
	}
	p.serial++
	t := &accessToken{serial: p.serial, holder: holder, client: client, family: family, generation: 1}
	if lifetime > 0 {
		t.expires = time.Now().Add(lifetime)
	}
	t.value = p.newSecret(prefix, "token")
	t.value += strings.Repeat("x", max(0, p.settings.tokenSize-len(t.value)))
	if p.kind == Mbanq {
		t.value = p.asJWT(t)
	}
	p.tokens[t.value] = t
	return t
}

// asJWT gives a token the look of a signed one, as Mbanq's have. Its last segment is the secret. The lock is held.
func (p *Provider) asJWT(t *accessToken) string {
	claims, err := json.Marshal(map[string]any{
		"exp": t.expires.Unix(), "user_name": t.holder, "scope": []string{"all"}, "jti": t.serial,
	})
	if err != nil {
		panic(err)
	}
	encode := base64.RawURLEncoding.EncodeToString
	value := encode([]byte(`{"alg":"HS512","typ":"JWT"}`)) + "." + encode(claims) + "." + t.value
	p.secrets = append(p.secrets, value)
	return value
}

// expiresIn is what an answer says of a token's life, nil where it says nothing. The lock is held.
func (p *Provider) expiresIn(t *accessToken) any {
	if p.settings.expiresInSet {
		return p.settings.expiresIn
	}
	lifetime := p.settings.lifetime
	if t.client {
		lifetime = p.settings.clientLifetime
	}
	return int64(lifetime / time.Second)
}

// redeem spends a code. A reason says why it will not do. The lock is held.
func (p *Provider) redeem(x *Exchange, value, redirect string) (*code, string) {
	c := p.codes[value]
	switch {
	case c == nil:
		// anyone may hand over a wrong code: no violation
		return nil, "unknown code"
	case c.spent:
		x.violation("code used twice")
		p.revokeFamily(c.family)
		return nil, "code used twice"
	case c.redirect != redirect:
		x.violation("wrong redirect_uri")
		return nil, "wrong redirect_uri"
	}
	c.spent = true
	c.family = p.newFamily()
	x.call.Family = c.family
	return c, ""
}

// revokeTokens kills the access tokens that match.
func (p *Provider) revokeTokens(match func(*accessToken) bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, t := range p.tokens {
		if match(t) {
			t.revoked = true
		}
	}
}

// RevokeAccessTokens kills every access token. Refresh tokens live on.
func (p *Provider) RevokeAccessTokens() {
	p.revokeTokens(func(*accessToken) bool { return true })
}

// RevokeUserTokens kills the access tokens that belong to users.
func (p *Provider) RevokeUserTokens() {
	p.revokeTokens(func(t *accessToken) bool { return !t.client })
}

// RevokeClientTokens kills the access tokens that belong to a client itself.
func (p *Provider) RevokeClientTokens() {
	p.revokeTokens(func(t *accessToken) bool { return t.client })
}

// RevokeUser kills the access tokens of one user.
func (p *Provider) RevokeUser(user string) {
	p.revokeTokens(func(t *accessToken) bool { return !t.client && t.holder == user })
}

// RevokeRefreshTokens kills every refresh token. Access tokens live on.
func (p *Provider) RevokeRefreshTokens() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, rt := range p.refreshes {
		rt.revoked = true
	}
}

// RevokeEverything kills every access token, refresh token and code.
func (p *Provider) RevokeEverything() {
	p.RevokeAccessTokens()
	p.RevokeRefreshTokens()
	p.mu.Lock()
	defer p.mu.Unlock()
	clear(p.codes)
}

// tokenAnswer makes a 200 of a token endpoint. The lock is held.
func (p *Provider) tokenAnswer(fields map[string]any) Answer {
	const placeholder = `"\u0001raw\u0001"`
	if fields["expires_in"] == Absent {
		delete(fields, "expires_in")
	}
	raw, isRaw := fields["expires_in"].(Raw)
	if isRaw {
		fields["expires_in"] = "\x01raw\x01"
	}
	a := jsonAnswer(200, fields)
	if isRaw {
		a.Body = bytes.Replace(a.Body, []byte(placeholder), []byte(raw), 1)
	}
	a.Header.Set("Cache-Control", "no-store")
	return a
}
