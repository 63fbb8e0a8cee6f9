package tests

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/caddy-bearer/caddy-bearer/tests/provider"
)

// TestAttack4QueryCredentials: net/url's errors print the whole URL, and with it what is in the query.
func TestAttack4QueryCredentials(t *testing.T) {
	l := listen(t)
	dead := "http://" + l.Addr().String() + "/token"
	l.Close()
	for name, grant := range map[string]string{
		"all in the query":    "params_in query",
		"client in the query": "client_auth client_secret_query",
		"GET":                 "method GET\nclient_auth client_secret_post",
	} {
		t.Run(name, func(t *testing.T) {
			s := launch(t, setup{tokenURL: dead, grant: grant, source: answersAtOnce})
			if got := s.get(t); got.status != http.StatusServiceUnavailable || got.problem() == "" {
				t.Errorf("status %d: %s", got.status, got.body)
			}
			s.wantLogged(t, "connection refused")
		})
	}
}

// TestAttack4EchoedSecrets: an endpoint that answers with what it was sent, in every place that finds its way into logs.
func TestAttack4EchoedSecrets(t *testing.T) {
	for name, answer := range map[string]func(w http.ResponseWriter, secret string){
		"in the code": func(w http.ResponseWriter, secret string) {
			w.WriteHeader(http.StatusBadRequest)
			_, _ = io.WriteString(w, `{"error":"`+secret+`"}`)
		},
		"in the description": func(w http.ResponseWriter, secret string) {
			w.WriteHeader(http.StatusBadRequest)
			_, _ = io.WriteString(w, `{"error":"invalid_request","error_description":"`+secret+`"}`)
		},
		"in the reason": func(w http.ResponseWriter, secret string) {
			conn, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			_, _ = io.WriteString(conn, "HTTP/1.1 500 "+secret+"\r\nContent-Length: 0\r\n\r\n")
		},
		"for an answer": func(w http.ResponseWriter, secret string) {
			conn, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			_, _ = io.WriteString(conn, secret+"\r\n\r\n")
		},
		"in Location": func(w http.ResponseWriter, secret string) {
			w.Header().Set("Location", "http://\x7f"+secret)
			w.WriteHeader(http.StatusTemporaryRedirect)
		},
		"in Retry-After": func(w http.ResponseWriter, secret string) {
			w.Header().Set("Retry-After", secret)
			w.WriteHeader(http.StatusTooManyRequests)
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := launch(t, setup{grantType: "client_credentials", source: answersAtOnce})
			s.p.ScriptToken(provider.Always(provider.Function(func(w http.ResponseWriter, _ *http.Request) bool {
				answer(w, s.p.ClientSecret)
				return true
			})))
			// a caller need not wait for what comes after the log's line
			ctx, cancel := context.WithCancel(t.Context())
			var caller sync.WaitGroup
			caller.Go(func() {
				if status := s.tryGet(ctx); status == http.StatusOK {
					t.Errorf("status %d", status)
				}
			})
			s.wantLogged(t, "token not renewed")
			cancel()
			caller.Wait()
		})
	}
}

// tracesTo has Caddy print its spans.
var tracesTo = map[string]string{"OTEL_TRACES_EXPORTER": "console", "OTEL_BSP_SCHEDULE_DELAY": "50"}

// span is one span as it is printed.
type span struct {
	Name        string
	SpanContext struct{ TraceID, SpanID string }
	Links       []struct {
		SpanContext struct{ TraceID, SpanID string }
	}
	Attributes []struct {
		Key   string
		Value struct{ Value any }
	}
}

func spansIn(printed string) []span {
	var found []span
	for line := range strings.Lines(printed) {
		var sp span
		if strings.HasPrefix(line, "{") && json.Unmarshal([]byte(line), &sp) == nil && sp.SpanContext.SpanID != "" {
			found = append(found, sp)
		}
	}
	return found
}

