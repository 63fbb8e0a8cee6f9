// Package wiretest is a token endpoint in memory, and what tests say to it.
package wiretest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenendpoint"
)

// Wire is a token endpoint in memory: it keeps what it was sent.
type Wire struct {
	Requests []SentRequest
	// Respond answers; nil: a good answer.
	Respond func(r *http.Request) (*http.Response, error)
	mu      sync.Mutex // guards Requests
}

// SentRequest is a request as it was sent.
type SentRequest struct {
	Method, URL, Host, Body string
	Header                  http.Header
}

// RoundTrip implements http.RoundTripper.
func (w *Wire) RoundTrip(r *http.Request) (*http.Response, error) {
	sent := SentRequest{Method: r.Method, URL: r.URL.String(), Host: r.Host, Header: r.Header.Clone()}
	if r.Body != nil {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			return nil, err
		}
		sent.Body = string(b)
	}
	w.mu.Lock()
	w.Requests = append(w.Requests, sent)
	w.mu.Unlock()
	if w.Respond == nil {
		return Respond(200, "application/json", `{"access_token":"tok","expires_in":3600}`), nil
	}
	return w.Respond(r)
}

// Count returns how many requests were sent. A timer may be sending another.
func (w *Wire) Count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.Requests)
}

// Last returns the one request that was sent.
func (w *Wire) Last(t testing.TB) SentRequest {
	t.Helper()
	if n := w.Count(); n != 1 {
		t.Fatalf("%d requests, want 1", n)
	}
	return w.Requests[0]
}

// Respond is a response; headers are name, value, name, value.
func Respond(status int, contentType, body string, headers ...string) *http.Response {
	h := http.Header{}
	if contentType != "" {
		h.Set("Content-Type", contentType)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		h.Add(headers[i], headers[i+1])
	}
	return &http.Response{StatusCode: status, Header: h, Body: io.NopCloser(strings.NewReader(body)), ProtoMajor: 1, ProtoMinor: 1}
}

// Responding is a Wire that always answers so.
func Responding(status int, contentType, body string, headers ...string) *Wire {
	return &Wire{Respond: func(*http.Request) (*http.Response, error) {
		return Respond(status, contentType, body, headers...), nil
	}}
}

// Literal is a template of plain text.
func Literal(text string) tokenendpoint.Template { return tokenendpoint.Literal(text) }

// Template parses text.
func Template(t testing.TB, text string) tokenendpoint.Template {
	t.Helper()
	parsed, err := tokenendpoint.ParseTemplate(text)
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}

// Param is a parameter of literal text.
func Param(name, value string) tokenendpoint.Param {
	return tokenendpoint.Param{Name: name, Value: Literal(value)}
}

// URL is where the endpoint seems to be.
const URL = "https://idp.example/token"

// Endpoint is one at URL that speaks over w.
func Endpoint(w http.RoundTripper) *tokenendpoint.Endpoint {
	return &tokenendpoint.Endpoint{URL: Literal(URL), Transport: w}
}

// Call makes a client_credentials call.
func Call(ep *tokenendpoint.Endpoint, params ...tokenendpoint.Param) (*tokenendpoint.Response, error) {
	params = append([]tokenendpoint.Param{Param("grant_type", "client_credentials")}, params...)
	return ep.Call(context.Background(), "client_credentials", params, nil)
}

// MustCall makes a call that must succeed.
func MustCall(t testing.TB, ep *tokenendpoint.Endpoint, params ...tokenendpoint.Param) *tokenendpoint.Response {
	t.Helper()
	a, err := Call(ep, params...)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// MustFail makes a call that must fail with an EndpointError.
func MustFail(t testing.TB, ep *tokenendpoint.Endpoint, params ...tokenendpoint.Param) *tokenendpoint.Error {
	t.Helper()
	a, err := Call(ep, params...)
	if err == nil {
		t.Fatalf("got the token %q, want an error", a.AccessToken.Reveal())
	}
	var ee *tokenendpoint.Error
	if !errors.As(err, &ee) {
		t.Fatalf("%v: want an EndpointError", err)
	}
	return ee
}

// Failing is a transport that brings no response.
func Failing(err error) *Wire {
	return &Wire{Respond: func(*http.Request) (*http.Response, error) { return nil, err }}
}

// Printed is v in every way that a program prints things by accident.
func Printed(t testing.TB, v any) string {
	t.Helper()
	var b bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		fmt.Fprintf(&b, verb+"\n", v)
	}
	if err := json.NewEncoder(&b).Encode(v); err != nil {
		t.Fatal(err)
	}
	slog.New(slog.NewTextHandler(&b, nil)).Info("x", "v", v)
	slog.New(slog.NewJSONHandler(&b, nil)).Info("x", "v", v)
	return b.String()
}

// CallWithKey makes a call whose templates may hold {key.NAME}, and no other
// variable.
func CallWithKey(ep *tokenendpoint.Endpoint, params []tokenendpoint.Param, name, value string) error {
	_, err := ep.Call(context.Background(), "request", params, func(variable string) (string, bool) {
		return value, variable == "key."+name
	})
	return err
}
