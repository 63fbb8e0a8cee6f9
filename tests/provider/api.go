package provider

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// Echo is what the API answers to a call that it let through.
type Echo struct {
	Provider string              `json:"provider"`
	Method   string              `json:"method"`
	Host     string              `json:"host"`
	Path     string              `json:"path"`
	Query    string              `json:"query"`
	SHA256   string              `json:"sha256"`
	Length   int64               `json:"length"`
	Header   map[string][]string `json:"header"`
	// Holder and Serial tell whose token came with the call and which it was; the token itself never comes back.
	Holder string `json:"holder"`
	Serial int    `json:"serial"`
	Client bool   `json:"client"`
}

// admitCall checks an API call. Nil lets it through. The lock is held.
func (p *Provider) admitCall(x *Exchange) *Answer {
	refuse := func(why string) *Answer {
		a := x.decline(why, p.dialect.unauthorized())
		return &a
	}
	value, fault := bearerOf(x.R.Header)
	if fault != "" {
		x.violation("%s", fault)
		return refuse(fault)
	}
	t := p.tokens[value]
	if t == nil {
		x.violation("a token that was never issued")
		return refuse("a token that was never issued")
	}
	x.token = t
	x.call.Holder, x.call.Serial = t.holder, t.serial
	// the provider's other rules hold for a dead token too, so that a script cannot hide a breach
	if a := p.dialect.admit(p, x); a != nil {
		return a
	}
	if !t.live(time.Now()) {
		return refuse("token expired or revoked")
	}
	return nil
}

// bearerOf finds the one bearer token of a call, and says what is wrong if there is not exactly one.
//
// Servers differ in which spellings they take for Authorization, so a second one in any spelling is a fault.
func bearerOf(h http.Header) (token, fault string) {
	var values []string
	for name, v := range h {
		switch strings.ReplaceAll(strings.ToLower(name), "_", "-") {
		case "authorization", "authorization-":
			values = append(values, v...)
			if name != "Authorization" {
				return "", "an Authorization header of another spelling"
			}
		case "proxy-authorization":
			return "", "a Proxy-Authorization header"
		}
	}
	switch {
	case len(values) == 0:
		return "", "no Authorization header"
	case len(values) > 1:
		return "", "more than one Authorization header"
	}
	scheme, token, _ := strings.Cut(values[0], " ")
	if scheme != "Bearer" || token == "" || strings.ContainsAny(token, " \t,") {
		return "", "Authorization is not Bearer and one token"
	}
	return token, ""
}

// echo describes the call for its answer. The lock is held.
func (x *Exchange) echo() Echo {
	e := Echo{
		Provider: x.p.kind.String(),
		Method:   x.call.Method,
		Host:     x.call.Host,
		Path:     x.call.Path,
		Query:    x.R.URL.RawQuery,
		SHA256:   x.call.BodySHA256,
		Length:   x.call.BodyLength,
		Header:   map[string][]string{},
	}
	if x.token != nil {
		e.Holder, e.Serial, e.Client = x.token.holder, x.token.serial, x.token.client
	}
	for name, values := range x.call.Header {
		if name == "Authorization" || strings.Contains(strings.Join(values, " "), x.p.canary) {
			continue
		}
		e.Header[name] = values
	}
	return e
}

// authorize answers a Generic provider's authorization endpoint as if a person had logged in and agreed. The lock
// is held.
func (p *Provider) authorize(x *Exchange) Answer {
	q := x.urlQuery()
	x.wantOnce(q, "response_type", "client_id", "redirect_uri", "state", "code_challenge", "code_challenge_method")
	switch {
	case x.R.Method != http.MethodGet:
		x.fault("method is not GET")
	case q.Get("response_type") != "code":
		x.fault("response_type is not code")
	case q.Get("client_id") != p.ClientID:
		x.fault("wrong client_id")
	case q.Get("redirect_uri") != p.RedirectURI:
		x.fault("wrong redirect_uri")
	case q.Get("code_challenge_method") != "S256":
		x.fault("code_challenge_method is not S256")
	}
	if x.broken() {
		return jsonAnswer(http.StatusBadRequest, oauthError("invalid_request", "malformed authorization request"))
	}
	to, err := url.Parse(q.Get("redirect_uri"))
	if err != nil {
		return jsonAnswer(http.StatusBadRequest, oauthError("invalid_request", "malformed redirect_uri"))
	}
	back := to.Query()
	back.Set("code", p.newCode(p.settings.user, q.Get("redirect_uri"), q.Get("code_challenge")))
	back.Set("state", q.Get("state"))
	back.Set("iss", "http://"+x.R.Host)
	to.RawQuery = back.Encode()
	return Answer{Status: http.StatusFound, Header: http.Header{"Location": {to.String()}}}
}

// ReadEcho finds the echo in the body of an answer, in whichever envelope it came.
func ReadEcho(body []byte) (Echo, error) {
	var enveloped struct {
		Echo
		Result *Echo `json:"result"`
	}
	if err := json.Unmarshal(body, &enveloped); err != nil {
		return Echo{}, fmt.Errorf("reading an echo: %w", err)
	}
	if enveloped.Result != nil {
		return *enveloped.Result, nil
	}
	if enveloped.SHA256 == "" {
		return Echo{}, errors.New("reading an echo: there is none in the answer")
	}
	return enveloped.Echo, nil
}
