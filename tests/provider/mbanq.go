package provider

import (
	"net/http"
	"strconv"
)

const mbanqTokenPath = "/oauth/token"

// mbanq answers errors in the shape of Fineract, from which its API comes.
type mbanq struct{}

func (mbanq) endpoint(r *http.Request) Endpoint {
	if r.URL.Path == mbanqTokenPath {
		return Token
	}
	return API
}

func (mbanq) part(Endpoint) Part { return Whole }

// fineract makes an error answer.
func fineract(status int, code, message string) Answer {
	return jsonAnswer(status, map[string]any{
		"developerMessage":             message,
		"httpStatusCode":               strconv.Itoa(status),
		"defaultUserMessage":           message,
		"userMessageGlobalisationCode": code,
		"errors":                       []any{},
	})
}

// tenant checks the tenant, which every call must name, by header or by query.
func (mbanq) tenant(p *Provider, x *Exchange) *Answer {
	got := append(x.R.Header.Values("Tenantid"), x.R.URL.Query()["tenantIdentifier"]...)
	if len(got) == 0 {
		x.violation("no tenant")
		a := fineract(http.StatusBadRequest, "error.msg.invalid.tenant.identifier", "No tenant identifier found").
			with("Www-Authenticate", `Basic realm="Fineract Platform API"`)
		return &a
	}
	if len(got) > 1 || got[0] != p.Tenant {
		x.violation("wrong tenant")
		a := fineract(http.StatusUnauthorized, "error.msg.invalid.tenant.identifier", "Invalid tenant identifier")
		return &a
	}
	return nil
}

func (d mbanq) read(p *Provider, x *Exchange) (tokenRequest, *Answer) {
	if a := d.tenant(p, x); a != nil {
		return tokenRequest{}, a
	}
	x.wantPost()
	x.wantContentType(formType)
	x.wantNoQuery("tenantIdentifier")
	x.wantNoAuthorization()
	form := x.form()
	x.wantOnce(form, "grant_type", "client_id", "client_secret")
	q := tokenRequest{
		grant:    form.Get("grant_type"),
		username: form.Get("username"),
		password: form.Get("password"),
		refresh:  form.Get("refresh_token"),
	}
	switch q.grant {
	case "password":
		x.wantOnce(form, "username", "password")
		x.wantSomeHeader(p.settings.ipHeader)
		x.wantSomeHeader(p.settings.deviceHeader)
	case "refresh_token":
		x.wantOnce(form, "refresh_token")
	default:
		x.fault("wrong grant_type")
	}
	if x.broken() {
		a := fineract(http.StatusBadRequest, "validation.msg.validation.errors.exist", "Validation errors exist.")
		return q, &a
	}
	rightUser := q.grant != "password" || q.username == p.Username && q.password == p.Password
	if !rightUser {
		x.violation("wrong username or password")
	}
	if !x.rightClient(form.Get("client_id"), form.Get("client_secret")) || !rightUser {
		a := d.unauthorized()
		return q, &a
	}
	return q, nil
}

func (d mbanq) grant(p *Provider, x *Exchange, q tokenRequest) Answer {
	var t *accessToken
	var refresh string
	if q.grant == "password" {
		t = p.issue(q.username, false, p.newFamily())
		refresh = p.issueRefresh(t)
	} else {
		rt := p.useRefresh(x, q.refresh)
		if rt == nil {
			return x.decline("refresh token revoked", d.unauthorized())
		}
		t, refresh = p.refresh(q.refresh, rt)
	}
	x.issued(t)
	// no token_type: it was never seen in an answer
	return p.tokenAnswer(map[string]any{
		"access_token":  t.value,
		"refresh_token": refresh,
		"expires_in":    p.expiresIn(t),
		"scope":         "all",
	})
}

func (d mbanq) admit(p *Provider, x *Exchange) *Answer { return d.tenant(p, x) }

func (mbanq) unauthorized() Answer {
	return fineract(http.StatusUnauthorized, "error.msg.not.authenticated", "Unauthenticated. Please login.")
}

func (mbanq) echo(e Echo) Answer { return jsonAnswer(http.StatusOK, e) }
