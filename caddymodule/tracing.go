package caddymodule

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.opentelemetry.io/contrib/exporters/autoexport"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/caddy-bearer/caddy-bearer/tokensource"
)

const tracerName = "github.com/caddy-bearer/caddy-bearer"

// tracing has the provider for spans of renewals that no request has started.
// Renewals that a request has started use that request's provider, so that Caddy's
// tracing directive is the only thing to configure.
type tracing struct {
	provider *sdktrace.TracerProvider // nil: the environment does not ask for traces
}

// newTracing makes a provider if OpenTelemetry's environment variables ask for one.
// It makes no connection yet.
func newTracing(ctx caddy.Context) (*tracing, error) {
	if !tracesWanted() {
		return &tracing{}, nil
	}
	exporter, err := autoexport.NewSpanExporter(ctx)
	if err != nil {
		return nil, fmt.Errorf("making the trace exporter that OTEL_* ask for: %w", err)
	}
	return &tracing{provider: sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter))}, nil
}

func tracesWanted() bool {
	if os.Getenv("OTEL_SDK_DISABLED") == "true" || os.Getenv("OTEL_TRACES_EXPORTER") == "none" {
		return false
	}
	for _, name := range []string{"OTEL_TRACES_EXPORTER", "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"} {
		if os.Getenv(name) != "" {
			return true
		}
	}
	return false
}

func (t *tracing) close() error {
	if t.provider == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := t.provider.Shutdown(ctx); err != nil {
		return fmt.Errorf("closing the trace exporter: %w", err)
	}
	return nil
}

// tracerFor returns the tracer for a renewal that ctx's span started, if any.
func (t *tracing) tracerFor(parent trace.Span) trace.Tracer {
	if parent.SpanContext().IsValid() {
		return parent.TracerProvider().Tracer(tracerName)
	}
	if t.provider != nil {
		return t.provider.Tracer(tracerName)
	}
	return nil
}

// observer turns renewals into spans and metrics.
type observer struct{ tracing *tracing }

func newObserver(t *tracing) tokensource.Observer { return observer{t} }

// Renewing implements tokensource.Observer. The span is a root of its own,
// linked to the request's: a renewal serves many requests, and outlives the
// one that happened to start it.
func (o observer) Renewing(ctx, cause context.Context, r tokensource.Renewal) (context.Context, func(tokensource.Outcome)) {
	parent := trace.SpanFromContext(cause)
	var span trace.Span
	if tracer := o.tracing.tracerFor(parent); tracer != nil {
		opts := []trace.SpanStartOption{
			trace.WithNewRoot(),
			trace.WithAttributes(
				attribute.String("token_source.name", r.Source),
				attribute.String("token_source.grant", r.Grant),
				attribute.String("token_source.reason", string(r.Reason)),
			),
		}
		if parent.SpanContext().IsValid() {
			opts = append(opts, trace.WithLinks(trace.Link{SpanContext: parent.SpanContext()}))
		}
		ctx, span = tracer.Start(ctx, "token_source.renew", opts...)
	}
	return ctx, func(out tokensource.Outcome) {
		result := tokensource.Result(out.Err)
		renewalsTotal.WithLabelValues(r.Source, result).Inc()
		if fault := tokensource.FaultOf(out.Err); fault != tokensource.FaultNone {
			failuresTotal.WithLabelValues(r.Source, string(fault)).Inc()
		}
		if out.ExpiryUnreadable {
			expiryUnreadableTotal.WithLabelValues(r.Source).Inc()
		}
		renewalDuration.WithLabelValues(r.Source, result).Observe(out.Took.Seconds())
		if span != nil {
			endSpan(span, out, result)
		}
	}
}

func endSpan(span trace.Span, out tokensource.Outcome, result string) {
	span.SetAttributes(attribute.String("token_source.result", result))
	if out.Via != "" {
		span.SetAttributes(attribute.String("token_source.via", out.Via))
	}
	if code := tokensource.ErrorCode(out.Err); code != "" {
		span.SetAttributes(attribute.String("token_source.error_code", code))
	}
	if out.Err != nil {
		span.SetStatus(codes.Error, result)
	}
	span.End()
}
