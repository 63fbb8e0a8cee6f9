package provider

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
)

const mondiaPayTokenPath = "/v1/api/oauth/token"

// mondiaPay refuses with a string "error" in the body. It documents 401 and 403 for business reasons alone, so what
// a dead token gets is the nearest of these.
type mondiaPay struct{}

func (mondiaPay) endpoint(r *http.Request) Endpoint {
	if r.URL.Path == mondiaPayTokenPath {
		return Token
	}
	return API
}

func (mondiaPay) part(Endpoint) Part { return Whole }

func (mondiaPay) fail(status int, code string) *Answer {
	a := jsonAnswer(status, map[string]any{"error": code, "status": status})
	return &a
}

func (d mondiaPay) read(_ *Provider, x *Exchange) (tokenRequest, *Answer) {
	x.wantPost()
	// both are wanted although there is no body
	x.wantContentType(formType)
	x.wantAcceptJSON()
	x.wantNoBody()
	query := x.urlQuery()
	x.wantOnce(query, "grant_type")
	q := tokenRequest{
		grant:    query.Get("grant_type"),
		code:     query.Get("code"),
		redirect: query.Get("redirect_uri"),
		holder:   query.Get("uuid"),
	}
	switch q.grant {
	case "authorization_code":
		x.wantOnce(query, "code", "redirect_uri")
	case "user_credentials":
		x.wantOnce(query, "uuid")
	case "client_credentials":
	default:
		x.fault("wrong grant_type")
	}
	id, secret := d.client(x, query)
	if x.broken() {
		return q, d.fail(http.StatusBadRequest, "INVALID_PARAMETERS")
	}
	if !x.rightClient(id, secret) {
		return q, d.fail(http.StatusForbidden, "PERMISSION_DENIED")
	}
	if q.code != "" && !strings.HasPrefix(q.code, "A") {
		return q, d.fail(http.StatusForbidden, "AUTHORIZATION_FAILED")
	}
	return q, nil
}

// client reads the client credentials, from the query or from Basic but not from both.
func (mondiaPay) client(x *Exchange, query url.Values) (id, secret string) {
	if query.Has("client_id") || query.Has("client_secret") {
		x.wantOnce(query, "client_id", "client_secret")
		x.wantNoAuthorization()
		return query.Get("client_id"), query.Get("client_secret")
	}
	id, secret, ok := x.basic()
	if !ok {
		x.fault("no client credentials")
	}
	return id, secret
}

func (d mondiaPay) grant(p *Provider, x *Exchange, q tokenRequest) Answer {
	var t *accessToken
	switch q.grant {
	case "client_credentials":
		t = p.issue("", true, p.newFamily())
	case "user_credentials":
		t = p.issue(q.holder, false, p.newFamily())
	default:
		c, why := p.redeem(x, q.code, q.redirect)
		if c == nil {
			return x.decline(why, *d.fail(http.StatusForbidden, "AUTHORIZATION_FAILED"))
		}
		t = p.issue(c.user, false, c.family)
	}
	x.issued(t)
	expires := p.expiresIn(t)
	if seconds, ok := expires.(int64); ok {
		expires = fmt.Sprintf(" %d ", seconds) // a string with blanks, as the sample has it
	}
	return p.tokenAnswer(map[string]any{
		"access_token": t.value,
		"token_type":   "bearer",
		"expires_in":   expires,
	})
}

func (mondiaPay) admit(*Provider, *Exchange) *Answer { return nil }

func (d mondiaPay) unauthorized() Answer {
	return *d.fail(http.StatusUnauthorized, "AUTHORIZATION_FAILED")
}

func (mondiaPay) echo(e Echo) Answer { return jsonAnswer(http.StatusOK, e) }
