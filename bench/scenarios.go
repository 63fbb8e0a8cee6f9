package main

import (
	"context"
	"flag"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// trial is the settings of the scenarios.
type trial struct {
	lab
	rate                         float64
	length, warmup, delay        time.Duration
	rolloverLife, revokeAt       time.Duration
	outageLife, outageAt, outage time.Duration
	burst                        int
	maxRatio                     float64
	slack                        time.Duration
	withPeer, short              bool
	only                         string
	repeat                       int
}

// shortForm is what -short sets, of the flags that were not given: about a
// fifth of the time, and the same story.
var shortForm = map[string]string{
	"length": "3s", "warmup": "300ms", "delay": "100ms", "rollover-life": "1s", "revoke-at": "1500ms",
	"outage-life": "3s", "outage-at": "1200ms", "outage-for": "1400ms",
}

func (t *trial) parse(args []string) error {
	fs := flag.NewFlagSet("scenarios", flag.ContinueOnError)
	t.flags(fs)
	fs.Float64Var(&t.rate, "rate", 500, "requests per second")
	fs.DurationVar(&t.length, "length", 15*time.Second, "length of each scenario")
	fs.DurationVar(&t.warmup, "warmup", time.Second, "load before each that does not count")
	fs.DurationVar(&t.delay, "delay", 300*time.Millisecond, "how long the token endpoint takes")
	fs.DurationVar(&t.rolloverLife, "rollover-life", 3*time.Second, "life of the rollover's tokens, in whole seconds")
	fs.DurationVar(&t.revokeAt, "revoke-at", 5*time.Second, "when the live token is revoked")
	fs.DurationVar(&t.outageLife, "outage-life", 10*time.Second, "life of the outage's tokens, in whole seconds")
	fs.DurationVar(&t.outageAt, "outage-at", 5*time.Second, "age of the token when the token endpoint goes down")
	fs.DurationVar(&t.outage, "outage-for", 4*time.Second, "how long the token endpoint stays down")
	fs.IntVar(&t.burst, "burst", 200, "concurrent first calls")
	fs.DurationVar(&t.slack, "slack", 150*time.Millisecond, "what a request may wait longer than the renewal it waits for")
	fs.Float64Var(&t.maxRatio, "max-p99-ratio", 3, "the rollover's p99 may be this many times the steady state's; the aim is 1.1, which only a quiet machine can show")
	fs.BoolVar(&t.withPeer, "peer", false, "also through net/http's ReverseProxy with golang.org/x/oauth2")
	fs.BoolVar(&t.short, "short", false, "a short form, for CI")
	fs.StringVar(&t.only, "only", "", "only scenarios whose name contains this")
	fs.IntVar(&t.repeat, "repeat", 1, "how often to run each; back-off is random, and an outage that went well once may not the next time")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if t.short {
		fs.Visit(func(f *flag.Flag) { delete(shortForm, f.Name) })
		for name, value := range shortForm {
			if err := fs.Set(name, value); err != nil {
				return err
			}
		}
	}
	return nil
}

// scenarios runs a provider's bad days through the module, and fails when an
// app would have noticed one.
func scenarios(ctx context.Context, args []string) error {
	var t trial
	if err := t.parse(args); err != nil {
		return err
	}
	if err := t.open(); err != nil {
		return err
	}
	defer t.close()
	if err := t.build(ctx, true); err != nil {
		return err
	}
	kinds := []string{bearer}
	if t.withPeer {
		kinds = append(kinds, peer)
	}
	fmt.Printf("%g requests/s for %v each, token endpoint takes %v\n\n%-18s%-10s%10s%8s%8s%10s%10s%10s%8s\n", t.rate, t.length, t.delay,
		"scenario", "proxy", "requests", "failed", "tokens", "p50 ms", "p99 ms", "max ms", "p99/st.")
	broken, err := t.playAll(ctx, kinds)
	if err != nil {
		return err
	}
	fmt.Println()
	if len(broken) > 0 {
		return fmt.Errorf("the module does not hold what it should:\n  %s", strings.Join(broken, "\n  "))
	}
	return nil
}

// playAll prints an outcome per line, and returns what the module did not hold.
func (t *trial) playAll(ctx context.Context, kinds []string) (broken []string, err error) {
	for _, s := range t.script() {
		if !strings.Contains(s.name, t.only) {
			continue
		}
		for _, kind := range slices.Repeat(kinds, t.repeat) {
			o, err := t.play(ctx, s, kind)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", s.name, err)
			}
			o.print(s.name, kind)
			if kind == bearer {
				broken = append(broken, s.broken(o)...)
			}
		}
	}
	return broken, nil
}

