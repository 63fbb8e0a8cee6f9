package tests

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"

	"github.com/caddy-bearer/caddy-bearer/tests/provider"
)

// contract is one of the contract's four setups, and what an app must know to use it.
type contract struct {
	kind   provider.Kind
	path   string      // a path of the API
	header http.Header // tells the user, where there are several
	holder string      // who the provider then says it is; "" for the account in the configuration
	person bool        // tokens come of a code alone
}

// The contract's setups.
var (
	mondia = contract{
		kind: provider.Mondia,
		path: "/v1/api/subscription",
		header: http.Header{
			"X-Identity-Type": {"MSISDN"}, "X-Identity-Value": {"491700000042"},
		},
		holder: "MSISDN:491700000042",
	}
	mondiaPay = contract{
		kind:   provider.MondiaPay,
		path:   "/v1/api/subscription",
		header: http.Header{"X-Subscriber": {"42"}},
		holder: "42",
		person: true,
	}
	monPay = contract{
		kind:   provider.MonPay,
		path:   "/v2/api/oauth/invoice",
		header: http.Header{"X-Monpay-User": {"42"}},
		holder: "42",
		person: true,
	}
	mbanq = contract{kind: provider.Mbanq, path: "/v1/clients"}

	contracts = []contract{mondia, mondiaPay, monPay, mbanq}
)

// stack is a contract file running between an app and a provider.
type stack struct {
	*place
	*contract
	*app

	p       *provider.Provider
	vars    map[string]string
	config  []byte
	address string
	printed string // by processes
}

// newStack sets up everything but Caddy itself. When the test ends, it fails if the provider saw a violation that the
// test has not taken, or if a secret is to be found where it should not be.
func newStack(t *testing.T, c contract) *stack {
	t.Helper()
	s := &stack{place: newPlace(t), contract: &c, p: provider.New(c.kind)}
	if s.holder == "" {
		s.holder = s.p.Username
	}
	auth := serve(t, s.p, provider.AuthPart)
	gateway := auth
	if c.kind == provider.Mondia {
		gateway = serve(t, s.p, provider.GatewayPart)
	}
	port := freePort(t)
	s.vars = variables(s.p, auth, gateway, port)
	setenv(t, s.vars)
	name := c.kind.String() + ".caddyfile"
	s.config = s.contain(t, adapt(t, name, mustRead(t, "contract", name)))
	s.address = "127.0.0.1:" + port
	s.app = newApp(t, "http://"+s.address)
	s.client.Transport = s.after
	t.Cleanup(func() {
		for _, v := range s.p.Violations() {
			t.Errorf("violation: %s", v)
		}
	})
	return s
}

// start is newStack with Caddy running in this process.
func start(t *testing.T, c contract) *stack {
	t.Helper()
	s := newStack(t, c)
	s.load(t, s.config)
	// after load, so that it runs while the metrics can still be read
	s.searchAtEnd(t)
	return s
}

// searchAtEnd has the canaries looked for when the test ends.
func (s *stack) searchAtEnd(t *testing.T) {
	t.Helper()
	t.Cleanup(func() {
		s.searchCanaries(t, s.p, map[string]string{"problem answers": s.problems.String(), "output": s.printed})
	})
}

// serve puts a part of the provider on a socket.
func serve(t *testing.T, p *provider.Provider, part provider.Part) string {
	t.Helper()
	handler := http.Handler(p)
	if p.Kind() == provider.Mondia {
		handler = p.Part(part)
	}
	server := httptest.NewServer(handler)
	t.Cleanup(func() {
		p.Close()
		server.CloseClientConnections()
		server.Close()
	})
	return server.URL
}

// variables is what the contract file of a provider takes from the environment.
func variables(p *provider.Provider, auth, gateway, port string) map[string]string {
	switch p.Kind() {
	case provider.Mondia:
		return map[string]string{
			"MONDIA_AUTH_URL": auth, "MONDIA_PAY_URL": gateway, "MONDIA_PORT": port,
			"MONDIA_CLIENT_ID": p.ClientID, "MONDIA_CLIENT_SECRET": p.ClientSecret, "MONDIA_API_KEY": p.APIKey,
		}
	case provider.MondiaPay:
		return map[string]string{
			"MONDIAPAY_URL": gateway, "MONDIAPAY_PORT": port, "MONDIAPAY_REDIRECT_URI": p.RedirectURI,
			"MONDIAPAY_CLIENT_ID": p.ClientID, "MONDIAPAY_CLIENT_SECRET": p.ClientSecret,
		}
	case provider.MonPay:
		return map[string]string{
			"MONPAY_URL": gateway, "MONPAY_PORT": port, "MONPAY_REDIRECT_URI": p.RedirectURI,
			"MONPAY_CLIENT_ID": p.ClientID, "MONPAY_CLIENT_SECRET": p.ClientSecret,
		}
	case provider.Mbanq:
		return map[string]string{
			"MBANQ_URL": gateway, "MBANQ_PORT": port, "MBANQ_TENANT": p.Tenant,
			"MBANQ_CLIENT_ID": p.ClientID, "MBANQ_CLIENT_SECRET": p.ClientSecret,
			"MBANQ_USERNAME": p.Username, "MBANQ_PASSWORD": p.Password,
		}
	case provider.Generic:
	}
	return nil
}

// get makes a GET to the API as the contract's user.
func (s *stack) get(t *testing.T) answer {
	t.Helper()
	return s.call(t, http.MethodGet, s.path, s.header, "")
}

// post makes a POST to the API as the contract's user.
func (s *stack) post(t *testing.T, body string) answer {
	t.Helper()
	header := http.Header{"Content-Type": {"text/plain"}}
	for name, values := range s.header {
		header[name] = values
	}
	return s.call(t, http.MethodPost, s.path, header, body)
}

// handOver gives the sidecar a code for the contract's user.
func (s *stack) handOver(t *testing.T, code string) answer {
	t.Helper()
	header := http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}
	for name, values := range s.header {
		header[name] = values
	}
	return s.call(t, http.MethodPost, "/tokens/code", header, url.Values{"code": {code}}.Encode())
}

// authorize hands over a code that the provider will take, where the setup wants one.
func (s *stack) authorize(t *testing.T) {
	t.Helper()
	if !s.person {
		return
	}
	got := s.handOver(t, s.p.NewCode(s.holder))
	if got.status < 200 || got.status > 299 {
		t.Fatalf("handing over a code: status %d: %s", got.status, got.body)
	}
}

// each runs a test with every setup that matches.
func each(t *testing.T, match func(contract) bool, test func(t *testing.T, c contract)) {
	t.Helper()
	for _, c := range contracts {
		if match(c) {
			t.Run(c.kind.String(), func(t *testing.T) { test(t, c) })
		}
	}
}

func all(contract) bool         { return true }
func renewable(c contract) bool { return !c.person }
func personal(c contract) bool  { return c.person }
func keyed(c contract) bool     { return c.header != nil }
