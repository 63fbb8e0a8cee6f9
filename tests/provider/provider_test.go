package provider_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/caddy-bearer/caddy-bearer/tests/provider"
)

// call is a request in the making, and the answer to it.
type call struct {
	method, url string
	header      http.Header
	query       url.Values
	form        url.Values
	json        string
}

// send makes the call in memory and gives the status and the decoded answer.
func (c call) send(t *testing.T, p *provider.Provider) (int, map[string]any) {
	t.Helper()
	body := c.json
	if c.form != nil {
		body = c.form.Encode()
	}
	target := "http://provider.test" + c.url
	if len(c.query) > 0 {
		target += "?" + c.query.Encode()
	}
	r := httptest.NewRequestWithContext(t.Context(), c.method, target, strings.NewReader(body))
	r.Header = c.header.Clone()
	resp, err := p.RoundTrip(r)
	if err != nil {
		t.Fatalf("%s %s: %v", c.method, c.url, err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%s %s: reading the answer: %v", c.method, c.url, err)
	}
	fields := map[string]any{}
	if err := json.Unmarshal(text, &fields); err != nil {
		t.Fatalf("%s %s: status %d: %v in %q", c.method, c.url, resp.StatusCode, err, text)
	}
	return resp.StatusCode, fields
}

// headers makes a header of pairs.
func headers(pairs ...string) http.Header {
	h := http.Header{}
	for i := 0; i < len(pairs); i += 2 {
		h.Add(pairs[i], pairs[i+1])
	}
	return h
}

// values makes parameters of pairs.
func values(pairs ...string) url.Values {
	v := url.Values{}
	for i := 0; i < len(pairs); i += 2 {
		v.Add(pairs[i], pairs[i+1])
	}
	return v
}

// good gives a well-formed token request of each kind.
func good(p *provider.Provider) call {
	form := "application/x-www-form-urlencoded"
	client := []string{"client_id", p.ClientID, "client_secret", p.ClientSecret}
	switch p.Kind() {
	case provider.Mondia:
		return call{
			method: "POST", url: "/api/marketplace/auth/token",
			header: headers("Content-Type", form, "Accept", "application/json", "X-Api-Key", p.APIKey),
			form:   values(append(client, "grant_type", "client_credentials")...),
		}
	case provider.MondiaPay:
		return call{
			method: "POST", url: "/v1/api/oauth/token",
			header: headers("Content-Type", form, "Accept", "application/json"),
			query: values(append(client, "grant_type", "authorization_code", "code", p.NewCode("42"),
				"redirect_uri", p.RedirectURI)...),
		}
	case provider.MonPay:
		return call{
			method: "POST", url: "/v2/oauth/token",
			header: headers("Content-Type", form),
			form: values(append(client, "grant_type", "authorization_code", "code", p.NewCode("42"),
				"redirect_uri", p.RedirectURI)...),
		}
	case provider.Mbanq:
		return call{
			method: "POST", url: "/oauth/token",
			header: headers("Content-Type", form, "tenantId", p.Tenant, "X-Forwarded-For", "192.0.2.7",
				"X-Device-Id", "device"),
			form: values(append(client, "grant_type", "password", "username", p.Username,
				"password", p.Password)...),
		}
	case provider.Generic:
	}
	return call{
		method: "POST", url: "/token",
		header: headers("Content-Type", form),
		form:   values(append(client, "grant_type", "client_credentials")...),
	}
}

// goodAPI gives a well-formed API call with a token.
func goodAPI(p *provider.Provider, token string) call {
	c := call{method: "GET", url: "/v1/things", header: headers("Authorization", "Bearer "+token)}
	switch p.Kind() {
	case provider.Mbanq:
		c.header.Set("tenantId", p.Tenant)
	case provider.MonPay:
		c.url = "/v2/api/oauth/things"
	case provider.Generic, provider.Mondia, provider.MondiaPay:
	}
	return c
}

// kinds are all the systems there are.
var kinds = []provider.Kind{
	provider.Generic, provider.Mondia, provider.MondiaPay, provider.MonPay, provider.Mbanq,
}

// tokenFor gets a user's token, or for Generic a client's.
func tokenFor(t *testing.T, p *provider.Provider) string {
	t.Helper()
	status, fields := good(p).send(t, p)
	if status != http.StatusOK {
		t.Fatalf("token request: status %d, %v", status, p.Violations())
	}
	token, _ := fields["access_token"].(string)
	if p.Kind() != provider.Mondia {
		return token
	}
	status, fields = mondiaUser(token).send(t, p)
	if status != http.StatusOK {
		t.Fatalf("user request: status %d, %v", status, p.Violations())
	}
	token, _ = fields["access_token"].(string)
	return token
}

func mondiaUser(clientToken string) call {
	return call{
		method: "POST", url: "/v1/api/oauth/user",
		header: headers("Content-Type", "application/json", "Accept", "application/json",
			"Authorization", "Bearer "+clientToken),
		json: `{"identityValue":"491700","identityType":"MSISDN"}`,
	}
}

func TestGoodCallsPass(t *testing.T) {
	for _, kind := range kinds {
		t.Run(kind.String(), func(t *testing.T) {
			p := provider.New(kind)
			token := tokenFor(t, p)
			if !strings.Contains(token, p.Canary()) && kind != provider.Mbanq {
				t.Error("the token holds no canary")
			}
			status, _ := goodAPI(p, token).send(t, p)
			if status != http.StatusOK {
				t.Errorf("API: status %d", status)
			}
			if v := p.Violations(); len(v) != 0 {
				t.Errorf("violations: %v", v)
			}
			if p.APICount() != 1 || p.APICalls()[0].Status != http.StatusOK || p.APICalls()[0].Serial == 0 {
				t.Errorf("API calls: %+v", p.APICalls())
			}
		})
	}
}

func TestAPIRefusesAnythingButOneLiveToken(t *testing.T) {
	for _, kind := range kinds {
		t.Run(kind.String(), func(t *testing.T) {
			p := provider.New(kind)
			token := tokenFor(t, p)
			for name, spoil := range map[string]func(http.Header){
				"none":             func(h http.Header) { h.Del("Authorization") },
				"empty":            func(h http.Header) { h.Set("Authorization", "") },
				"lower-case":       func(h http.Header) { h.Set("Authorization", "bearer "+token) },
				"raw":              func(h http.Header) { h.Set("Authorization", token) },
				"unknown":          func(h http.Header) { h.Set("Authorization", "Bearer abc") },
				"two":              func(h http.Header) { h.Add("Authorization", "Bearer "+token) },
				"another spelling": func(h http.Header) { h["authorization"] = []string{"Bearer x"} },
				"underscore":       func(h http.Header) { h["Authorization_"] = []string{"Bearer x"} },
				"proxy":            func(h http.Header) { h.Set("Proxy-Authorization", "Basic x") },
			} {
				c := goodAPI(p, token)
				spoil(c.header)
				status, _ := c.send(t, p)
				if status != http.StatusUnauthorized {
					t.Errorf("%s: status %d", name, status)
				}
				if len(p.TakeViolations()) == 0 {
					t.Errorf("%s: no violation", name)
				}
			}
			p.RevokeAccessTokens()
			if status, _ := goodAPI(p, token).send(t, p); status != http.StatusUnauthorized {
				t.Errorf("revoked: status %d", status)
			}
			if v := p.Violations(); len(v) != 0 {
				t.Errorf("a revoked token is no breach: %v", v)
			}
		})
	}
}

// TestAnyUser: the password grant takes every username where that is set, with tokens of the size that is set.
func TestAnyUser(t *testing.T) {
	p := provider.New(provider.Generic)
	login := func() (int, map[string]any) {
		t.Helper()
		return call{method: "POST", url: "/token", header: headers("Content-Type", "application/x-www-form-urlencoded"), form: url.Values{
			"grant_type": {"password"}, "username": {"somebody"}, "password": {p.Password},
			"client_id": {p.ClientID}, "client_secret": {p.ClientSecret},
		}}.send(t, p)
	}
	if status, _ := login(); status != http.StatusBadRequest {
		t.Errorf("a stranger: status %d, want 400", status)
	}
	p.SetAnyUser(true)
	p.SetTokenSize(1000)
	status, fields := login()
	token, _ := fields["access_token"].(string)
	if status != http.StatusOK || len(token) != 1000 {
		t.Fatalf("status %d, a token of %d bytes; want 200 and 1000", status, len(token))
	}
	_, echo := call{method: "GET", url: "/things", header: headers("Authorization", "Bearer "+token)}.send(t, p)
	if echo["holder"] != "somebody" {
		t.Errorf("the token is %v's", echo["holder"])
	}
}