// TestAttack4WholeProcess runs Caddy as people do, with its admin endpoint, its autosaved configuration and its spans, and
// looks for secrets in all of them. The spans are looked at for what they must say, too.
func TestAttack4WholeProcess(t *testing.T) {
	s := newSidecar(t, setup{source: "min_interval 1ms", site: "tracing {\nspan the-request\n}"})
	socket := filepath.Join(s.dir, "admin.sock")
	config := s.withAdmin(t, socket)
	vars := secretsOf(s.p)
	for name, value := range tracesTo {
		vars[name] = value
	}
	process := startProcess(t, config, vars, s.address)
	s.get(t).wantOK(t)
	s.p.RevokeAccessTokens()
	s.get(t).wantOK(t)
	s.p.ScriptToken(provider.Status(500, nil, ""))
	s.p.RevokeAccessTokens()
	s.get(t)
	s.p.ScriptAPI(provider.EarlyAnswer(500))
	s.get(t)
	texts := map[string]string{"problem answers": s.problems.String()}
	for _, path := range []string{"/config/", "/token_sources/", "/token_sources/api", "/metrics", "/reverse_proxy/upstreams", "/debug/vars"} {
		texts["admin "+path] = readSocket(t, socket, path)
	}
	if !strings.Contains(texts["admin /config/"], "{env.TEST_CLIENT_SECRET}") {
		t.Errorf("the configuration is not there to be searched: %s", texts["admin /config/"])
	}
	autosaved := filepath.Join(s.dir, "config", "caddy", "autosave.json")
	if text, err := os.ReadFile(autosaved); err != nil || !strings.Contains(string(text), "{env.TEST_CLIENT_SECRET}") {
		t.Errorf("the configuration was not autosaved: %v", err)
	}
	s.searchCanaries(t, s.p, texts)
	if err := process.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	<-process.done
	printed := process.output.String()
	searchText(t, s.p, "output", printed)
	wantLinked(t, spansIn(printed))
}

// wantLinked fails the test unless a renewal's span is linked to its request's, and says what it must.
func wantLinked(t *testing.T, spans []span) {
	t.Helper()
	requests := map[string]bool{}
	for _, sp := range spans {
		if sp.Name == "the-request" {
			requests[sp.SpanContext.SpanID] = true
		}
	}
	results := map[string]int{}
	for _, sp := range spans {
		if sp.Name != "token_source.renew" {
			continue
		}
		attributes := map[string]any{}
		for _, a := range sp.Attributes {
			attributes[a.Key] = a.Value.Value
		}
		if attributes["token_source.name"] != "api" || attributes["token_source.grant"] != "password" {
			t.Errorf("attributes: %v", attributes)
		}
		result, _ := attributes["token_source.result"].(string)
		results[result]++
		if attributes["token_source.reason"] == "ahead" {
			continue // the timer's
		}
		if len(sp.Links) != 1 || !requests[sp.Links[0].SpanContext.SpanID] {
			t.Errorf("links: %+v; the requests' spans are %v", sp.Links, requests)
		}
	}
	if results["ok"] < 2 || results["unavailable"] < 1 {
		t.Errorf("renewals by result: %v", results)
	}
}

// withAdmin is the configuration with an admin endpoint, and autosaved.
func (s *sidecar) withAdmin(t *testing.T, socket string) []byte {
	t.Helper()
	var c map[string]any
	if err := json.Unmarshal(s.config, &c); err != nil {
		t.Fatal(err)
	}
	c["admin"] = map[string]any{"listen": "unix/" + socket}
	config, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	return config
}

// readSocket makes a GET over a unix socket.
func readSocket(t *testing.T, socket, path string) string {
	t.Helper()
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", socket)
	}}
	defer transport.CloseIdleConnections()
	resp, err := (&http.Client{Transport: transport, Timeout: hang}).Get("http://127.0.0.1" + path)
	if err != nil {
		t.Errorf("GET %s: %v", path, err)
		return ""
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Error(err)
	}
	return string(text)
}
