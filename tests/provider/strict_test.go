package provider_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/caddy-bearer/caddy-bearer/tests/provider"
)

// spoiled is one way to get a token request wrong, and the status of the refusal.
type spoiled struct {
	name   string
	spoil  func(p *provider.Provider, c *call)
	status int
}

// toQuery moves a parameter from the form to the query.
func toQuery(name string) func(*provider.Provider, *call) {
	return func(_ *provider.Provider, c *call) {
		c.query = values(name, c.form.Get(name))
		c.form.Del(name)
	}
}

func dropHeader(name string) func(*provider.Provider, *call) {
	return func(_ *provider.Provider, c *call) { c.header.Del(name) }
}

func setHeader(name, value string) func(*provider.Provider, *call) {
	return func(_ *provider.Provider, c *call) { c.header.Set(name, value) }
}

// setParam sets a parameter wherever the kind has its parameters.
func setParam(name, value string) func(*provider.Provider, *call) {
	return func(_ *provider.Provider, c *call) {
		if c.form != nil {
			c.form.Set(name, value)
		} else {
			c.query.Set(name, value)
		}
	}
}

func repeatParam(name string) func(*provider.Provider, *call) {
	return func(_ *provider.Provider, c *call) {
		if c.form != nil {
			c.form.Add(name, c.form.Get(name))
		} else {
			c.query.Add(name, c.query.Get(name))
		}
	}
}

func asGet(_ *provider.Provider, c *call) { c.method = "GET" }

// asJSON sends the parameters as JSON.
func asJSON(_ *provider.Provider, c *call) {
	c.form, c.json = nil, `{"grant_type":"client_credentials"}`
	c.header.Set("Content-Type", "application/json")
}

func addBasic(p *provider.Provider, c *call) {
	r, _ := http.NewRequest("POST", "/", nil)
	r.SetBasicAuth(p.ClientID, p.ClientSecret)
	c.header.Set("Authorization", r.Header.Get("Authorization"))
}

// spent presents the code once before.
func spent(p *provider.Provider, c *call) {
	again := *c
	again.header = c.header.Clone()
	r, _ := http.NewRequest(again.method, "http://provider.test"+again.url+"?"+again.query.Encode(),
		strings.NewReader(again.form.Encode()))
	r.Header = again.header
	resp, err := p.RoundTrip(r)
	if err == nil {
		resp.Body.Close()
	}
}

var refused = map[provider.Kind][]spoiled{
	provider.Generic: {
		{"method", asGet, 400},
		{"content type", setHeader("Content-Type", "text/plain"), 400},
		{"json", asJSON, 400},
		{"in the query", toQuery("grant_type"), 400},
		{"repeated", repeatParam("grant_type"), 400},
		{"secret", setParam("client_secret", "x"), 401},
		{"two authentications", addBasic, 401},
		{"grant", setParam("grant_type", "x"), 400},
	},
	provider.Mondia: {
		{"method", asGet, 400},
		{"content type", setHeader("Content-Type", "application/json"), 400},
		{"accept", dropHeader("Accept"), 400},
		{"no key", dropHeader("X-Api-Key"), 403},
		{"wrong key", setHeader("X-Api-Key", "x"), 403},
		{"in the query", toQuery("client_secret"), 400},
		{"basic", addBasic, 400},
		{"json", asJSON, 400},
		{"secret", setParam("client_secret", "x"), 401},
		{"grant", setParam("grant_type", "password"), 400},
	},
	provider.MondiaPay: {
		{"method", asGet, 400},
		{"content type", dropHeader("Content-Type"), 400},
		{"accept", setHeader("Accept", "*/*"), 400},
		{"in the body", func(_ *provider.Provider, c *call) { c.form, c.query = c.query, nil }, 400},
		{"in both", func(_ *provider.Provider, c *call) { c.form = c.query }, 400},
		{"secret", setParam("client_secret", "x"), 403},
		{"two authentications", addBasic, 400},
		{"redirect", setParam("redirect_uri", "https://other.example/"), 403},
		{"code twice", spent, 403},
		{"grant", setParam("grant_type", "refresh_token"), 400},
	},
	provider.MonPay: {
		{"method", asGet, 400},
		{"content type", setHeader("Content-Type", "application/json"), 400},
		{"in the query", toQuery("code"), 400},
		{"basic", addBasic, 400},
		{"secret", setParam("client_secret", "x"), 401},
		{"redirect", setParam("redirect_uri", "http://app.example/monpay"), 400},
		{"code twice", spent, 403},
		{"grant", setParam("grant_type", "refresh_token"), 415},
	},
	provider.Mbanq: {
		{"method", asGet, 400},
		{"content type", setHeader("Content-Type", "text/plain"), 400},
		{"no tenant", dropHeader("tenantId"), 400},
		{"wrong tenant", setHeader("tenantId", "x"), 401},
		{"no address", dropHeader("X-Forwarded-For"), 400},
		{"no device", dropHeader("X-Device-Id"), 400},
		{"in the query", toQuery("password"), 400},
		{"basic", addBasic, 400},
		{"secret", setParam("client_secret", "x"), 401},
		{"password", setParam("password", "x"), 401},
		{"grant", setParam("grant_type", "client_credentials"), 400},
	},
}

