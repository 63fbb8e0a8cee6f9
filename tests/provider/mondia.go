package provider

import (
	"bytes"
	"encoding/json"
	"net/http"
	"slices"
	"time"
)

// Mondia's two token endpoints.
const (
	mondiaTokenPath = "/api/marketplace/auth/token"
	mondiaUserPath  = "/v1/api/oauth/user"
)

const formType = "application/x-www-form-urlencoded"

// mondia documents no errors. What it answers here is what its gateway (403 without a key) and its sibling
// MondiaPay are known to answer.
type mondia struct{}

func (mondia) endpoint(r *http.Request) Endpoint {
	switch r.URL.Path {
	case mondiaTokenPath:
		return Token
	case mondiaUserPath:
		return User
	}
	return API
}

func (mondia) part(e Endpoint) Part {
	if e == Token {
		return AuthPart
	}
	return GatewayPart
}

func (d mondia) read(p *Provider, x *Exchange) (tokenRequest, *Answer) {
	if x.call.Endpoint == User {
		return d.readUser(p, x)
	}
	return d.readToken(p, x)
}

// readToken checks a call to the token endpoint.
func (mondia) readToken(p *Provider, x *Exchange) (tokenRequest, *Answer) {
	if x.R.Header.Get("X-Api-Key") != p.APIKey {
		x.violation("x-api-key is missing or wrong")
		a := jsonAnswer(http.StatusForbidden, map[string]any{"message": "Forbidden"})
		return tokenRequest{}, &a
	}
	x.wantPost()
	x.wantContentType(formType)
	x.wantAcceptJSON()
	x.wantNoQuery()
	x.wantNoAuthorization()
	form := x.form()
	x.wantOnce(form, "grant_type", "client_id", "client_secret")
	q := tokenRequest{grant: form.Get("grant_type"), refresh: form.Get("refresh_token")}
	if q.grant == "refresh_token" {
		x.wantOnce(form, "refresh_token")
	}
	if x.broken() {
		a := jsonAnswer(http.StatusBadRequest, oauthError("INVALID_PARAMETERS", "malformed token request"))
		return q, &a
	}
	if !x.rightClient(form.Get("client_id"), form.Get("client_secret")) {
		a := jsonAnswer(http.StatusUnauthorized, oauthError("invalid_client", "bad client credentials"))
		return q, &a
	}
	if q.grant != "client_credentials" && q.grant != "refresh_token" {
		x.violation("wrong grant_type")
		a := jsonAnswer(http.StatusBadRequest, oauthError("unsupported_grant_type", "unsupported grant type"))
		return q, &a
	}
	return q, nil
}

// readUser checks a call that creates, or gets, a user.
func (d mondia) readUser(p *Provider, x *Exchange) (tokenRequest, *Answer) {
	x.wantPost()
	x.wantContentType("application/json")
	x.wantAcceptJSON()
	x.wantNoQuery()
	var body struct {
		Value string `json:"identityValue"`
		Type  string `json:"identityType"`
	}
	decoder := json.NewDecoder(bytes.NewReader(x.body))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&body); err != nil {
		x.fault("the body is not JSON of identityType and identityValue, both strings, alone")
	} else {
		if body.Value == "" {
			x.fault("identityValue is missing")
		}
		if !slices.Contains([]string{"MSISDN", "EMAIL", "OTHER"}, body.Type) {
			x.fault("identityType is none of MSISDN, EMAIL, OTHER")
		}
	}
	q := tokenRequest{holder: body.Type + ":" + body.Value}
	if x.broken() {
		a := jsonAnswer(http.StatusBadRequest, oauthError("INVALID_PARAMETERS", "malformed user request"))
		return q, &a
	}
	value, fault := bearerOf(x.R.Header)
	t := p.tokens[value]
	switch {
	case fault != "":
		x.violation("%s", fault)
	case t == nil:
		x.violation("a token that was never issued")
	case !t.client:
		x.violation("a user token where the client token belongs")
	case t.live(time.Now()):
		return q, nil
	}
	a := x.decline("client token expired, revoked or wrong", d.unauthorized())
	return q, &a
}

func (mondia) grant(p *Provider, x *Exchange, q tokenRequest) Answer {
	var t *accessToken
	var refresh string
	switch {
	case x.call.Endpoint == User:
		t = p.issue(q.holder, false, p.newFamily())
		refresh = p.issueRefresh(t)
	case q.grant == "client_credentials":
		t = p.issue("", true, p.newFamily())
	default:
		rt := p.useRefresh(x, q.refresh)
		if rt == nil {
			return x.decline("refresh token revoked",
				jsonAnswer(http.StatusBadRequest, oauthError("invalid_grant", "refresh token is not valid")))
		}
		t, refresh = p.refresh(q.refresh, rt)
		if refresh == q.refresh {
			refresh = "" // nothing new is told
		}
	}
	x.issued(t)
	fields := map[string]any{
		"access_token": t.value,
		"token_type":   "bearer",
		"expires_in":   p.expiresIn(t),
		"created":      time.Now().UTC().Format("2006-01-02T15:04:05.000Z"),
	}
	if refresh != "" {
		fields["refresh_token"] = refresh
	}
	return p.tokenAnswer(fields)
}

func (d mondia) admit(_ *Provider, x *Exchange) *Answer {
	if x.token.client {
		x.violation("the client token where a user token belongs")
		a := d.unauthorized()
		return &a
	}
	return nil
}

func (mondia) unauthorized() Answer {
	return jsonAnswer(http.StatusUnauthorized, oauthError("invalid_token", "the access token is not valid"))
}

func (mondia) echo(e Echo) Answer { return jsonAnswer(http.StatusOK, e) }
