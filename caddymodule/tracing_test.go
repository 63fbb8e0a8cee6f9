package caddymodule

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/caddy-bearer/caddy-bearer/tokensource"
)

func recorded() (*tracetest.SpanRecorder, *sdktrace.TracerProvider) {
	sr := tracetest.NewSpanRecorder()
	return sr, sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(sr))
}

func attributes(span sdktrace.ReadOnlySpan) map[string]string {
	out := map[string]string{}
	for _, a := range span.Attributes() {
		out[string(a.Key)] = a.Value.String()
	}
	return out
}

// TestSpanOfARenewal: a request that starts a renewal gets a link to it, not a
// child: the renewal serves others too, and outlives it.
func TestSpanOfARenewal(t *testing.T) {
	const secret = "canary"
	for name, c := range map[string]struct {
		status       int
		body, result string
		code         string
	}{
		"a good one":    {200, `{"access_token": "` + secret + `", "expires_in": 3600}`, "ok", ""},
		"a refused one": {400, `{"error": "invalid_scope", "error_description": "` + secret + `"}`, "refused", "invalid_scope"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				sr, provider := recorded()
				src := testSource(t, tokensource.Config{
					Observer: newObserver(&tracing{}),
					Grant:    testGrant(func(*http.Request) (int, string) { return c.status, c.body }),
				})
				ctx, request := provider.Tracer("test").Start(t.Context(), "request")
				_, _ = src.Token(ctx, tokensource.Key{})
				request.End()
				synctest.Wait()

				spans := sr.Ended()
				i := slices.IndexFunc(spans, func(s sdktrace.ReadOnlySpan) bool { return s.Name() == "token_source.renew" })
				if i < 0 {
					t.Fatalf("no span among %d", len(spans))
				}
				span := spans[i]
				checkLinked(t, span, request.SpanContext())
				want := map[string]string{
					"token_source.name": "api", "token_source.grant": "client_credentials",
					"token_source.reason": "first", "token_source.result": c.result,
				}
				if c.code == "" {
					want["token_source.via"] = "grant"
				} else {
					want["token_source.error_code"] = c.code
				}
				if got := attributes(span); fmt.Sprint(got) != fmt.Sprint(want) {
					t.Errorf("attributes %v, want %v", got, want)
				}
				if failed := span.Status().Code == codes.Error; failed != (c.code != "") {
					t.Errorf("status %v", span.Status())
				}
				if text := fmt.Sprint(span.Attributes(), span.Status(), span.Events()); strings.Contains(text, secret) {
					t.Errorf("the span holds a secret: %s", text)
				}
			})
		})
	}
}

func checkLinked(t *testing.T, span sdktrace.ReadOnlySpan, request trace.SpanContext) {
	t.Helper()
	if span.Parent().IsValid() || span.SpanContext().TraceID() == request.TraceID() {
		t.Error("the renewal belongs to the request's trace")
	}
	if links := span.Links(); len(links) != 1 || !links[0].SpanContext.Equal(request) {
		t.Errorf("links %v, want one to the request", links)
	}
}

// TestSpanWithoutARequest: what the timer starts is traced by the app's own
// provider, if there is one, and without any nothing fails.
func TestSpanWithoutARequest(t *testing.T) {
	sr, provider := recorded()
	for _, tr := range []*tracing{{}, {provider: provider}} {
		_, done := newObserver(tr).Renewing(context.Background(), context.Background(), tokensource.Renewal{Source: "api", Reason: tokensource.ReasonAhead})
		done(tokensource.Outcome{Via: "refresh_token", Took: time.Second})
	}
	spans := sr.Ended()
	if len(spans) != 1 || len(spans[0].Links()) != 0 {
		t.Fatalf("spans %v", spans)
	}
	if got := attributes(spans[0])["token_source.reason"]; got != "ahead" {
		t.Errorf("reason %q", got)
	}
}

// TestSpanContextReachesTheCall: what the token call does is within the
// renewal's span.
func TestSpanContextReachesTheCall(t *testing.T) {
	_, provider := recorded()
	ctx, request := provider.Tracer("test").Start(t.Context(), "request")
	ctx, done := newObserver(&tracing{}).Renewing(t.Context(), ctx, tokensource.Renewal{Source: "api"})
	defer done(tokensource.Outcome{})
	span := trace.SpanContextFromContext(ctx)
	if !span.IsValid() || span.TraceID() == request.SpanContext().TraceID() {
		t.Errorf("the call's span is %v", span)
	}
}