// rig is a proxy with a provider of its own.
type rig struct {
	*provider
	*contender
}

func (t *trial) rig(ctx context.Context, kind string, s settings) (rig, error) {
	p, err := t.provider(ctx, 1, false, false)
	if err != nil {
		return rig{}, err
	}
	if err := p.apply(ctx, s); err != nil {
		return rig{}, err
	}
	c, err := t.contender(ctx, kind, p, 0, false)
	return rig{p, c}, err
}

// play runs one scenario with a provider and a proxy that are new.
func (t *trial) play(ctx context.Context, s scenario, kind string) (outcome, error) {
	defer t.stopAll()
	subject, err := t.rig(ctx, kind, s.settings)
	if err != nil {
		return outcome{}, err
	}
	if s.burst != nil {
		return s.burst(ctx, subject)
	}
	steady, err := t.rig(ctx, kind, t.lasting())
	if err != nil {
		return outcome{}, err
	}
	for _, r := range []rig{subject, steady} {
		if err := r.answers(ctx); err != nil {
			return outcome{}, err
		}
	}
	t.loadBoth(ctx, subject, steady, t.warmup)

	before, err := subject.stats(ctx)
	if err != nil {
		return outcome{}, err
	}
	acted := make(chan error, 1)
	go func() {
		if s.act == nil {
			acted <- nil
			return
		}
		acted <- s.act(ctx, subject.provider, before)
	}()
	samples, control := t.loadBoth(ctx, subject, steady, t.length)
	if err := <-acted; err != nil {
		return outcome{}, err
	}
	after, err := subject.stats(ctx)
	o := outcome{summary: summarize(samples), tokenCalls: after.TokenCalls - before.TokenCalls, log: subject.tail()}
	o.ratio = float64(o.p99) / float64(summarize(control).p99)
	return o, err
}

// loadBoth loads the subject, and at the same moment and rate one whose token
// lasts: the p99 of a second is as much the machine's as the proxy's, and only
// what two proxies have seen of one second compares.
func (t *trial) loadBoth(ctx context.Context, subject, steady rig, length time.Duration) (samples, control []sample) {
	load := func(r rig, seed uint64) []sample {
		return openLoop{rate: t.rate, length: length, seed: seed, client: func() doer { return newClient(r.addr) }}.run(ctx)
	}
	var running sync.WaitGroup
	running.Go(func() { control = load(steady, 2) })
	samples = load(subject, 1)
	running.Wait()
	return samples, control
}

// outcome is what an app, and the token endpoint, saw of a scenario.
type outcome struct {
	summary
	tokenCalls int64
	ratio      float64 // of p99 to that of a steady proxy at the same moment; 0 if there was none
	log        string
}

func (o outcome) print(name, kind string) {
	ms := func(d time.Duration) float64 { return micros(d) / 1000 }
	fmt.Printf("%-18s%-10s%10d%8d%8d%10.2f%10.2f%10.1f", name, kind, o.requests, o.failed, o.tokenCalls,
		ms(o.p50), ms(o.p99), ms(o.worst))
	if o.ratio > 0 {
		fmt.Printf("%8.2f", o.ratio)
	}
	if o.failed > 0 {
		fmt.Printf("  %v", o.statuses)
	}
	fmt.Println()
}
