package tests

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-bearer/caddy-bearer/tests/provider"
)

// TestAttack16Codes: what a token endpoint writes where its error code should be, or a member's name, is seen nowhere: it
// may be a secret, a key's value, or anything that it makes of them. The search at the end looks for the canary.
func TestAttack16Codes(t *testing.T) {
	for name, c := range map[string]struct {
		status      int
		contentType string
		body        string // CANARY is what must not be seen
		says        string
	}{
		"a code":                     {400, "", `{"error":"CANARY"}`, "status 400, error other, application/json with error"},
		"a listed code, and more":    {400, "", `{"error":"invalid_client.CANARY"}`, "error other"},
		"a nested code":              {400, "", `{"error":{"code":"CANARY"}}`, "error other"},
		"a code beside":              {401, "", `{"code":"xCANARYx","message":"CANARY"}`, "status 401, error other, application/json with code, message"},
		"a code of a form":           {400, "application/x-www-form-urlencoded", `error=CANARY&error_description=CANARY`, "error other"},
		"a code with success":        {200, "", `{"error":"CANARY"}`, "status 200, error other"},
		"no code with success":       {200, "", `{"error":{"code":"invalid_grant"},"code":"CANARY"}`, "status 200, application/json with code, error"},
		"a code while it is down":    {503, "", `{"error":"CANARY"}`, "status 503, error other"},
		"a name":                     {200, "", `{"CANARY":{"access_token":"x"},"data":1}`, "application/json with data and 1 other member"},
		"names":                      {400, "", `{"CANARY":1,"CANARY_token":2,"access_CANARY":3,"result":4}`, "application/json with result and 3 other members"},
		"a name of a form":           {400, "application/x-www-form-urlencoded", `CANARY=1&token=2`, "with token and 1 other member"},
		"a media type":               {502, "application/CANARY", `{}`, "status 502, another content type"},
		"a known one's parameter":    {502, "text/html; charset=CANARY", `<p>`, "status 502, text/html, not JSON"},
		"the names that it may show": {200, "", `{"accessToken":"CANARY","expiresIn":1}`, "application/json with accessToken, expiresIn"},
	} {
		t.Run(name, func(t *testing.T) {
			s := launch(t, setup{grantType: "client_credentials", source: answersAtOnce})
			header := http.Header{}
			if c.contentType != "" {
				header.Set("Content-Type", strings.ReplaceAll(c.contentType, "CANARY", s.p.Canary()))
			}
			s.p.ScriptToken(provider.Always(provider.Status(c.status, header, strings.ReplaceAll(c.body, "CANARY", s.p.Canary()))))
			if got := s.get(t); got.status < 500 {
				t.Errorf("status %d: %s", got.status, got.body)
			}
			s.wantLogged(t, c.says)
		})
	}
}

// TestAttack16LostCode: a code that settings give a meaning to is judged by what it is, and shown in the event by a word
// of the list, or as the settings write it.
func TestAttack16LostCode(t *testing.T) {
	for name, c := range map[string]struct{ code, matcher, shown string }{
		"listed":              {"invalid_grant", "", "invalid_grant"},
		"by a pattern":        {"CANARY_gone", "consent_lost json error *_gone", "other"},
		"named by the config": {"CONSENT_GONE", "consent_lost json error consent_gone", "consent_gone"},
	} {
		t.Run(name, func(t *testing.T) {
			p := provider.New(provider.Generic)
			setup := codes(p, freePort(t))
			setup.source = "refresh_ahead 90%"
			if c.matcher != "" {
				setup.grant += "\nresponse {\n" + c.matcher + "\n}"
			}
			s := watch(t, p, setup)
			p.SetLifetime(8 * time.Second) // soon due, and good for long enough to be looked at
			s.load(t, s.config)
			s.searchAtEnd(t)
			s.handOver(t)
			p.ScriptToken(provider.Always(provider.Status(http.StatusBadRequest, nil, fmt.Sprintf(`{"error":%q}`, strings.ReplaceAll(c.code, "CANARY", p.Canary())))))
			s.wantReady(t, "degraded", "consent_lost")
			s.wantEvents(t, "token_source.lost [error_code:"+c.shown+" source:api]")
			s.wantLogged(t, "error "+c.shown)
		})
	}
}

