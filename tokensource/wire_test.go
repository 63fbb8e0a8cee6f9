package tokensource_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/caddy-bearer/caddy-bearer/tokensource"
)

// wire is a token endpoint in memory: it keeps what it was sent.
type wire struct {
	requests []sentRequest
	// respond answers; nil: a good answer.
	respond func(r *http.Request) (*http.Response, error)
	mu      sync.Mutex // guards requests
}

type sentRequest struct {
	method, url, host, body string
	header                  http.Header
}

func (w *wire) RoundTrip(r *http.Request) (*http.Response, error) {
	sent := sentRequest{method: r.Method, url: r.URL.String(), host: r.Host, header: r.Header.Clone()}
	if r.Body != nil {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			return nil, err
		}
		sent.body = string(b)
	}
	w.mu.Lock()
	w.requests = append(w.requests, sent)
	w.mu.Unlock()
	if w.respond == nil {
		return respond(200, "application/json", `{"access_token":"tok","expires_in":3600}`), nil
	}
	return w.respond(r)
}

// count returns how many requests were sent. A timer may be sending another.
func (w *wire) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.requests)
}

// last returns the one request that was sent.
func (w *wire) last(t *testing.T) sentRequest {
	t.Helper()
	if n := w.count(); n != 1 {
		t.Fatalf("%d requests, want 1", n)
	}
	return w.requests[0]
}

// respond is a response; headers are name, value, name, value.
func respond(status int, contentType, body string, headers ...string) *http.Response {
	h := http.Header{}
	if contentType != "" {
		h.Set("Content-Type", contentType)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		h.Add(headers[i], headers[i+1])
	}
	return &http.Response{StatusCode: status, Header: h, Body: io.NopCloser(strings.NewReader(body)), ProtoMajor: 1, ProtoMinor: 1}
}

// answering is a wire that always answers so.
func answering(status int, contentType, body string, headers ...string) *wire {
	return &wire{respond: func(*http.Request) (*http.Response, error) {
		return respond(status, contentType, body, headers...), nil
	}}
}

func lit(text string) tokensource.Template { return tokensource.Literal(text) }

func tmpl(t testing.TB, text string) tokensource.Template {
	t.Helper()
	parsed, err := tokensource.ParseTemplate(text)
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}

// param is a parameter of literal text.
func param(name, value string) tokensource.Param {
	return tokensource.Param{Name: name, Value: lit(value)}
}

const idp = "https://idp.example/token"

// endpoint is one at idp that speaks over w.
func endpoint(w http.RoundTripper) *tokensource.Endpoint {
	return &tokensource.Endpoint{URL: lit(idp), Transport: w}
}

// call makes a client_credentials call.
func call(ep *tokensource.Endpoint, params ...tokensource.Param) (*tokensource.Answer, error) {
	params = append([]tokensource.Param{param("grant_type", "client_credentials")}, params...)
	return ep.Call(context.Background(), "client_credentials", params, tokensource.Vars{})
}

func mustCall(t testing.TB, ep *tokensource.Endpoint, params ...tokensource.Param) *tokensource.Answer {
	t.Helper()
	a, err := call(ep, params...)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// mustFail makes a call that must fail with an EndpointError.
func mustFail(t testing.TB, ep *tokensource.Endpoint, params ...tokensource.Param) *tokensource.EndpointError {
	t.Helper()
	a, err := call(ep, params...)
	if err == nil {
		t.Fatalf("got the token %q, want an error", a.AccessToken.Reveal())
	}
	var ee *tokensource.EndpointError
	if !errors.As(err, &ee) {
		t.Fatalf("%v: want an EndpointError", err)
	}
	return ee
}

// callWithKey makes a call through a source, whose key's values are the
// only way to fill in a template.
func callWithKey(t *testing.T, ep *tokensource.Endpoint, params []tokensource.Param, name, value string) error {
	t.Helper()
	s := newSource(t, tokensource.Config{
		Grant:    &tokensource.EndpointGrant{Name: "request", Endpoint: ep, Params: params},
		KeyNames: []string{name}, Patience: -1,
	})
	_, err := s.Token(context.Background(), tokensource.NewKey(value))
	return err
}

// failing is a transport that brings no answer.
func failing(err error) *wire {
	return &wire{respond: func(*http.Request) (*http.Response, error) { return nil, err }}
}
