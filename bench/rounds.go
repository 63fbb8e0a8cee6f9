package main

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// round is what one contender did in one round.
type round struct {
	finished, failed int64
	perRequest       time.Duration // CPU
	conns            lane          // what was opened to the upstream meanwhile
	latency          summary
	resident         int64 // bytes, at the end
}

// meter runs rounds of load against contenders that are all loaded at the
// same moment.
type meter struct {
	provider   *provider
	contenders []*contender
	warmup     time.Duration
	length     time.Duration
}

// closed runs one round of clients that each wait for their answers, and
// takes the CPU time of every contender over the same stretch of it.
func (m *meter) closed(ctx context.Context, conns, first int) ([]round, error) {
	load := newClosedLoop(conns, clients(m.contenders), first)
	loadCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	var running sync.WaitGroup
	running.Go(func() { load.run(loadCtx) })

	wait(ctx, m.warmup)
	before, err := m.read(ctx, load)
	if err != nil {
		return nil, err
	}
	load.measuring.Store(true)
	wait(ctx, m.length)
	load.measuring.Store(false)
	after, err := m.read(ctx, load)
	if err != nil {
		return nil, err
	}
	cancel()
	running.Wait()
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	rounds := make([]round, len(after))
	for i := range after {
		rounds[i] = after[i].since(before[i])
		rounds[i].resident = after[i].resident
		rounds[i].latency = summarize(load.counts[i].samples)
		if rounds[i].failed > 0 {
			return nil, fmt.Errorf("%s failed %d of %d requests %v:\n%s", m.contenders[i].name,
				rounds[i].failed, rounds[i].finished, rounds[i].latency.statuses, m.contenders[i].tail())
		}
	}
	return rounds, nil
}

// reading is the state of one contender's counters.
type reading struct {
	finished, failed int64
	cpu              time.Duration
	lane             lane
	resident         int64
}

func (r reading) since(before reading) round {
	finished := r.finished - before.finished
	return round{
		finished:   finished,
		failed:     r.failed - before.failed,
		perRequest: (r.cpu - before.cpu) / time.Duration(max(1, finished)),
		conns: lane{
			r.lane.Conns - before.lane.Conns, r.lane.Handshakes - before.lane.Handshakes,
			r.lane.Resumed - before.lane.Resumed,
		},
	}
}

func (m *meter) read(ctx context.Context, load *closedLoop) ([]reading, error) {
	stats, err := m.provider.stats(ctx)
	if err != nil {
		return nil, err
	}
	readings := make([]reading, len(m.contenders))
	for i, c := range m.contenders {
		used, err := c.cpu()
		if err != nil {
			return nil, fmt.Errorf("CPU time of %s: %w", c.name, err)
		}
		resident, err := c.resident()
		if err != nil {
			return nil, fmt.Errorf("memory of %s: %w", c.name, err)
		}
		readings[i] = reading{load.counts[i].finished.Load(), load.counts[i].failed.Load(), used, stats.Lanes[i], resident}
	}
	return readings, nil
}

// open runs one round at a fixed rate to each.
func (m *meter) open(ctx context.Context, rate float64, first int) ([]round, error) {
	m.openFor(ctx, rate, m.warmup, first)
	samples := m.openFor(ctx, rate, m.length, first)
	rounds := make([]round, len(samples))
	for i, s := range samples {
		sum := summarize(s)
		rounds[i] = round{finished: int64(sum.requests), failed: int64(sum.failed), latency: sum}
		if sum.failed > 0 {
			return nil, fmt.Errorf("%s failed %d of %d requests %v:\n%s",
				m.contenders[i].name, sum.failed, sum.requests, sum.statuses, m.contenders[i].tail())
		}
	}
	return rounds, ctx.Err()
}

func (m *meter) openFor(ctx context.Context, rate float64, length time.Duration, first int) [][]sample {
	samples := make([][]sample, len(m.contenders))
	var running sync.WaitGroup
	for k := range m.contenders {
		i := (first + k) % len(m.contenders)
		load := openLoop{rate: rate, length: length, seed: uint64(k + 1), client: m.contenders[i].client}
		running.Go(func() { samples[i] = load.run(ctx) })
	}
	running.Wait()
	return samples
}

func wait(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
