package main

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// scenario is one bad day of a provider, and what an app may see of it.
type scenario struct {
	name     string
	settings settings // of the provider before the proxy starts

	// act plays the provider's part while the load runs.
	act func(ctx context.Context, p *provider, before stats) error

	// burst replaces the load.
	burst func(context.Context, rig) (outcome, error)

	// expect returns what did not hold.
	expect func(outcome) []string
}

func (s scenario) broken(o outcome) []string {
	var out []string
	if o.failed > 0 {
		out = append(out, fmt.Sprintf("%s: %d of %d requests failed %v; its log ends:\n%s", s.name, o.failed, o.requests, o.statuses, o.log))
	}
	if s.expect != nil {
		for _, what := range s.expect(o) {
			out = append(out, s.name+": "+what)
		}
	}
	return out
}

// script is all scenarios. The first shows the noise: every scenario's p99 is
// compared to that of a proxy in a steady state, and here both are.
func (t *trial) script() []scenario {
	lasting := t.lasting()
	return []scenario{
		{name: "steady", settings: lasting, expect: tokenCalls(0)},
		{
			name: "rollover", settings: settings{Lifetime: t.rolloverLife, Delay: t.delay},
			expect: func(o outcome) []string {
				if o.ratio > t.maxRatio {
					return []string{fmt.Sprintf("p99 is %.2f times the steady state's: requests wait for tokens", o.ratio)}
				}
				return nil
			},
		},
		{
			name: "revocation", settings: lasting,
			act: func(ctx context.Context, p *provider, _ stats) error {
				wait(ctx, t.revokeAt)
				return p.revoke(ctx)
			},
			expect: func(o outcome) []string {
				broken := tokenCalls(1)(o)
				if longest := t.delay + t.slack; o.worst > longest {
					broken = append(broken, fmt.Sprintf("a request took %v, longer than the renewal (%v)", o.worst, longest))
				}
				return broken
			},
		},
		{name: "outage " + outageRefuse, settings: t.shortLived(), act: t.outageOf(outageRefuse)},
		{name: "outage " + outage503, settings: t.shortLived(), act: t.outageOf(outage503)},
		{name: "burst", settings: lasting, burst: t.firstCalls(false), expect: tokenCalls(1)},
		{name: "burst, hang-up", settings: lasting, burst: t.firstCalls(true), expect: tokenCalls(1)},
	}
}

func tokenCalls(want int64) func(outcome) []string {
	return func(o outcome) []string {
		if o.tokenCalls != want {
			return []string{fmt.Sprintf("%d token calls, not %d", o.tokenCalls, want)}
		}
		return nil
	}
}

func (t *trial) lasting() settings { return settings{Lifetime: time.Hour, Delay: t.delay} }

func (t *trial) shortLived() settings { return settings{Lifetime: t.outageLife, Delay: t.delay} }

// outageOf takes the token endpoint down at a fixed age of the token. Its age,
// not the load's: whether an outage can be outlived at all depends on how much
// of the token's life is left when it ends.
func (t *trial) outageOf(kind string) func(context.Context, *provider, stats) error {
	return func(ctx context.Context, p *provider, before stats) error {
		wait(ctx, time.Until(before.LastIssued.Add(t.outageAt)))
		down := t.shortLived()
		down.Outage = kind
		if err := p.apply(ctx, down); err != nil {
			return err
		}
		wait(ctx, t.outage)
		return p.apply(ctx, t.shortLived())
	}
}

// firstCalls makes many calls at once through a proxy that has no token yet.
// With hangUp there is one more, which comes first, sets off the renewal that
// the others wait for, and is gone before it ends.
func (t *trial) firstCalls(hangUp bool) func(context.Context, rig) (outcome, error) {
	return func(ctx context.Context, r rig) (outcome, error) {
		var first *client
		if hangUp {
			first = newClient(r.addr).(*client)
			if err := first.send(); err != nil {
				return outcome{}, err
			}
			if err := tokenCalled(ctx, r.provider); err != nil {
				return outcome{}, err
			}
		}
		var sent, answered sync.WaitGroup
		samples := make([]sample, t.burst)
		for i := range samples {
			sent.Add(1)
			answered.Go(func() {
				conn := newClient(r.addr).(*client)
				defer conn.close()
				start := time.Now()
				err := conn.send()
				sent.Done()
				if err == nil {
					samples[i].status, _ = conn.receive()
				}
				samples[i].latency = time.Since(start)
			})
		}
		sent.Wait()
		if hangUp {
			first.close()
		}
		answered.Wait()
		stats, err := r.stats(ctx)
		return outcome{summary: summarize(samples), tokenCalls: stats.TokenCalls, log: r.tail()}, err
	}
}

func tokenCalled(ctx context.Context, p *provider) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		s, err := p.stats(ctx)
		if err != nil || s.TokenCalls > 0 {
			return err
		}
		wait(ctx, 5*time.Millisecond)
	}
}