// TestAttack16Challenge: nor is what the API writes into its challenge seen in the breaker's line.
func TestAttack16Challenge(t *testing.T) {
	for name, c := range map[string]struct{ challenge, says string }{
		"registered": {`Bearer error="invalid_token", error_description="CANARY"`, `"error":"invalid_token"`},
		"another":    {`Bearer error="CANARY"`, `"error":"other"`},
		"unquoted":   {`Bearer error=CANARY`, `"error":"other"`},
		"scheme":     {`CANARY error="xCANARYx"`, `"error":"other"`},
	} {
		t.Run(name, func(t *testing.T) {
			s := launch(t, setup{source: "min_interval 1ms", transport: "settle off\nbreaker {\ntrip_after 1\n}"})
			s.get(t).wantOK(t)
			s.p.ScriptAPI(provider.Always(provider.Function(func(w http.ResponseWriter, _ *http.Request) bool {
				// Caddy logs an upstream's headers at DEBUG, where they are the app's answer as well
				w.Header().Set("WWW-Authenticate", strings.ReplaceAll(c.challenge, "CANARY", "made-up"))
				w.WriteHeader(http.StatusUnauthorized)
				return true
			})))
			s.get(t)
			s.wantLogged(t, "the API's circuit breaker")
			for line := range strings.Lines(s.logged(t)) {
				if strings.Contains(line, "the API's circuit breaker") && (!strings.Contains(line, c.says) || strings.Contains(line, "made-up")) {
					t.Errorf("logged %s", line)
				}
			}
		})
	}
}

// TestAttack16Hosts: where a key's value is a part of the token endpoint's host, logs and everything else name the key,
// whatever goes wrong on the way there.
func TestAttack16Hosts(t *testing.T) {
	const host = "{key.user}.idp.invalid"
	for name, c := range map[string]struct {
		way    int32
		script *provider.Step
		port   string
		says   string
	}{
		"no such name":    {way: unknown, says: "no such host"},
		"nobody listens":  {port: "1", says: "connection refused"},
		"a slow server":   {way: silent, says: "no complete response in time"},
		"a refusal":       {script: step(provider.Status(400, nil, `{"error":"invalid_scope"}`)), says: "error invalid_scope"},
		"a server's page": {script: step(provider.HTML200()), says: "status 200, text/html, not JSON"},
		"no answer":       {script: step(provider.Drop()), says: "call to " + host},
		"an odd answer": {script: step(provider.Function(func(w http.ResponseWriter, r *http.Request) bool {
			conn, _, err := http.NewResponseController(w).Hijack()
			if err == nil {
				_, _ = io.WriteString(conn, r.Host+"\r\n\r\n")
				_ = conn.Close()
			}
			return true
		})), says: "malformed HTTP"},
	} {
		t.Run(name, func(t *testing.T) {
			var way atomic.Int32
			way.Store(c.way)
			p := provider.New(provider.Generic)
			_, port, err := net.SplitHostPort(hostOf(t, serve(t, p, provider.Whole)))
			if err != nil {
				t.Fatal(err)
			}
			if c.port != "" {
				port = c.port
			}
			s := newSidecarOf(t, p, setup{
				grantType: "client_credentials", tokenURL: "http://" + host + ":" + port + "/token",
				grant:  "allow_http x.idp.invalid\ntimeout 1s\ntransport {\nresolvers " + nameServer(t, &way) + "\n}",
				source: answersAtOnce + "\nkey user {cookie.user}", // which Caddy keeps out of its access log
			})
			s.start(t)
			if c.script != nil {
				p.ScriptToken(provider.Always(*c.script))
			}
			user := http.Header{"Cookie": {"user=" + p.Canary()}}
			if got := s.call(t, http.MethodGet, "/", user, ""); got.status < 500 {
				t.Errorf("status %d: %s", got.status, got.body)
			}
			s.wantLogged(t, "call to "+host+":"+port+"/token: ")
			s.wantLogged(t, c.says)
		})
	}
}

func step(s provider.Step) *provider.Step { return &s }
