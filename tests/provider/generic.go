package provider

import (
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"net/url"
)

// generic follows the letter of RFC 6749 and RFC 7636.
type generic struct{}

func (generic) endpoint(r *http.Request) Endpoint {
	switch r.URL.Path {
	case "/token":
		return Token
	case "/authorize":
		return Authorize
	}
	return API
}

func (generic) part(e Endpoint) Part {
	if e == API {
		return GatewayPart
	}
	return AuthPart
}

// oauthError is the body of an error answer in the sense of RFC 6749, section 5.2.
func oauthError(code, description string) map[string]any {
	return map[string]any{"error": code, "error_description": description}
}

func (generic) fail(code, description string) *Answer {
	status := http.StatusBadRequest
	if code == "invalid_client" {
		status = http.StatusUnauthorized
	}
	a := jsonAnswer(status, oauthError(code, description))
	if status == http.StatusUnauthorized {
		a = a.with("Www-Authenticate", `Basic realm="token"`)
	}
	return &a
}

func (d generic) read(p *Provider, x *Exchange) (tokenRequest, *Answer) {
	x.wantPost()
	x.wantContentType(formType)
	x.wantNoQuery()
	form := x.form()
	for name, values := range form {
		if len(values) != 1 {
			x.fault("parameter %s is repeated", name)
		}
	}
	x.wantOnce(form, "grant_type")
	q := tokenRequest{
		grant:    form.Get("grant_type"),
		code:     form.Get("code"),
		redirect: form.Get("redirect_uri"),
		verifier: form.Get("code_verifier"),
		username: form.Get("username"),
		password: form.Get("password"),
		refresh:  form.Get("refresh_token"),
	}
	wanted := map[string][]string{
		"authorization_code": {"code", "redirect_uri"},
		"password":           {"username", "password"},
		"refresh_token":      {"refresh_token"},
		"client_credentials": {},
	}
	names, known := wanted[q.grant]
	x.wantOnce(form, names...)
	if x.broken() {
		return q, d.fail("invalid_request", "malformed token request")
	}
	if !d.client(p, x, form) {
		return q, d.fail("invalid_client", "client authentication failed")
	}
	if !known {
		x.violation("wrong grant_type")
		return q, d.fail("unsupported_grant_type", "unsupported grant type")
	}
	return q, nil
}

// client authenticates the client, by the registered method if one is set.
func (generic) client(p *Provider, x *Exchange, form url.Values) bool {
	hasBasic, hasPost := len(x.R.Header.Values("Authorization")) > 0, form.Has("client_secret")
	switch method := p.settings.clientAuth; {
	case hasBasic && hasPost:
		x.violation("two client authentications at once")
		return false
	case method == "none":
		if hasBasic || hasPost || form.Get("client_id") != p.ClientID {
			x.violation("wrong client, or a secret from a public one")
			return false
		}
		return true
	case method == "client_secret_basic" && hasPost, method == "client_secret_post" && hasBasic:
		x.violation("client authentication is not the registered %s", method)
		return false
	case hasPost:
		return x.rightClient(form.Get("client_id"), form.Get("client_secret"))
	}
	id, secret, ok := x.basic()
	if !ok {
		x.violation("no client authentication")
		return false
	}
	return x.rightClient(id, secret)
}

func (d generic) grant(p *Provider, x *Exchange, q tokenRequest) Answer {
	var t *accessToken
	var refresh string
	switch q.grant {
	case "client_credentials":
		t = p.issue("", true, p.newFamily())
	case "password":
		if (q.username != p.Username && !p.settings.anyUser) || q.password != p.Password {
			x.violation("wrong username or password")
			return *d.fail("invalid_grant", "bad credentials")
		}
		t = p.issue(q.username, false, p.newFamily())
		refresh = p.issueRefresh(t)
	case "authorization_code":
		c, why := p.redeem(x, q.code, q.redirect)
		if c != nil && !verified(c.challenge, q.verifier) {
			x.violation("code_verifier does not match")
			c, why = nil, "code_verifier does not match"
		}
		if c == nil {
			return x.decline(why, *d.fail("invalid_grant", "the code is not valid"))
		}
		t = p.issue(c.user, false, c.family)
		refresh = p.issueRefresh(t)
	default:
		rt := p.useRefresh(x, q.refresh)
		if rt == nil {
			return x.decline("refresh token revoked", *d.fail("invalid_grant", "the refresh token is not valid"))
		}
		t, refresh = p.refresh(q.refresh, rt)
		if refresh == q.refresh {
			refresh = "" // RFC 6749, section 6: absent where the old one stays
		}
	}
	x.issued(t)
	fields := map[string]any{"access_token": t.value, "token_type": "Bearer", "expires_in": p.expiresIn(t)}
	if refresh != "" {
		fields["refresh_token"] = refresh
	}
	return p.tokenAnswer(fields)
}

// verified checks a PKCE verifier. A code that was issued without a challenge wants no verifier.
func verified(challenge, verifier string) bool {
	if challenge == "" {
		return true
	}
	sum := sha256.Sum256([]byte(verifier))
	return base64.RawURLEncoding.EncodeToString(sum[:]) == challenge
}

func (generic) admit(*Provider, *Exchange) *Answer { return nil }

func (generic) unauthorized() Answer {
	return jsonAnswer(http.StatusUnauthorized, oauthError("invalid_token", "the access token is not valid")).
		with("Www-Authenticate", `Bearer error="invalid_token"`)
}

func (generic) echo(e Echo) Answer { return jsonAnswer(http.StatusOK, e) }
