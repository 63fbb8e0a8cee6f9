package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"time"

	"github.com/caddy-bearer/caddy-bearer/tests/fleet/rig"
)

// kills is a run in which replicas are killed in the middle of renewals.
type kills struct {
	replicas int
	kills    int
	store    string
	grace    time.Duration
	lifetime time.Duration
	ahead    string
	rate     float64
	minDelay time.Duration
	maxDelay time.Duration
	window   time.Duration
	aimed    string
}

func (s *kills) flags(f *flag.FlagSet) {
	f.IntVar(&s.replicas, "replicas", 1, "how many Caddies share the token; the one that renews is killed")
	f.IntVar(&s.kills, "kills", 500, "how many times")
	f.StringVar(&s.store, "store", "file", "where they keep it: file or redis")
	f.DurationVar(&s.grace, "grace", 15*time.Second, "for how long the provider still takes a used refresh token; 0 is a strict provider")
	f.DurationVar(&s.lifetime, "lifetime", 4*time.Second, "of the access tokens, in whole seconds")
	f.StringVar(&s.ahead, "ahead", "80%", "refresh_ahead: the larger, the sooner the next renewal")
	f.Float64Var(&s.rate, "rate", 10, "calls per second at each replica")
	f.DurationVar(&s.minDelay, "min-delay", 20*time.Millisecond, "the shortest that the token endpoint thinks")
	f.DurationVar(&s.maxDelay, "max-delay", 80*time.Millisecond, "the longest")
	f.DurationVar(&s.window, "window", 50*time.Millisecond, "what the 99th percentile of the time from answer to write must stay under")
	f.StringVar(&s.aimed, "aim", aimRenewal, "where in a renewal the kills fall, uniformly: renewal is all of it, answer the 5 ms after the answer")
}

func killsCommand(f *flag.FlagSet) func(context.Context, lab) (*report, error) {
	s := &kills{}
	s.flags(f)
	return s.run
}

func (s *kills) run(ctx context.Context, l lab) (*report, error) {
	if s.aimed != aimRenewal && s.aimed != aimAnswer {
		return nil, fmt.Errorf("-aim %s: expected %s or %s", s.aimed, aimRenewal, aimAnswer)
	}
	p, err := rig.StartProvider(s.lifetime)
	if err != nil {
		return nil, err
	}
	defer p.Close()
	p.SetThinking(s.minDelay, s.maxDelay)
	p.SetGrace(s.grace)
	// A strict provider does nothing for a client that hung up before its answer: else no write could be fast enough. One
	// that takes the old token again may well be careless.
	p.SetAttentive(s.grace == 0)
	store, err := openStore(ctx, s.store, l.dir)
	if err != nil {
		return nil, err
	}
	defer store.close()
	f, err := rig.Launch(ctx, rig.Plan{
		Program: l.program, Dir: l.dir, Replicas: s.replicas, Provider: p, Grant: "authorization_code", Ahead: s.ahead,
		Store: store.lines,
	})
	if err != nil {
		return nil, err
	}
	k := &killer{kills: s, fleet: f, provider: p, arrivals: p.Arrivals(), load: &rig.Load{Rate: s.rate}}
	k.stored = store.watch()
	defer k.stored.Stop()
	if err := k.authorize(ctx, f.Replicas[0]); err != nil {
		return nil, errors.Join(err, f.Stop())
	}
	start := time.Now()
	k.load.Start(ctx, f.Replicas)
	for i := 1; i <= s.kills && err == nil; i++ {
		err = k.once(ctx, i)
	}
	tally := k.load.Stop()
	stopped := f.Stop()
	return k.report(tally, time.Since(start), err), errors.Join(ctx.Err(), stopped)
}

func (k *killer) report(tally rig.Tally, took time.Duration, stuck error) *report {
	strictness := fmt.Sprintf("a used refresh token taken for %v more", k.grace)
	if k.grace == 0 {
		strictness = "strict provider"
	}
	r := &report{title: fmt.Sprintf("kills: %d replicas, store %s, %s, tokens of %v, refresh_ahead %s, token endpoint %v to %v, aimed at the %s",
		k.replicas, k.store, strictness, k.lifetime, k.ahead, k.minDelay, k.maxDelay, k.aimed)}
	r.exactly("kills", len(k.deaths), k.kills.kills)
	if stuck != nil {
		r.must(false, "the run", stuck, "not stuck")
		now := time.Now()
		r.tell("the last 10 s", k.fleet.Timeline(now.Add(-10*time.Second), now, k.stored, k.lines()...))
	}
	for _, ph := range []phase{beforeCall, duringCall, inWindow, afterWrite} {
		r.note("  killed "+string(ph), "%d", k.count(func(d death) bool { return d.phase == ph }))
	}
	lost := k.count(func(d death) bool { return d.lost })
	c := k.provider.Counts()
	r.note("used refresh tokens taken again", "%d", c.Reissued)
	if k.grace > 0 {
		r.exactly("lost (a person is needed)", lost, 0)
		r.exactly("reuse alarms", c.Alarms, 0)
	} else {
		r.note("lost (a person is needed)", "%d", lost)
		r.exactly("lost outside the window", k.count(func(d death) bool { return d.lost && d.phase != inWindow }), 0)
		r.must(c.Alarms <= lost, "reuse alarms", c.Alarms, fmt.Sprintf("<= %d, one a loss", lost))
	}
	r.exactly("losses told of in the log, as an error", k.count(func(d death) bool { return d.lost && d.notice.log > 0 }), lost)
	r.exactly("losses seen in the metric", k.count(func(d death) bool { return d.lost && d.notice.metric > 0 }), lost)
	r.exactly("losses seen in the readiness", k.count(func(d death) bool { return d.lost && d.notice.readiness > 0 }), lost)
	windows, longest := k.windows()
	r.note("writes measured", "%d", len(windows))
	r.note("from answer to write, p50", "%.1f ms", ms(rig.Quantile(windows, .5)))
	p99 := rig.Quantile(windows, .99)
	r.bound(p99 < k.window, "from answer to write, p99", fmt.Sprintf("%.1f ms", ms(p99)), fmt.Sprintf("< %v", k.window))
	if p99 >= k.window {
		r.tell("around the longest", k.fleet.Timeline(
			longest.Time.Add(-100*time.Millisecond), longest.Decided.Add(time.Second), k.stored, k.lines()...))
	}
	r.note("calls", "%d, and %d cut off by a kill", tally.Made-tally.Down, tally.Down)
	r.note("failed calls", "%v", tally)
	r.note("killed to renewed again, p50, longest", "%.1f, %.1f s", rig.Quantile(k.recoveries(), .5).Seconds(), rig.Quantile(k.recoveries(), 1).Seconds())
	r.note("time", "%.0f s", took.Seconds())
	k.tellLosses(r)
	return r
}

// tellLosses proves of each loss where it lies, and shows what happened around the first that should not be.
func (k *killer) tellLosses(r *report) {
	told := false
	for _, d := range k.deaths {
		if !d.lost {
			continue
		}
		r.details = append(r.details, d.String())
		if !told && (k.grace > 0 || d.phase != inWindow || d.notice.log == 0) {
			told = true
			r.tell(fmt.Sprintf("around kill %d", d.number), k.fleet.Timeline(
				d.Killed.Add(-2*time.Second), d.Gone.Add(8*time.Second), k.stored, k.lines()...))
		}
	}
}
