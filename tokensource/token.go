package tokensource

import (
	"fmt"
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"

	"golang.org/x/oauth2"
)

// Token is one issued access token. It is immutable, shared by all who use
// it, and prints as a placeholder.
type Token struct {
	// header is "Bearer " and the token. The access token is its tail, so that a
	// million tokens are not held twice.
	header  [1]string
	refresh keptRefresh
	members *members

	issued time.Time
	took   time.Duration // from issued until this process first had it
	// How long it is fresh, and how long it lives, from issued; 0: for ever. As times,
	// they would take three times the memory.
	fresh, lifetime time.Duration

	generation uint64
	byCode     bool        // a person brought it
	own        bool        // this process obtained it; else it came from the store
	orphan     atomic.Bool // its refresh token is refused for good
	// accepted: an API took it. Where a renewal brings the same access token again,
	// both share this.
	accepted *atomic.Bool

	// predecessor is the token that this one replaced while it still worked; nil:
	// none, or no longer. See follow.
	predecessor atomic.Pointer[Token]
}

const redacted = "[redacted]"

const bearerPrefix = "Bearer "

func newToken(access, refresh string) *Token {
	t := &Token{header: [1]string{bearerPrefix + access}, members: &noMembers, accepted: new(atomic.Bool)}
	t.refresh.set(refresh)
	return t
}

// AccessToken returns the token itself.
func (t *Token) AccessToken() string { return t.header[0][len(bearerPrefix):] }

// Authorization returns "Bearer " and the token (RFC 6750, section 2.1).
func (t *Token) Authorization() string { return t.header[0] }

// HeaderValue returns [Token.Authorization] as a header's value list. It is
// shared: do not change it.
func (t *Token) HeaderValue() []string { return t.header[:1:1] }

// Field returns a scalar member of the response that the token came in.
func (t *Token) Field(name string) (string, bool) {
	for _, f := range t.members.fields {
		if f.Name == name {
			return f.Value, true
		}
	}
	return "", false
}

// Expiry is when the token dies; the zero time means never.
func (t *Token) Expiry() time.Time { return t.after(t.lifetime) }

// ByCode reports whether the token came for an authorization code, not by a
// renewal: a person has just put right what was wrong before.
func (t *Token) ByCode() bool { return t.byCode }

// Generation counts the renewals of the stored token, from 1.
func (t *Token) Generation() uint64 { return t.generation }

// withGeneration returns a copy of another generation.
func (t *Token) withGeneration(n uint64) *Token {
	c := t.copy()
	c.generation = n
	return c
}

// withRefresh returns a copy with another refresh token.
func (t *Token) withRefresh(refresh string) *Token {
	c := t.copy()
	c.refresh.set(refresh)
	return c
}

// copy returns a copy of which nothing is known yet: neither that its refresh token
// is refused, nor which token it replaced.
func (t *Token) copy() *Token {
	c := newToken(t.AccessToken(), "")
	c.refresh.take(&t.refresh)
	c.members, c.generation = t.members, t.generation
	c.issued, c.took, c.fresh, c.lifetime = t.issued, t.took, t.fresh, t.lifetime
	c.byCode, c.own = t.byCode, t.own
	c.accepted = t.accepted
	return c
}

// sameAs makes t the same token as another with its access token: what is known
// of that holds for t too.
func (t *Token) sameAs(other *Token) {
	if other != nil && other != t && other.header == t.header {
		t.accepted = other.accepted
		t.took = other.Received().Sub(t.issued) // this process has had it since then
	}
}

// Accepted notes that an API took the token. A token that worked and is then
// refused was revoked, and a new one will help; of one that never worked
// there is no reason to think so.
func (t *Token) Accepted() {
	if !t.accepted.Load() {
		t.accepted.Store(true)
		t.predecessor.Store(nil)
	}
}

// Worked reports whether an API took the token.
func (t *Token) Worked() bool { return t.accepted.Load() }

// Received is when this process first obtained the token, or, if it came from the
// store, when it was issued.
func (t *Token) Received() time.Time { return t.issued.Add(t.took) }

// Predecessor returns the token that this one replaced ahead of its expiry, as
// long as that one lives and no API has taken this one; nil: there is none. An
// API that does not know a new token yet still takes the one before.
func (t *Token) Predecessor() *Token {
	p := t.predecessor.Load()
	if stateAt(time.Now(), p) == expired {
		return nil
	}
	return p
}

// keepPredecessor bounds how long a token that nobody uses keeps the one before
// it in memory.
const keepPredecessor = time.Minute

// follow tells the token, before it is handed out, which one it replaces. If keep
// is set, and p worked and lives, it becomes the predecessor. At most one token is
// kept: p, which was accepted, has given up its own.
func (t *Token) follow(p *Token, keep bool, now time.Time) {
	if p == nil || p.AccessToken() == t.AccessToken() { // see sameAs
		return
	}
	if keep && p.accepted.Load() && stateAt(now, p) != expired {
		t.predecessor.Store(p)
		time.AfterFunc(keepPredecessor, func() { t.predecessor.Store(nil) })
	}
}

// OAuth2 returns a copy for golang.org/x/oauth2. Its RefreshToken is empty if the
// source has keys and a store, and its grant needs no person: then the store alone
// keeps it. It is the source's to use in any case.
func (t *Token) OAuth2() *oauth2.Token {
	extra := make(map[string]any, len(t.members.fields))
	for _, f := range t.members.fields {
		extra[f.Name] = f.Value
	}
	tok := &oauth2.Token{
		AccessToken: t.AccessToken(),
		TokenType:   "Bearer", // whatever the response calls it (eBay: "Application Access Token")
		Expiry:      t.Expiry(),
	}
	if !t.refresh.forgettable {
		tok.RefreshToken = t.refresh.reveal()
	}
	return tok.WithExtra(extra)
}

// SetAuthHeader sets r's Authorization header, replacing any.
func (t *Token) SetAuthHeader(r *http.Request) { r.Header["Authorization"] = t.HeaderValue() }

// String never shows the token.
func (t *Token) String() string { return redacted }

// Format prints a placeholder under every verb.
func (t *Token) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(redacted)) }

// MarshalText returns a placeholder; encoding/json uses it too.
func (t *Token) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// LogValue implements [slog.LogValuer].
func (t *Token) LogValue() slog.Value { return slog.StringValue(redacted) }