func TestWrongTokenRequestsAreRefused(t *testing.T) {
	for kind, cases := range refused {
		for _, tt := range cases {
			t.Run(kind.String()+"/"+tt.name, func(t *testing.T) {
				p := provider.New(kind)
				c := good(p)
				tt.spoil(p, &c)
				status, fields := c.send(t, p)
				if status != tt.status {
					t.Errorf("status %d, want %d: %v", status, tt.status, p.Violations())
				}
				if fields["access_token"] != nil {
					t.Error("a token was given")
				}
				if len(p.Violations()) == 0 {
					t.Error("no violation was noted")
				}
			})
		}
	}
}

func TestErrorShapes(t *testing.T) {
	for kind, want := range map[provider.Kind]string{
		provider.Generic:   "error",
		provider.Mondia:    "error",
		provider.MondiaPay: "error",
		provider.MonPay:    "intCode",
		provider.Mbanq:     "userMessageGlobalisationCode",
	} {
		p := provider.New(kind)
		_, fields := goodAPI(p, "never-issued").send(t, p)
		if fields[want] == nil {
			t.Errorf("%s: no %s in %v", kind, want, fields)
		}
	}
}

func TestMbanqTenantMayBeInTheQuery(t *testing.T) {
	p := provider.New(provider.Mbanq)
	c := good(p)
	c.header.Del("tenantId")
	c.query = values("tenantIdentifier", p.Tenant)
	if status, _ := c.send(t, p); status != http.StatusOK {
		t.Errorf("status %d: %v", status, p.Violations())
	}
}

func TestUnknownCodeIsRefusedWithoutBlame(t *testing.T) {
	for kind, want := range map[provider.Kind]int{provider.MondiaPay: 403, provider.MonPay: 403} {
		p := provider.New(kind)
		c := good(p)
		setParam("code", "Anonsense")(p, &c)
		if status, _ := c.send(t, p); status != want {
			t.Errorf("%s: status %d", kind, status)
		}
		if v := p.Violations(); len(v) != 0 {
			t.Errorf("%s: %v", kind, v)
		}
	}
}

func TestMondiaTellsClientsFromUsers(t *testing.T) {
	p := provider.New(provider.Mondia)
	_, fields := good(p).send(t, p)
	client, _ := fields["access_token"].(string)
	if !strings.HasPrefix(client, "C") {
		t.Errorf("a client token begins with C, not with %.1s", client)
	}
	if status, _ := goodAPI(p, client).send(t, p); status != http.StatusUnauthorized {
		t.Errorf("client token at the API: status %d", status)
	}
	_, fields = mondiaUser(client).send(t, p)
	user, _ := fields["access_token"].(string)
	if status, _ := mondiaUser(user).send(t, p); status != http.StatusUnauthorized {
		t.Errorf("user token at user creation: status %d", status)
	}
	if n := len(p.TakeViolations()); n != 2 {
		t.Errorf("%d violations, want 2", n)
	}
	extra := mondiaUser(client)
	extra.json = `{"identityValue":"1","identityType":"EMAIL","grant_type":"x"}`
	if status, _ := extra.send(t, p); status != http.StatusBadRequest {
		t.Errorf("unknown field: status %d", status)
	}
	p.TakeViolations()
	p.RevokeClientTokens()
	if status, _ := mondiaUser(client).send(t, p); status != http.StatusUnauthorized {
		t.Errorf("revoked client token: status %d", status)
	}
	if status, _ := goodAPI(p, user).send(t, p); status != http.StatusOK {
		t.Errorf("the user token died with the client's: status %d", status)
	}
	if v := p.Violations(); len(v) != 0 {
		t.Errorf("violations: %v", v)
	}
}

func TestMondiaHostsAreApart(t *testing.T) {
	p := provider.New(provider.Mondia)
	c := good(p)
	r, _ := http.NewRequest(c.method, "http://gateway.test"+c.url, strings.NewReader(c.form.Encode()))
	r.Header = c.header
	resp, err := p.PartRoundTripper(provider.GatewayPart).RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusNotFound || len(p.Violations()) != 1 {
		t.Errorf("status %d, violations %v", resp.StatusCode, p.Violations())
	}
}
