package tests

import (
	"flag"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-bearer/caddy-bearer/tests/provider"
)

// setup is a sidecar in front of a Generic provider. Each field but the first ones holds further lines for one block of
// the Caddyfile; the zero value is the password grant, which has refresh tokens and needs nobody.
type setup struct {
	eager     bool   // the first token is obtained at the start
	grantType string // password by default
	tokenURL  string // the provider's own by default
	upstream  string // the provider by default

	port string // of the site; any free one by default

	onlyTransport bool // the test is of what only transport bearer can do

	global, grant, source, site, proxy, transport string

	rest string // what follows the site
}

// theAPI stands for the provider's URL in a setup's lines, which are written before it is known.
const theAPI = "THE_API"

// sidecar is a setup running between an app and a provider.
type sidecar struct {
	*place
	*app

	p         *provider.Provider
	api       string // the provider's URL
	address   string // the site's
	caddyfile string
	config    []byte // the same, as it is loaded
}

const sidecarFile = `{
	default_bind 127.0.0.1
	%s
	token_source api {
		%s
		%s
	}
}

http://127.0.0.1:%s {
	%s
	%s
}
`

// throughHandler and throughTransport are the two ways to the API.
const (
	throughHandler   = "bearer api %s {\n\t\t%s\n\t}"
	throughTransport = "reverse_proxy %s {\n\t\t%s\n\t\ttransport bearer api {\n\t\t\t%s\n\t\t}\n\t}"
)

// way is which of the two the tests take.
var way = flag.String("way", "handler", "how requests go to the API: through the handler, or the `transport` of reverse_proxy")

// out is the site's way to the API. The lines for reverse_proxy itself are for that alone.
func (c *setup) out() string {
	if *way == "transport" || c.onlyTransport {
		return fmt.Sprintf(throughTransport, c.upstream, c.proxy, c.transport)
	}
	return fmt.Sprintf(throughHandler, c.upstream, c.transport)
}

// away is the problem of an API that does not respond, by its status. From reverse_proxy there is none.
func (s *sidecar) away(status int) string {
	switch {
	case strings.Contains(s.caddyfile, "reverse_proxy"):
		return ""
	case status == http.StatusGatewayTimeout:
		return "upstream-timeout"
	}
	return "upstream-unreachable"
}

// newSidecar sets up everything but Caddy itself. The test fails if the provider has seen a violation when it ends.
func newSidecar(t *testing.T, c setup) *sidecar {
	t.Helper()
	return newSidecarOf(t, provider.New(provider.Generic), c)
}

// sourceOptions are the source's. Most tests count token calls, and so the first
// one is made for a request.
func (c *setup) sourceOptions() string {
	if c.eager {
		return c.source
	}
	return c.source + "\nlazy"
}

// newSidecarOf is newSidecar with a provider that the test has made itself.
func newSidecarOf(t *testing.T, p *provider.Provider, c setup) *sidecar {
	t.Helper()
	s := &sidecar{place: newPlace(t), p: p}
	s.api = serve(t, s.p, provider.Whole)
	port := c.port
	if port == "" {
		port = freePort(t)
	}
	s.address = "127.0.0.1:" + port
	s.app = newApp(t, "http://"+s.address)
	s.client.Transport = s.after
	setenv(t, secretsOf(s.p))
	if c.tokenURL == "" {
		c.tokenURL = s.api + "/token"
	}
	if c.upstream == "" {
		c.upstream = s.api
	}
	text := fmt.Sprintf(sidecarFile, c.global, grantText(s.p, c.grantType, c.tokenURL, c.grant), c.sourceOptions(), port, c.site,
		c.out()) + c.rest
	text = strings.ReplaceAll(text, theAPI, s.api)
	s.caddyfile = string(caddyfile.Format([]byte(text)))
	s.config = s.contain(t, adapt(t, "sidecar.caddyfile", []byte(s.caddyfile)))
	t.Cleanup(func() {
		for _, v := range s.p.Violations() {
			t.Errorf("violation: %s", v)
		}
	})
	return s
}

// launch is newSidecar with Caddy running, and the canaries looked for at the end.
func launch(t *testing.T, c setup) *sidecar {
	t.Helper()
	s := newSidecar(t, c)
	s.start(t)
	return s
}

// start runs Caddy, and has the canaries looked for at the end.
func (s *sidecar) start(t *testing.T) {
	t.Helper()
	s.load(t, s.config)
	t.Cleanup(func() {
		s.searchCanaries(t, s.p, map[string]string{"problem answers": s.problems.String()})
	})
}

// secretsOf is what the setups take from the environment.
func secretsOf(p *provider.Provider) map[string]string {
	return map[string]string{"TEST_CLIENT_SECRET": p.ClientSecret, "TEST_PASSWORD": p.Password}
}

// grantText is the block of a grant.
func grantText(p *provider.Provider, grantType, tokenURL, more string) string {
	own := ""
	switch grantType {
	case "", "password":
		grantType = "password"
		own = "username " + p.Username + "\n\t\t\tpassword {env.TEST_PASSWORD}"
	case "refresh_token":
		own = "refresh_token {env.TEST_REFRESH_TOKEN}"
	}
	return fmt.Sprintf(`grant %s {
			token_url %s
			client_id %s
			client_secret {env.TEST_CLIENT_SECRET}
			%s
			%s
		}`, grantType, tokenURL, p.ClientID, own, more)
}

// get makes a GET to the API.
func (s *sidecar) get(t *testing.T) answer {
	t.Helper()
	return s.call(t, http.MethodGet, "/things", nil, "")
}

// post makes a POST to the API.
func (s *sidecar) post(t *testing.T, body string) answer {
	t.Helper()
	return s.call(t, http.MethodPost, "/things", http.Header{"Content-Type": {"text/plain"}}, body)
}

// records lists the files of stored tokens.
func (w *place) records(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(w.storage(), "token_sources", "*", "*.json"))
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// logged is all that Caddy has logged so far.
func (w *place) logged(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(w.log)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// wantLogged waits until the log has said something: it is written after the answer is.
func (w *place) wantLogged(t *testing.T, text string) {
	t.Helper()
	eventually(t, "the log says "+text, func() bool { return strings.Contains(w.logged(t), text) })
}

// metric reads one metric, by its name and labels as they are exposed; "" where it is not there.
func (w *place) metric(t *testing.T, name string) string {
	t.Helper()
	for line := range strings.Lines(w.scrape(t)) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// mangled serves a provider's token endpoint through something that changes its answers.
func mangled(t *testing.T, p *provider.Provider, change func(http.ResponseWriter, *httptest.ResponseRecorder)) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer := httptest.NewRecorder()
		p.ServeHTTP(answer, r)
		change(w, answer)
	}))
	t.Cleanup(server.Close)
	return server.URL + "/token"
}

// counting is a server that ought not to be called.
func counting(t *testing.T, hits func(*http.Request)) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { hits(r) }))
	t.Cleanup(server.Close)
	return server.URL
}

// countLines counts the lines that hold a text.
func countLines(text, what string) int {
	n := 0
	for line := range strings.Lines(text) {
		if strings.Contains(line, what) {
			n++
		}
	}
	return n
}

// hostOf is the host and port of a URL.
func hostOf(t *testing.T, text string) string {
	t.Helper()
	u, err := url.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return u.Host
}

// listen opens a port until the test ends.
func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// dial opens a connection of the test's own.
func dial(t *testing.T, address string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(hang)); err != nil {
		t.Fatal(err)
	}
	return conn
}
