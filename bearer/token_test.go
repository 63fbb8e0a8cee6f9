package bearer

import (
	"context"
	"encoding/json"
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

// testToken is a token from an answer with these further members.
func testToken(t testing.TB, access string, members ...string) *tokensource.Token {
	t.Helper()
	answer := map[string]any{"access_token": access, "expires_in": 3600}
	for i := 0; i < len(members); i += 2 {
		answer[members[i]] = members[i+1]
	}
	body, err := json.Marshal(answer)
	if err != nil {
		t.Fatal(err)
	}
	src := testSource(t, tokensource.Config{Grant: testGrant(func(*http.Request) (int, string) { return 200, string(body) })})
	token, err := src.Token(t.Context(), tokensource.Key{})
	if err != nil {
		t.Fatal(err)
	}
	return token
}
