package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/caddy-bearer/caddy-bearer/tests/fleet/rig"
	"github.com/caddy-bearer/caddy-bearer/tests/provider"
	"github.com/caddy-bearer/caddy-bearer/tests/redistest"
)

// outages is a run in which the Redis that a fleet shares fails in one way after another.
type outages struct {
	only     string
	replicas int
	outage   time.Duration
	latency  time.Duration
	lifetime time.Duration
	ahead    string
	rate     float64
	moment   string
}

func (s *outages) flags(f *flag.FlagSet) {
	f.StringVar(&s.only, "only", "", "one `fault` of "+fmt.Sprint(slices.Sorted(maps.Keys(faults))))
	f.IntVar(&s.replicas, "replicas", 20, "how many Caddies share the token")
	f.DurationVar(&s.outage, "outage", 20*time.Second, "how long each fault lasts")
	f.DurationVar(&s.latency, "latency", 2*time.Second, "of each answer, where Redis is slow")
	f.DurationVar(&s.lifetime, "lifetime", 60*time.Second, "of the access tokens, in whole seconds: longer than the outage by half at least")
	f.StringVar(&s.ahead, "ahead", "78%", "refresh_ahead: the larger, the sooner a token is due")
	f.Float64Var(&s.rate, "rate", 4, "calls per second at each replica")
	f.StringVar(&s.moment, "moment", anyMoment, "when each fault begins: at any moment, or at the worst, when the provider has just answered")
}

func redisCommand(f *flag.FlagSet) func(context.Context, lab) (*report, error) {
	s := &outages{}
	s.flags(f)
	return s.run
}

func (s *outages) run(ctx context.Context, l lab) (*report, error) {
	if s.moment != anyMoment && s.moment != worstMoment {
		return nil, fmt.Errorf("-moment %s: expected %s or %s", s.moment, anyMoment, worstMoment)
	}
	names := slices.Sorted(maps.Keys(faults))
	if s.only != "" {
		if faults[s.only] == nil {
			return nil, fmt.Errorf("-only %s: expected one of %v", s.only, names)
		}
		names = []string{s.only}
	}
	r := &report{title: fmt.Sprintf("redis: %d replicas, each fault for %v, tokens of %v, refresh_ahead %s, %v calls/s at each, beginning at %s moment",
		s.replicas, s.outage, s.lifetime, s.ahead, s.rate, map[bool]string{true: "any", false: "the worst"}[s.moment == anyMoment])}
	for _, name := range names {
		if err := s.suffer(ctx, l, r, name); err != nil {
			return r, fmt.Errorf("%s: %w", name, err)
		}
	}
	return r, ctx.Err()
}

// site is where one fault is made: a Redis with a replica, and proxies through which each half of the fleet sees it.
type site struct {
	*outside
	*outages
	ctx             context.Context //nolint:containedctx // of one run
	main, second    *redistest.Server
	one, other      *redistest.Proxy // to the main one
	following       *redistest.Proxy // through which the second follows
	provider        *provider.Server
	fleet           *rig.Fleet
	load            *rig.Load
	stored          *rig.Watch
	replicated      bool
	began, mended   time.Time
	before, resumed int // generations
}

