package caddymodule

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"go.uber.org/zap"

	"github.com/caddy-bearer/caddy-bearer/tokensource"
)

// BenchmarkRoundTrip is what the transport costs around an API that answers
// at once.
func BenchmarkRoundTrip(b *testing.B) {
	for name, c := range map[string]struct {
		inject []Injection
		body   string
		keys   []KeyPart
	}{
		"plain":  {},
		"body":   {body: strings.Repeat("x", 1000)},
		"header": {inject: []Injection{{Header: "X-Token", Value: "{token}"}}},
		"keyed":  {keys: []KeyPart{{Name: "user", Value: fromHeader}}},
		"keyed header": {
			keys:   []KeyPart{{Name: "user", Value: fromHeader}},
			inject: []Injection{{Header: "X-For", Value: "{key.user}"}},
		},
	} {
		b.Run(name, func(b *testing.B) {
			t := benchTransport(b, c.inject, c.keys)
			req := httptest.NewRequest(http.MethodPost, "bench://api.example/", nil)
			req.RemoteAddr, req.Host = "127.0.0.1:1", "127.0.0.1:9000"
			req.Header.Set("Accept", "*/*")
			req.Header.Set("X-User", "alice")
			req = req.WithContext(context.WithValue(req.Context(), caddyhttp.VarsCtxKey, map[string]any{}))
			repl := caddyhttp.NewTestReplacer(req)
			ctx := context.WithValue(req.Context(), caddy.ReplacerCtxKey, repl)
			req = req.WithContext(context.WithValue(ctx, caddyhttp.VarsCtxKey, map[string]any{}))
			src := strings.NewReader(c.body)
			req.Body = nil
			b.ReportAllocs()
			for b.Loop() {
				if c.body != "" {
					src.Reset(c.body)
					req.Body = io.NopCloser(src)
				}
				res, err := t.RoundTrip(req)
				if err != nil || res.StatusCode != http.StatusOK {
					b.Fatal(res, err)
				}
			}
		})
	}
}

// instant answers at once, when it has read the body.
type instant struct{ res *http.Response }

func (i instant) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Body != nil {
		_, _ = io.Copy(io.Discard, req.Body)
		_ = req.Body.Close()
	}
	delete(i.res.Header, "Cache-Control")
	return i.res, nil
}

func benchTransport(b *testing.B, inject []Injection, keys []KeyPart) *Transport {
	b.Helper()
	kr, err := newKeyReader(keys)
	if err != nil {
		b.Fatal(err)
	}
	src, err := tokensource.New(tokensource.Config{
		Name: "api", KeyNames: kr.names,
		Grant: testGrant(func(*http.Request) (int, string) {
			return 200, `{"access_token": "a-token-of-usual-size", "expires_in": 3600}`
		}),
	})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = src.Close(context.Background()) })
	base := new(http.Transport)
	base.RegisterProtocol("bench", instant{&http.Response{StatusCode: 200, Header: http.Header{}, Body: http.NoBody}})
	t := &Transport{schemeKnown: true, Client: Client{
		HTTPTransport: reverseproxy.HTTPTransport{Transport: base},
		Source:        "api", Inject: inject,
		source: &pooledSource{Source: src, live: &breakerSets{log: slog.New(slog.DiscardHandler)}},
		keys:   kr, log: zap.NewNop(),
	}}
	t.requests = newCounters(requestsTotal, "bench", resultOK)
	if err := benchProvision(t); err != nil {
		b.Fatal(err)
	}
	return t
}

// benchProvision does those steps of Provision that need no Caddy.
func benchProvision(t *Transport) error {
	for _, step := range []func(caddy.Context) error{t.provisionEngine, t.provisionChecks, t.provisionBreakers} {
		if err := step(caddy.Context{Context: context.Background()}); err != nil {
			return err
		}
	}
	t.engine.Base = tellsDials{&t.HTTPTransport}
	return t.engine.Init()
}
