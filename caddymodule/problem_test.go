package caddymodule

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/caddy-bearer/caddy-bearer/tokensource"
	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenendpoint"
)

// details are the members of a problem answer (RFC 9457).
type details struct {
	Type, Title, Detail, Source, Login string
	Status                             int
}

// checkProblem checks what all of the sidecar's own answers have in common.
func checkProblem(t *testing.T, status int, h http.Header, body io.Reader) details {
	t.Helper()
	var d details
	if err := json.NewDecoder(body).Decode(&d); err != nil {
		t.Fatal(err)
	}
	if d.Status != status {
		t.Errorf("status %d in the body of a %d", d.Status, status)
	}
	if d.Title == "" {
		t.Error("no title")
	}
	for name, want := range map[string]string{"Content-Type": "application/problem+json", "Cache-Control": "no-store"} {
		if got := h.Get(name); got != want {
			t.Errorf("%s: %q", name, got)
		}
	}
	_, name, _ := strings.Cut(d.Type, "#")
	// RFC 9209, section 2: a member, one registered parameter, the details
	want := regexp.MustCompile(`^caddy-bearer; error=(destination_unavailable|proxy_configuration_error|http_request_denied); details="` + name + `"$`)
	if got := h.Get("Proxy-Status"); !want.MatchString(got) {
		t.Errorf("Proxy-Status: %s", got)
	}
	return d
}

func endpointError(class tokenendpoint.Class, after time.Duration) error {
	return fmt.Errorf("renewing: %w", &tokenendpoint.Error{
		Call: "client_credentials", Host: "idp.example", Status: 400, Code: "a-code", Class: class, RetryAfter: after,
	})
}