// suffer runs a fleet through one fault.
func (s *outages) suffer(ctx context.Context, l lab, r *report, name string) error {
	o := &outside{dir: l.dir}
	defer o.close()
	x := &site{outside: o, outages: s, ctx: ctx, load: &rig.Load{Rate: s.rate}, replicated: name == failover}
	var err error
	x.provider, err = rig.StartProvider(s.lifetime)
	if err != nil {
		return err
	}
	defer x.provider.Close()
	x.provider.SetThinking(20*time.Millisecond, 80*time.Millisecond)
	if err := o.try(x.open); err != nil {
		return err
	}
	x.fleet, err = rig.Launch(ctx, rig.Plan{
		Program: l.program, Dir: o.TempDir(), Replicas: s.replicas, Provider: x.provider, Grant: "refresh_token",
		Ahead: s.ahead, Store: x.lines,
	})
	if err != nil {
		return err
	}
	x.stored = watchRedis(ctx, x.main.Addr)
	x.load.Start(ctx, x.fleet.Replicas)
	// a fault may come before the first rotation only where there is a token yet
	stuck := x.rotated(2, s.lifetime)
	if stuck == nil {
		stuck = o.try(func() { x.await(name) })
	}
	if stuck == nil {
		x.began, x.before = time.Now(), x.generation()
		stuck = o.try(func() { faults[name](x) })
		x.mended, x.resumed = time.Now(), x.generation()
	}
	if stuck == nil {
		stuck = x.rotated(2, s.lifetime)
	}
	rotating := time.Since(x.mended)
	tally := x.load.Stop()
	stopped := x.fleet.Stop()
	x.stored.Stop()
	x.report(r, name, tally, rotating, stuck)
	return errors.Join(ctx.Err(), stopped)
}

func (x *site) open() {
	x.main = redistest.Start(x, durable...)
	x.one, x.other = redistest.NewProxy(x, x.main.Addr), redistest.NewProxy(x, x.main.Addr)
	if x.replicated {
		x.second = redistest.Start(x, durable...)
		x.following = redistest.NewProxy(x, x.main.Addr)
		x.second.Follow(x, x.following.Addr)
	}
}

// lines has even replicas see Redis through the one proxy, and odd ones through the other.
func (x *site) lines(i int) string {
	p := x.one
	if i%2 == 1 {
		p = x.other
	}
	if x.replicated {
		return redisLines(p.Addr, "replicas 1")
	}
	return redisLines(p.Addr)
}

func (x *site) generation() int {
	n := 0
	for _, c := range x.provider.TokenCalls() {
		if c.Outcome == provider.Issued {
			n = max(n, c.Generation+1)
		}
	}
	return n
}

// rotated waits for some more generations.
func (x *site) rotated(more int, within time.Duration) error {
	want := x.generation() + more
	return rig.Until(x.ctx, within, fmt.Sprintf("generation %d", want), func() bool { return x.generation() >= want })
}

func (x *site) report(r *report, name string, tally rig.Tally, rotating time.Duration, stuck error) {
	c := x.provider.Counts()
	if stuck != nil {
		r.must(false, name+": the run", stuck, "not stuck")
	}
	r.must(tally.Failures() == 0, name+": failed calls", tally, "0")
	r.exactly("  reuse alarms", c.Alarms, 0)
	r.exactly("  refresh calls", c.Refreshes, x.generation())
	r.exactly("  calls that the API refused", c.Unauthorized, 0)
	if name == split && x.outage > 2*leaseLife {
		r.must(x.resumed > x.before, "  generations during it", x.resumed-x.before, "> 0")
	}
	r.note("  generations before, during, after", "%d, %d, %d", x.before, x.resumed-x.before, x.generation()-x.resumed)
	r.note("  from the end of the fault to two more", "%.1f s", rotating.Seconds())
	r.note("  calls; latency p50, p99, longest", "%d; %.1f, %.1f, %.1f ms", tally.Made,
		ms(x.load.Latency(.5)), ms(x.load.Latency(.99)), ms(x.load.Latency(1)))
	if stuck != nil || tally.Failures() > 0 || c.Alarms > 0 || c.Refreshes != x.generation() {
		from := x.began.Add(-time.Second)
		r.tell(fmt.Sprintf("%s: what happened from %s", name, from.Format("15:04:05.000")), x.fleet.Timeline(
			from, x.mended.Add(rotating), x.stored,
			append(failures(tally), rig.Line{At: x.began, Text: "the fault begins"}, rig.Line{At: x.mended, Text: "the fault is over"})...))
	}
}

// failures are the first failed calls, for a timeline.
func failures(tally rig.Tally) []rig.Line {
	var out []rig.Line
	for _, f := range tally.First {
		out = append(out, rig.Line{At: f.At, Text: fmt.Sprintf("a call at %s fails after %.0f ms: %s", f.Replica, ms(f.Took), f.What)})
	}
	return out
}
