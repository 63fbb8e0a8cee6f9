package caddymodule

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/caddy-bearer/caddy-bearer/bearer"
	"github.com/caddy-bearer/caddy-bearer/tokensource"
	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenendpoint"
)

// loadedMetrics is what a config that has been loaded exposes.
func loadedMetrics(t *testing.T, app *App) *prometheus.Registry {
	t.Helper()
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	t.Cleanup(cancel)
	registerMetrics(ctx, app)
	return ctx.GetMetricsRegistry()
}

func metricsApp(t *testing.T, names ...string) *App {
	t.Helper()
	app := &App{built: map[string]*pooledSource{}, log: zap.NewNop()}
	for _, name := range names {
		src := testSource(t, tokensource.Config{
			KeyNames: []string{"user"},
			Grant:    testGrant(func(*http.Request) (int, string) { return 200, `{"access_token": "t", "expires_in": 3600}` }),
		})
		app.built[name] = &pooledSource{Source: src, live: &breakerSets{log: slog.New(slog.DiscardHandler)}}
	}
	return app
}

// series returns a registry's series of a metric, by their labels.
func series(t *testing.T, reg *prometheus.Registry, metric string) map[string]float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]float64{}
	for _, f := range families {
		if f.GetName() != metric {
			continue
		}
		for _, m := range f.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, l.GetName()+"="+l.GetValue())
			}
			value := m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
			out[strings.Join(labels, ",")] = value
		}
	}
	return out
}

// TestMetricsSurviveLoads: another load neither loses counts nor registers
// twice.
func TestMetricsSurviveLoads(t *testing.T) {
	source := fmt.Sprintf("metrics_survive_%d", time.Now().UnixNano()) // the counters outlive even a test
	observe := newObserver(&tracing{})
	for n := range 3 {
		reg := loadedMetrics(t, metricsApp(t, source))
		newCounters(requestsTotal, source, resultOK).count(resultOK)
		newCounters(replaysTotal, source, replayResults...).count(string(bearer.ReplayOK))
		_, done := observe.Renewing(t.Context(), t.Context(), tokensource.Renewal{Source: source})
		done(tokensource.Outcome{Took: time.Second, ExpiryUnreadable: true})
		if got, want := series(t, reg, "caddy_token_source_expiry_unreadable_total")["source="+source], float64(n+1); got != want {
			t.Errorf("load %d: caddy_token_source_expiry_unreadable_total is %v, want %v", n+1, got, want)
		}
		for _, metric := range []string{
			"caddy_bearer_requests_total", "caddy_bearer_replays_total",
			"caddy_token_source_renewals_total", "caddy_token_source_renewal_duration_seconds",
		} {
			got := series(t, reg, metric)["result=ok,source="+source]
			if want := float64(n + 1); got != want {
				t.Errorf("load %d: %s is %v, want %v", n+1, metric, got, want)
			}
		}
	}
	app := metricsApp(t, source)
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	defer cancel()
	registerMetrics(ctx, app)
	registerMetrics(ctx, app) // twice into one registry: reported, and no panic
}

// TestMetricsLabelsClosed: whatever happens, the labels are of the lists.
func TestMetricsLabelsClosed(t *testing.T) {
	const source = "metrics_closed"
	c := newCounters(requestsTotal, source, resultOK)
	c.count("alice")
	c.count("")
	observe := newObserver(&tracing{})
	for _, err := range []error{
		nil, context.Canceled, context.DeadlineExceeded, tokensource.ErrClosed,
		&tokenendpoint.Error{Host: "idp.example", Code: "a-code", Class: tokenendpoint.Permanent},
		&tokenendpoint.Error{Host: "idp.example", Class: tokenendpoint.Throttled},
	} {
		_, done := observe.Renewing(t.Context(), t.Context(), tokensource.Renewal{Source: source})
		done(tokensource.Outcome{Err: err})
	}
	known := append([]string{
		resultOK, resultRefused, resultError,
		// tokensource.Result's
		"authorization_required", "refused", "breaker_open", "code_refused", "throttled", "same_token", "too_soon", "canceled", "unavailable",
	}, append(problemNames(), replayResults...)...)
	reg := loadedMetrics(t, metricsApp(t, source))
	for _, metric := range []string{"caddy_bearer_requests_total", "caddy_bearer_replays_total", "caddy_token_source_renewals_total"} {
		for labels := range series(t, reg, metric) {
			result, _, _ := strings.Cut(strings.TrimPrefix(labels, "result="), ",")
			if strings.Contains(labels, source) && !slices.Contains(known, result) {
				t.Errorf("%s{%s}", metric, labels)
			}
		}
	}
}

// TestMetricsGauges: what is counted of keyed sources names no key.
func TestMetricsGauges(t *testing.T) {
	app := metricsApp(t, "a", "b")
	for _, user := range []string{"alice", "bob"} {
		if _, err := app.built["a"].Token(t.Context(), tokensource.NewKey(user)); err != nil {
			t.Fatal(err)
		}
	}
	bs, _ := app.built["b"].live.take("api:443", tokensource.BreakerSettings{TripAfter: 1, OpenFor: time.Minute})
	refuse(t, bs, tokensource.NewKey("alice"))
	reg := loadedMetrics(t, app)
	for metric, want := range map[string]map[string]float64{
		"caddy_token_source_tokens":          {"source=a": 2, "source=b": 0},
		"caddy_token_source_needs_person":    {"source=a": 0, "source=b": 0},
		"caddy_token_source_unstored_tokens": {"source=a": 0, "source=b": 0},
		"caddy_token_source_store_up":        {"source=a": 1, "source=b": 1},
		"caddy_bearer_breaker_state": {
			"breaker=api,source=a": 0, "breaker=api,source=b": 2,
			"breaker=token_endpoint,source=a": 0, "breaker=token_endpoint,source=b": 0,
		},
	} {
		got := series(t, reg, metric)
		if len(got) != len(want) {
			t.Errorf("%s: %v", metric, got)
		}
		for labels, value := range want {
			if got[labels] != value {
				t.Errorf("%s{%s} is %v, want %v", metric, labels, got[labels], value)
			}
		}
	}
	expiry := series(t, reg, "caddy_token_source_expiry_timestamp_seconds")
	in := time.Until(time.Unix(int64(expiry["source=a"]), 0))
	if len(expiry) != 1 || in < 55*time.Minute || in > 65*time.Minute {
		t.Errorf("expiry %v", expiry)
	}
}
