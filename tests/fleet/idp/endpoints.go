package idp

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"syscall"
	"time"
)

const (
	refreshGrant = "refresh_token"
	codeGrant    = "authorization_code"
)

// family is one grant of a person, with all tokens that came of it.
type family struct {
	number  int
	revoked bool
	dead    time.Time // when all access tokens die that were issued before
}

type refreshToken struct {
	family     *family
	generation int
	used       time.Time // zero: not yet
	successors []*refreshToken
}

type accessToken struct {
	family     *family
	generation int
	issued     time.Time
	expires    time.Time
}

func (t *accessToken) revoked(now time.Time) bool {
	return t.family.revoked || t.issued.Before(t.family.dead) && !now.Before(t.family.dead)
}

func secret(kind string) string {
	var b [24]byte
	_, _ = rand.Read(b[:]) // never fails
	return kind + "-" + hex.EncodeToString(b[:])
}

// newRefresh issues a refresh token. The lock is held, as by all that follows.
func (p *Provider) newRefresh(f *family, generation int) string {
	value := secret("refresh")
	p.refreshes[value] = &refreshToken{family: f, generation: generation}
	return value
}

// pair is what a token request is answered with.
type pair struct {
	Access    string `json:"access_token"`
	Refresh   string `json:"refresh_token"`
	Type      string `json:"token_type"`
	ExpiresIn int    `json:"expires_in"`
}

func (p *Provider) newPair(f *family, generation int) *pair {
	p.prune()
	access, now := secret("access"), time.Now()
	p.accesses[access] = &accessToken{family: f, generation: generation, issued: now, expires: now.Add(p.settings.Lifetime)}
	if n := p.settings.RevokeEvery; n > 0 && generation%n == 0 {
		f.dead = now.Add(p.settings.Lifetime / 8)
	}
	return &pair{access, p.newRefresh(f, generation), "Bearer", int(p.settings.Lifetime / time.Second)}
}

// prune forgets access tokens that are long dead: to the API they are as good as never issued.
func (p *Provider) prune() {
	const kept = time.Minute
	if time.Since(p.pruned) < kept {
		return
	}
	p.pruned = time.Now()
	for value, t := range p.accesses {
		if time.Since(t.expires) > kept {
			delete(p.accesses, value)
		}
	}
}

// token is the token endpoint.
func (p *Provider) token(w http.ResponseWriter, r *http.Request) {
	form, fault := readToken(r)
	c, delay := p.arrive(r) // all of it
	<-time.After(delay)
	now := time.Now() // a client that is found to be there is alive now
	if !p.settings.Careless && gone(r) {
		p.mu.Lock()
		p.done(c, HungUp, now)
		p.mu.Unlock()
		return
	}
	status, body := p.decide(c, form, fault, now)
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body)
	_ = http.NewResponseController(w).Flush()
	p.mu.Lock()
	c.Sent = time.Now()
	p.mu.Unlock()
}

// connection is where a request's context keeps its connection.
type connection struct{}

// gone reports whether the client of a request has hung up. The kernel knows at once; net/http hears of it a moment later, which
// may be long on a busy machine.
func gone(r *http.Request) bool {
	conn, ok := r.Context().Value(connection{}).(syscall.Conn)
	if !ok || r.Context().Err() != nil {
		return true
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return true
	}
	closed := true
	_ = raw.Control(func(fd uintptr) {
		n, _, err := syscall.Recvfrom(int(fd), make([]byte, 1), syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		closed = n <= 0 && !errors.Is(err, syscall.EAGAIN)
	})
	return closed
}

// readToken reads a token request, and says what is wrong with it.
func readToken(r *http.Request) (form url.Values, fault string) {
	body, err := io.ReadAll(io.LimitReader(r.Body, 1<<16))
	if err != nil {
		return nil, "the body was cut off"
	}
	id, pass, ok := r.BasicAuth()
	form, err = url.ParseQuery(string(body))
	switch {
	case r.Method != http.MethodPost:
		return form, "not a POST"
	case r.Header.Get("Content-Type") != "application/x-www-form-urlencoded":
		return form, "not a form"
	case err != nil:
		return form, "a form that is malformed"
	case r.URL.RawQuery != "":
		return form, "parameters in the query"
	case !ok || id != ClientID || pass != ClientSecret:
		return form, "client authentication"
	}
	for name, values := range form {
		if len(values) != 1 {
			return form, "repeated " + name
		}
	}
	return form, ""
}

// decide does what a token request asks for.
func (p *Provider) decide(c *Call, form url.Values, fault string, now time.Time) (int, any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c.Grant = form.Get("grant_type")
	refuse := func(o Outcome, code, description string) (int, any) {
		p.done(c, o, now)
		return http.StatusBadRequest, map[string]string{"error": code, "error_description": description}
	}
	switch {
	case fault != "":
		return refuse(Malformed, "invalid_request", fault)
	case c.Grant == codeGrant:
		if !p.codes[form.Get("code")] || form.Get("redirect_uri") != RedirectURI {
			return refuse(Unknown, "invalid_grant", "the code is not valid")
		}
		p.codes[form.Get("code")] = false
		p.families++
		c.Family = p.families
		p.done(c, Issued, now)
		return http.StatusOK, p.newPair(&family{number: p.families}, 1)
	case c.Grant != refreshGrant:
		return refuse(Malformed, "unsupported_grant_type", "")
	}
	p.counts.Refreshes++
	t := p.refreshes[form.Get("refresh_token")]
	if t == nil {
		return refuse(Unknown, "invalid_grant", "the refresh token is not valid")
	}
	c.Family, c.Generation = t.family.number, t.generation
	outcome := Issued
	switch {
	case t.family.revoked:
		return refuse(Revoked, "invalid_grant", "the grant is revoked")
	case !t.used.IsZero() && !p.graceful(t):
		t.family.revoked = true
		return refuse(Reused, "invalid_grant", "the refresh token was used before")
	case !t.used.IsZero():
		outcome = Reissued
	default:
		t.used = time.Now()
	}
	pr := p.newPair(t.family, t.generation+1)
	t.successors = append(t.successors, p.refreshes[pr.Refresh])
	p.done(c, outcome, now)
	return http.StatusOK, pr
}

// graceful reports whether a used refresh token is taken once more.
func (p *Provider) graceful(t *refreshToken) bool {
	if time.Since(t.used) >= p.settings.Grace {
		return false
	}
	for _, s := range t.successors {
		if !s.used.IsZero() {
			return false
		}
	}
	return true
}

// api is the API: it takes any call with a live token, and tells its grant and generation.
func (p *Provider) api(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	p.counts.API++
	values := r.Header.Values("Authorization")
	var t *accessToken
	if len(values) == 1 && len(values[0]) > len("Bearer ") {
		t = p.accesses[values[0][len("Bearer "):]]
	}
	why := ""
	switch {
	case t == nil:
		why = "never issued"
	case t.revoked(time.Now()):
		why = "revoked"
	case !time.Now().Before(t.expires):
		why = "expired"
	}
	if why != "" {
		p.counts.Unauthorized++
	}
	p.mu.Unlock()
	if why != "" {
		w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer error="invalid_token", error_description="%s"`, why))
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	fmt.Fprintf(w, "%d %d\n", t.family.number, t.generation)
}
