package tests

import (
	"context"
	"fmt"
	"strings"
	"sync"

	"go.opentelemetry.io/contrib/exporters/autoexport"
	"go.opentelemetry.io/otel/sdk/trace"
)

// exporterName is what OTEL_TRACES_EXPORTER is in a place: spans are kept in this process.
const exporterName = "test_spans"

func init() {
	autoexport.RegisterSpanExporter(exporterName, func(context.Context) (trace.SpanExporter, error) { return spanKeeper{}, nil })
}

// spanKeeper keeps all that spans say.
type spanKeeper struct{}

var kept struct {
	sync.Mutex
	spans strings.Builder
}

// ExportSpans implements trace.SpanExporter.
func (spanKeeper) ExportSpans(_ context.Context, spans []trace.ReadOnlySpan) error {
	kept.Lock()
	defer kept.Unlock()
	for _, s := range spans {
		fmt.Fprintf(&kept.spans, "%s %+v %+v", s.Name(), s.Status(), s.Links())
		for _, a := range s.Attributes() {
			fmt.Fprintf(&kept.spans, " %s=%s", a.Key, a.Value.String())
		}
		for _, e := range s.Events() {
			fmt.Fprintf(&kept.spans, " %s", e.Name)
			for _, a := range e.Attributes {
				fmt.Fprintf(&kept.spans, " %s=%s", a.Key, a.Value.String())
			}
		}
		kept.spans.WriteString("\n")
	}
	return nil
}

// Shutdown implements trace.SpanExporter.
func (spanKeeper) Shutdown(context.Context) error { return nil }

// takeSpans gives what came since it was last called.
func takeSpans() string {
	kept.Lock()
	defer kept.Unlock()
	defer kept.spans.Reset()
	return kept.spans.String()
}
