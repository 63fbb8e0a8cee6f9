package caddymodule

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/caddy-bearer/caddy-bearer/tokensource"
	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenendpoint"
)

// fakeEndpoint is a token endpoint without sockets.
type fakeEndpoint func(req *http.Request) (status int, body string)

func (f fakeEndpoint) RoundTrip(req *http.Request) (*http.Response, error) {
	status, body := f(req)
	return &http.Response{
		StatusCode: status, Header: http.Header{"Content-Type": {"application/json"}},
		Body: io.NopCloser(strings.NewReader(body)), Request: req,
	}, nil
}

// testGrant is a grant at a fake endpoint.
func testGrant(f fakeEndpoint) *tokensource.EndpointGrant {
	return &tokensource.EndpointGrant{
		Type: "client_credentials",
		Endpoint: &tokenendpoint.Endpoint{
			URL: tokenendpoint.Literal("https://idp.example/token"), Auth: tokenendpoint.ClientNone, Transport: f,
		},
	}
}

// testSource is a source that ends with the test.
func testSource(t testing.TB, cfg tokensource.Config) *tokensource.Source {
	t.Helper()
	cfg.Name = "api"
	src, err := tokensource.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = src.Close(context.Background()) })
	return src
}

// clientBody is a request's body that counts how often it is closed.
type clientBody struct {
	io.Reader
	closed int
}

func (b *clientBody) Close() error {
	b.closed++
	return nil
}

func (b *clientBody) closes() int { return b.closed }

func readAll(t testing.TB, r io.Reader) string {
	t.Helper()
	text, err := io.ReadAll(r)
	if err != nil {
		t.Fatalf("after %q: %v", text, err)
	}
	return string(text)
}

const whole = "the quick brown fox jumps over the lazy dog"