// TestProblems is DESIGN's table of what the app sees.
func TestProblems(t *testing.T) {
	src := &pooledSource{Source: testSource(t, tokensource.Config{Grant: testGrant(nil)})}
	open := tokensource.NewBreaker(tokensource.BreakerSettings{TripAfter: 1, OpenFor: 20 * time.Second})
	done, err := open.Allow(time.Second)
	if err != nil {
		t.Fatal(err)
	}
	done(tokensource.Fails)
	_, breakerOpen := open.Allow(time.Second)
	for name, c := range map[string]struct {
		problem *problem
		status  int
		kind    string
		after   string
	}{
		"a person must authorize": {src.problemOf(tokensource.ErrAuthorizationRequired, nil, ""), 403, "authorization-required", ""},
		"a person, though refused": {
			src.problemOf(fmt.Errorf("%w: %w", tokensource.ErrAuthorizationRequired, endpointError(tokenendpoint.Permanent, 0)), nil, ""),
			403, "authorization-required", "",
		},
		"a person, and the breaker": {
			src.problemOf(fmt.Errorf("%w: %w", tokensource.ErrAuthorizationRequired, breakerOpen), nil, ""),
			403, "authorization-required", "",
		},
		"endpoint down":                         {src.problemOf(endpointError(tokenendpoint.Transient, 0), nil, ""), 503, "token-unavailable", "1"},
		"endpoint throttles":                    {src.problemOf(endpointError(tokenendpoint.Throttled, 7*time.Second), nil, ""), 503, "token-unavailable", "7"},
		"endpoint throttles for days":           {src.problemOf(endpointError(tokenendpoint.Throttled, 1e9*time.Second), nil, ""), 503, "token-unavailable", "3600"},
		"endpoint throttles a bit":              {src.problemOf(endpointError(tokenendpoint.Throttled, 1200*time.Millisecond), nil, ""), 503, "token-unavailable", "2"},
		"store down":                            {src.problemOf(fmt.Errorf("x: %w", tokensource.ErrUnavailable), nil, ""), 503, "token-unavailable", "1"},
		"source closed":                         {src.problemOf(tokensource.ErrClosed, nil, ""), 503, "token-unavailable", "1"},
		"request's own deadline":                {src.problemOf(context.DeadlineExceeded, nil, ""), 503, "token-unavailable", "1"},
		"something unheard of":                  {src.problemOf(errors.New("x"), nil, ""), 503, "token-unavailable", "1"},
		"endpoint refuses":                      {src.problemOf(endpointError(tokenendpoint.Permanent, time.Minute), nil, ""), 502, "client-refused", "60"},
		"a user is refused":                     {src.problemOf(&tokensource.Failure{Fault: tokensource.FaultUser, Err: endpointError(tokenendpoint.Permanent, 0)}, nil, ""), 502, "token-refused", ""},
		"a consent is suspected":                {src.problemOf(&tokensource.Failure{Fault: tokensource.FaultSuspected, Err: endpointError(tokenendpoint.Permanent, 0)}, nil, ""), 403, "authorization-required", ""},
		"an odd word, and the endpoint's fault": {src.problemOf(&tokensource.Failure{Fault: tokensource.FaultEndpoint, Err: endpointError(tokenendpoint.Permanent, 0)}, nil, ""), 503, "token-unavailable", "1"},
		"breaker open":                          {src.problemOf(breakerOpen, nil, ""), 503, "breaker-open", "20"},
		"code refused": {
			src.problemOf(fmt.Errorf("%w: %w", tokensource.ErrCodeRefused, endpointError(tokenendpoint.Permanent, time.Minute)), nil, ""),
			422, "code-refused", "",
		},
		"key missing":    {keyProblem(&keyError{name: "user", why: "the request has no value for it"}), 400, "key-missing", ""},
		"key too long":   {keyProblem(&keyError{name: "user", why: "its value is longer than 16384 bytes", bad: true}), 400, "bad-request", ""},
		"caller refused": {mustCallers(t, nil, nil).check(call("10.1.2.3:1", "localhost")), 403, "caller-refused", ""},
		"method refused": {mustCallers(t, nil, nil).check(traceRequest()), 405, "method-refused", ""},
	} {
		t.Run(name, func(t *testing.T) {
			res := c.problem.response(httptest.NewRequest(http.MethodGet, "/", nil))
			d := checkProblem(t, res.StatusCode, res.Header, res.Body)
			if res.StatusCode != c.status || !strings.HasSuffix(d.Type, "#"+c.kind) {
				t.Errorf("got %d %s, want %d %s", res.StatusCode, d.Type, c.status, c.kind)
			}
			if got := res.Header.Get("Retry-After"); got != c.after {
				t.Errorf("Retry-After: %q, want %q", got, c.after)
			}
			if strings.Contains(fmt.Sprint(d), "idp.example") || strings.Contains(fmt.Sprint(d), "a-code") {
				t.Errorf("the app is told of the provider's doings: %+v", d)
			}
			w := httptest.NewRecorder()
			if err := c.problem.write(w, httptest.NewRequest(http.MethodGet, "/", nil)); err != nil {
				t.Fatal(err)
			}
			if checkProblem(t, w.Code, w.Header(), w.Body) != d {
				t.Error("a handler answers something else than a transport")
			}
		})
	}
}

func traceRequest() *http.Request {
	req := call("127.0.0.1:1", "localhost")
	req.Method = http.MethodTrace
	return req
}

// TestProblemResponse: it is an upstream's answer like any other.
func TestProblemResponse(t *testing.T) {
	p := keyProblem(&keyError{name: "user", why: "x"})
	src := &clientBody{Reader: strings.NewReader(whole)}
	req := httptest.NewRequest(http.MethodPost, "/", nil)
	req.Body = src
	res := p.response(req)
	if src.closes() != 1 {
		t.Error("the request's body is not closed")
	}
	if res.ContentLength != int64(len(p.body())) || res.Header.Get("Content-Length") == "" || res.Request != req {
		t.Errorf("got %+v", res)
	}
	if head := p.response(httptest.NewRequest(http.MethodHead, "/", nil)); readAll(t, head.Body) != "" {
		t.Error("a body in answer to HEAD")
	}
}

// TestProblemNames: each has a title, and is explained where its type leads.
func TestProblemNames(t *testing.T) {
	explained, err := os.ReadFile("../docs/problems.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range problemNames() {
		if !strings.Contains(string(explained), "\n## "+name+"\n") {
			t.Errorf("docs/problems.md does not explain %s", name)
		}
		if problemTitles[name] == "" {
			t.Errorf("%s has no title", name)
		}
	}
	if len(problemNames()) != len(problemTitles) {
		t.Error("a title of no problem")
	}
}
