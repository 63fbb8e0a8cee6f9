package provider

import (
	"net/http"
	"net/url"
	"strings"
)

const (
	monPayTokenPath = "/v2/oauth/token"
	monPayAPIPrefix = "/v2/api/oauth/"
)

// monPay names its token errors by status, and wraps every API answer in an envelope.
type monPay struct{}

func (monPay) endpoint(r *http.Request) Endpoint {
	if r.URL.Path == monPayTokenPath {
		return Token
	}
	return API
}

func (monPay) part(Endpoint) Part { return Whole }

// fail gives one of the five documented errors.
func (monPay) fail(status int, name, message string) *Answer {
	a := jsonAnswer(status, oauthError(name, message))
	return &a
}

func (d monPay) read(p *Provider, x *Exchange) (tokenRequest, *Answer) {
	x.wantPost()
	x.wantContentType(formType)
	x.wantNoAuthorization()
	values := x.form()
	if len(x.body) == 0 && x.urlQuery().Get("grant_type") == "client_credentials" {
		// the deep-link product is documented with its parameters in the query
		values = x.urlQuery()
	} else {
		x.wantNoQuery()
	}
	x.wantOnce(values, "grant_type", "client_id", "client_secret")
	q := tokenRequest{
		grant:    values.Get("grant_type"),
		code:     values.Get("code"),
		redirect: values.Get("redirect_uri"),
	}
	if q.grant == "authorization_code" {
		x.wantOnce(values, "code", "redirect_uri")
	}
	if x.broken() {
		return q, d.fail(http.StatusBadRequest, "invalid_request", "Bad request")
	}
	if !x.rightClient(values.Get("client_id"), values.Get("client_secret")) {
		return q, d.fail(http.StatusUnauthorized, "unauthorized_client", "Invalid client_id or client_secret")
	}
	if q.grant != "authorization_code" && q.grant != "client_credentials" {
		x.violation("wrong grant_type")
		return q, d.fail(http.StatusUnsupportedMediaType, "unsupported_grant_type", "Unsupported type")
	}
	if q.grant == "authorization_code" && !sameSite(q.redirect, p.RedirectURI) {
		x.violation("wrong redirect_uri")
		return q, d.fail(http.StatusBadRequest, "invalid_request", "Bad request")
	}
	return q, nil
}

// sameSite tells whether scheme and domain match, which is all that MonPay compares.
func sameSite(a, b string) bool {
	left, err := url.Parse(a)
	if err != nil {
		return false
	}
	right, err := url.Parse(b)
	return err == nil && left.Scheme == right.Scheme && left.Host == right.Host
}

func (d monPay) grant(p *Provider, x *Exchange, q tokenRequest) Answer {
	var t *accessToken
	if q.grant == "client_credentials" {
		t = p.issue("", true, p.newFamily())
	} else {
		c, why := p.redeem(x, q.code, p.RedirectURI)
		if c == nil {
			return x.decline(why, *d.fail(http.StatusForbidden, "invalid_grant", "Invalid code"))
		}
		t = p.issue(c.user, false, c.family)
	}
	x.issued(t)
	fields := map[string]any{
		"access_token": t.value,
		"token_type":   "Bearer",
		// given, and not to be used: the endpoint takes no grant of that type
		"refresh_token": p.issueRefresh(t),
		"expires_in":    p.expiresIn(t),
	}
	if p.settings.nested {
		return p.tokenAnswer(map[string]any{"code": "OK", "intCode": 0, "info": "success", "result": fields})
	}
	return p.tokenAnswer(fields)
}

func (monPay) admit(_ *Provider, x *Exchange) *Answer {
	if strings.HasPrefix(x.R.URL.Path, monPayAPIPrefix) {
		return nil
	}
	x.violation("the API is under %s", monPayAPIPrefix)
	a := jsonAnswer(http.StatusNotFound, envelope("NOT_FOUND", 4, nil))
	return &a
}

func (monPay) unauthorized() Answer {
	return jsonAnswer(http.StatusUnauthorized, envelope("UNAUTHORIZED", 1, nil))
}

// echo answers in the envelope, in which intCode 0 is success.
func (monPay) echo(e Echo) Answer { return jsonAnswer(http.StatusOK, envelope("OK", 0, e)) }

func envelope(code string, intCode int, result any) map[string]any {
	return map[string]any{"code": code, "intCode": intCode, "info": code, "result": result}
}
