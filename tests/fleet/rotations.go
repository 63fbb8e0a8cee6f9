package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"time"

	"github.com/caddy-bearer/caddy-bearer/tests/fleet/rig"
	"github.com/caddy-bearer/caddy-bearer/tests/provider"
)

// rotations is a fleet that shares one rotating refresh token.
type rotations struct {
	replicas  int
	rotations int
	store     string
	lifetime  time.Duration
	ahead     string
	rate      float64
	delay     time.Duration
	revoke    int
}

func (s *rotations) flags(f *flag.FlagSet) {
	f.IntVar(&s.replicas, "replicas", 20, "how many Caddies share the token")
	f.IntVar(&s.rotations, "rotations", 1000, "how often the refresh token is to be rotated")
	f.StringVar(&s.store, "store", "file", "where they share it: file or redis")
	f.DurationVar(&s.lifetime, "lifetime", 4*time.Second, "of the access tokens, in whole seconds")
	f.StringVar(&s.ahead, "ahead", "75%", "refresh_ahead: the larger, the faster the rotations follow each other")
	f.Float64Var(&s.rate, "rate", 4, "calls per second at each replica")
	f.DurationVar(&s.delay, "delay", 60*time.Millisecond, "the longest that the token endpoint thinks; a quarter of it is the shortest")
	f.IntVar(&s.revoke, "revoke", 0, "with each so many rotations all access tokens die, so that all replicas want another at once; 0: never. With -lifetime 8s -ahead 20%, or many would find one in the store that is as dead")
}

func rotationsCommand(f *flag.FlagSet) func(context.Context, lab) (*report, error) {
	s := &rotations{}
	s.flags(f)
	return s.run
}

func (s *rotations) run(ctx context.Context, l lab) (*report, error) {
	p, err := rig.StartProvider(s.lifetime)
	if err != nil {
		return nil, err
	}
	defer p.Close()
	p.SetThinking(s.delay/4, s.delay)
	p.SetRevokeEvery(s.revoke)
	store, err := openStore(ctx, s.store, l.dir)
	if err != nil {
		return nil, err
	}
	defer store.close()
	plan := rig.Plan{
		Program: l.program, Dir: l.dir, Replicas: s.replicas, Provider: p, Grant: "refresh_token", Ahead: s.ahead,
		Store: store.lines,
	}
	f, err := rig.Launch(ctx, plan)
	if err != nil {
		return nil, err
	}
	stored := store.watch()
	defer stored.Stop()
	load := &rig.Load{Rate: s.rate}
	start := time.Now()
	load.Start(ctx, f.Replicas)
	reached := rig.Until(ctx, s.patience(), fmt.Sprintf("%d rotations", s.rotations), func() bool {
		c := p.Counts()
		return c.Issued >= s.rotations || c.Alarms > 0
	})
	took := time.Since(start)
	tally := load.Stop()
	stopped := f.Stop() // which finishes renewals that are under way
	r := s.report(f, load, tally, took)
	if reached != nil {
		r.must(false, "rotations came about", reached, "")
	}
	s.explain(r, f, tally, stored)
	return r, errors.Join(ctx.Err(), stopped)
}

// patience is how long the rotations may take: no rotation waits longer than a token lives.
func (s *rotations) patience() time.Duration {
	return time.Duration(s.rotations)*s.lifetime + time.Minute
}

func (s *rotations) report(f *rig.Fleet, load *rig.Load, tally rig.Tally, took time.Duration) *report {
	c := f.Provider.Counts()
	calls := f.Provider.TokenCalls()
	generation, callers := 0, map[string]bool{}
	for _, call := range calls {
		if call.Outcome == provider.Issued {
			generation = max(generation, call.Generation+1)
			callers[call.Who()] = true
		}
	}
	r := &report{title: fmt.Sprintf("rotations: %d replicas, store %s, tokens of %v, refresh_ahead %s, token endpoint %v to %v, %v calls/s at each",
		s.replicas, s.store, s.lifetime, s.ahead, s.delay/4, s.delay, s.rate)}
	r.must(generation >= s.rotations, "generations of the token", generation, fmt.Sprintf(">= %d", s.rotations))
	r.exactly("refresh calls", c.Refreshes, generation)
	r.exactly("reuse alarms", c.Alarms, 0)
	r.must(tally.Failures() == 0, "failed calls", tally, "0")
	if s.revoke == 0 {
		r.exactly("calls that the API refused", c.Unauthorized, 0)
	} else {
		r.note("calls that the API refused", "%d: all tokens died each %d rotations", c.Unauthorized, s.revoke)
	}
	r.note("calls", "%d", tally.Made)
	r.note("latency p50, p99, longest", "%.1f, %.1f, %.1f ms", ms(load.Latency(.5)), ms(load.Latency(.99)), ms(load.Latency(1)))
	r.note("replicas that renewed", "%d of %d", len(callers), s.replicas)
	r.note("time", "%.1f s, %.0f ms a rotation", took.Seconds(), ms(took)/float64(max(generation, 1)))
	return r
}

func ms(d time.Duration) float64 { return d.Seconds() * 1e3 }

// explain shows the first thing that went wrong, and what happened around it.
func (s *rotations) explain(r *report, f *rig.Fleet, tally rig.Tally, stored *rig.Watch) {
	var first time.Time
	for _, call := range f.Provider.TokenCalls() {
		if call.Outcome != provider.Issued && call.Outcome != provider.HungUp {
			first = call.Time
			break
		}
	}
	if len(tally.First) > 0 {
		x := tally.First[0]
		r.tell("the first failed call", fmt.Sprintf("%s after %v at %s: %s\n", x.Replica, x.Took, x.At.Format("15:04:05.000"), x.What))
		if at := x.At.Add(-x.Took); first.IsZero() || at.Before(first) {
			first = at
		}
	}
	if first.IsZero() {
		return
	}
	from := first.Add(-2 * time.Second)
	r.tell("what happened from "+from.Format("15:04:05.000"), f.Timeline(from, first.Add(2*time.Second), stored))
}
