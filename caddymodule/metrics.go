package caddymodule

import (
	"errors"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/caddy-bearer/caddy-bearer/bearer"
)

// The counters live as long as the process, and each config registers them in its
// own registry. So a reload loses no counts, and registers nothing twice. Labels are
// names from the config and words from closed lists, never a key.
var (
	renewalsTotal = prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: "caddy", Subsystem: "token_source", Name: "renewals_total",
		Help: "Renewals of tokens, by outcome.",
	}, []string{"source", "result"})
	renewalDuration = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Namespace: "caddy", Subsystem: "token_source", Name: "renewal_duration_seconds",
		Help:    "How long renewals took, the calls and the writing.",
		Buckets: []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
	}, []string{"source", "result"})
	failuresTotal = prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: "caddy", Subsystem: "token_source", Name: "failures_total",
		Help: "Renewals that brought no token, by whose fault it was.",
	}, []string{"source", "fault"})
	expiryUnreadableTotal = prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: "caddy", Subsystem: "token_source", Name: "expiry_unreadable_total",
		Help: "Tokens whose expiry was in the response and could not be read, so that lifetime was assumed.",
	}, []string{"source"})
	requestsTotal = prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: "caddy", Subsystem: "bearer", Name: "requests_total",
		Help: "Requests through a bearer transport, by what became of them.",
	}, []string{"source", "result"})
	replaysTotal = prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: "caddy", Subsystem: "bearer", Name: "replays_total",
		Help: "Requests whose token the API refused, by what came of the replay.",
	}, []string{"source", "result"})
	interceptedTotal = prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: "caddy", Subsystem: "bearer", Name: "intercepted_total",
		Help: "What came to bearer_intercept, by the host of the route (empty: there is none) and by what it was.",
	}, []string{"route", "event"})
)

// registerMetrics puts the metrics into the config's registry. If a metric cannot be
// registered, that is logged, and requests are served all the same.
func registerMetrics(ctx caddy.Context, a *App) {
	for _, c := range []prometheus.Collector{renewalsTotal, renewalDuration, failuresTotal, expiryUnreadableTotal, requestsTotal, replaysTotal, interceptedTotal, gauges{a}} {
		err := ctx.GetMetricsRegistry().Register(c)
		if already := (prometheus.AlreadyRegisteredError{}); err != nil && !errors.As(err, &already) {
			a.log.Error("metric not registered", zap.Error(err))
		}
	}
}

var (
	tokensDesc = prometheus.NewDesc("caddy_token_source_tokens",
		"Tokens in memory that are not expired.", []string{"source"}, nil)
	expiryDesc = prometheus.NewDesc("caddy_token_source_expiry_timestamp_seconds",
		"When the token expires, or expired; of a keyed source the first that will, or the last that did.", []string{"source"}, nil)
	usableDesc = prometheus.NewDesc("caddy_token_source_usable",
		"1 if requests can get a token, 0 if none can.", []string{"source"}, nil)
	lastSuccessDesc = prometheus.NewDesc("caddy_token_source_last_success_timestamp_seconds",
		"When the token endpoint last issued a token.", []string{"source"}, nil)
	needsPersonDesc = prometheus.NewDesc("caddy_token_source_needs_person",
		"Keys whose refresh token was refused for good: a person must authorize again.", []string{"source"}, nil)
	unstoredDesc = prometheus.NewDesc("caddy_token_source_unstored_tokens",
		"Tokens that serve from memory, for the store did not take them yet.", []string{"source"}, nil)
	storeUpDesc = prometheus.NewDesc("caddy_token_source_store_up",
		"1 if the store worked when it was last used, 0 if it failed.", []string{"source"}, nil)
	breakerDesc = prometheus.NewDesc("caddy_bearer_breaker_state",
		"0 closed, 1 half-open, 2 open; of a keyed source's breakers the worst.", []string{"source", "breaker"}, nil)
)

// gauges reads the state of the sources whenever metrics are collected.
type gauges struct{ app *App }

// Describe implements prometheus.Collector.
func (g gauges) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{tokensDesc, expiryDesc, usableDesc, lastSuccessDesc, needsPersonDesc, unstoredDesc, storeUpDesc, breakerDesc} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (g gauges) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	for name, src := range g.app.built {
		st := src.state()
		gauge(tokensDesc, float64(st.Tokens), name)
		if !st.Expiry.IsZero() {
			gauge(expiryDesc, seconds(st.Expiry), name)
		}
		r := readinessOf(st)
		gauge(usableDesc, oneIf(r.usable()), name)
		if last := src.LastSuccess(); !last.IsZero() {
			gauge(lastSuccessDesc, seconds(last), name)
		}
		gauge(needsPersonDesc, float64(st.NeedPerson), name)
		gauge(unstoredDesc, float64(st.Unstored), name)
		gauge(storeUpDesc, oneIf(!st.storeDown()), name)
		gauge(breakerDesc, float64(st.endpoint), name, "token_endpoint")
		gauge(breakerDesc, float64(st.api), name, "api")
	}
}

// seconds is a moment as Prometheus writes it.
func seconds(t time.Time) float64 { return float64(t.UnixMilli()) / 1e3 }

func oneIf(holds bool) float64 {
	if holds {
		return 1
	}
	return 0
}

// requestCounters are the request counters of one source, by result. They are looked
// up once and not for each request.
type requestCounters map[string]prometheus.Counter

// The results of a request that was sent. A request that was not sent counts under
// the name of its problem.
const (
	resultOK      = string(bearer.ResultOK)
	resultRefused = string(bearer.ResultRefused)
	resultError   = string(bearer.ResultError)
)

// replayResults are the results of a request whose token the API refused.
var replayResults = func() (names []string) {
	for _, r := range bearer.Replays() {
		names = append(names, string(r))
	}
	return names
}()

// clientCounters counts the outcomes that the engine reports.
type clientCounters Client

// Request implements [bearer.Observer]. There is no counter for
// [bearer.ResultNotSent]: such a request is counted as a problem.
func (c *clientCounters) Request(r bearer.Result) {
	if r != bearer.ResultError || !c.namesErrors {
		c.requests.count(string(r))
	}
}

// Replay implements [bearer.Observer].
func (c *clientCounters) Replay(r bearer.Replay) { c.replays.count(string(r)) }

func newCounters(vec *prometheus.CounterVec, source string, results ...string) requestCounters {
	c := make(requestCounters, len(results))
	for _, result := range results {
		c[result] = vec.WithLabelValues(source, result)
	}
	return c
}

func (c requestCounters) count(result string) {
	if counter, ok := c[result]; ok {
		counter.Inc()
	}
}
