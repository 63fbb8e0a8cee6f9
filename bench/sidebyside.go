package main

import (
	"context"
	"flag"
	"fmt"
	"strings"
	"time"
)

// comparison is what sidebyside and tls have in common.
type comparison struct {
	lab
	rounds  int
	length  time.Duration
	warmup  time.Duration
	rate    float64
	profile string
}

func (c *comparison) flags(fs *flag.FlagSet) {
	c.lab.flags(fs)
	fs.IntVar(&c.rounds, "rounds", 5, "rounds of each measurement")
	fs.DurationVar(&c.length, "length", 8*time.Second, "length of a round")
	fs.DurationVar(&c.warmup, "warmup", 2*time.Second, "load before each round that is not measured")
	fs.Float64Var(&c.rate, "rate", 500, "requests per second to each, for the latencies; 0 leaves them out")
	fs.StringVar(&c.profile, "profile", "", "folder for a CPU and an allocation profile of each, taken in an extra round")
}

// shipped is how the image and the systemd unit run Caddy.
var shipped = []string{"GOGC=400", "GOMEMLIMIT=256MiB"}

// sideBySide compares the module to plain Caddy with a static header.
func sideBySide(ctx context.Context, args []string) error {
	var c comparison
	fs := flag.NewFlagSet("sidebyside", flag.ContinueOnError)
	c.flags(fs)
	conns := fs.Int("conns", 64, "connections to each")
	control := fs.Bool("aa", false, "compare plain Caddy to plain Caddy: what the noise is")
	stock := fs.Bool("stock", false, "let plain Caddy keep 32 idle connections, which is its default, and not 256 as the module does")
	overHTTP := fs.Bool("http", false, "the upstream speaks plain http, and not https with HTTP/2")
	old := fs.Bool("transport", false, "measure transport bearer in reverse_proxy, and not the handler")
	inside := fs.Bool("intercept", false, "compare bearer_intercept to the handler that is called over plain http")
	ship := fs.Bool("shipped", false, "run the module as the image and the systemd unit do: "+strings.Join(shipped, " "))
	fs.StringVar(&c.old, "old", "", "binary of an older version of the module, whose transport is compared to instead of plain Caddy")
	if err := fs.Parse(args); err != nil {
		return err
	}
	kinds := []string{plain256, bearer}
	if *old {
		kinds[1] = transport
	}
	switch {
	case *inside:
		kinds = []string{bearer, intercept}
	case *control:
		kinds = []string{plain, plainToo}
	case *stock:
		kinds[0] = plain
	case c.old != "":
		kinds[0] = bearerOld
	}
	if *ship {
		c.env = map[string][]string{kinds[1]: shipped}
	}
	if err := c.open(); err != nil {
		return err
	}
	defer c.close()
	m, err := c.setUp(ctx, kinds, !*overHTTP, !*overHTTP)
	if err != nil {
		return err
	}
	fmt.Printf("%s: core %d shared, GOMAXPROCS=1, %d connections to each\n\n", names(m.contenders), c.proxyCore, *conns)
	rounds, err := c.cpu(ctx, m, *conns)
	if err != nil {
		return err
	}
	printResident(m, rounds)
	if err := c.latency(ctx, m); err != nil {
		return err
	}
	return c.profiles(ctx, m, *conns)
}

// printResident prints each contender's resident memory under load.
func printResident(m *meter, rounds [][]round) {
	fmt.Print("resident memory at the end of a round, median, MiB:")
	for i, c := range m.contenders {
		var all []float64
		for _, r := range rounds {
			all = append(all, float64(r[i].resident)/(1<<20))
		}
		fmt.Printf("  %s %.0f", c.name, median(all))
	}
	fmt.Print("\n\n")
}

// setUp starts a provider and a proxy of each kind.
func (c *comparison) setUp(ctx context.Context, kinds []string, overTLS, h2 bool) (*meter, error) {
	needsModule := false
	for _, k := range kinds {
		needsModule = needsModule || isModule(k) && k != bearerOld
	}
	c.apart = true
	if err := c.build(ctx, needsModule); err != nil {
		return nil, err
	}
	p, err := c.provider(ctx, len(kinds), overTLS, h2)
	if err != nil {
		return nil, err
	}
	m := &meter{provider: p, warmup: c.warmup, length: c.length}
	for i, kind := range kinds {
		one, err := c.contender(ctx, kind, p, i, c.profile != "")
		if err != nil {
			return nil, err
		}
		if err := one.answers(ctx); err != nil {
			return nil, err
		}
		m.contenders = append(m.contenders, one)
	}
	return m, nil
}

// cpu prints CPU per request, round by round, and returns all rounds.
func (c *comparison) cpu(ctx context.Context, m *meter, conns int) ([][]round, error) {
	fmt.Print("CPU per request\n\n")
	t := newTable(m.contenders, "round", "requests")
	var all [][]round
	for n := range c.rounds {
		rounds, err := m.closed(ctx, conns, n%len(m.contenders))
		if err != nil {
			return nil, err
		}
		all = append(all, rounds)
		t.row([]any{n + 1, rounds[0].finished}, values(rounds, func(r round) float64 { return micros(r.perRequest) }))
	}
	t.medians("µs")
	return all, nil
}

// latency prints p50 and p99 at a fixed rate, round by round.
func (c *comparison) latency(ctx context.Context, m *meter) error {
	if c.rate == 0 {
		return nil
	}
	fmt.Printf("latency at %g requests/s to each, from the moment each request was due\n\n", c.rate)
	p50 := newTable(m.contenders, "round", "p50")
	p99 := newTable(m.contenders, "round", "p99")
	var late time.Duration
	for n := range c.rounds {
		rounds, err := m.open(ctx, c.rate, n%len(m.contenders))
		if err != nil {
			return err
		}
		p50.row([]any{n + 1, "p50"}, values(rounds, func(r round) float64 { return micros(r.latency.p50) }))
		p99.row([]any{n + 1, "p99"}, values(rounds, func(r round) float64 { return micros(r.latency.p99) }))
		for _, r := range rounds {
			late = max(late, r.latency.late)
		}
	}
	p50.medians("µs")
	p99.medians("µs")
	fmt.Printf("the generator itself was late by at most %v (p99)\n\n", late.Round(time.Microsecond))
	return nil
}

func values(rounds []round, of func(round) float64) []float64 {
	out := make([]float64, len(rounds))
	for i, r := range rounds {
		out[i] = of(r)
	}
	return out
}

func micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }
