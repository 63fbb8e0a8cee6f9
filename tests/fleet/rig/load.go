package rig

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// Load is an app at each replica, calling the API at a steady pace whether or not its earlier calls were answered.
type Load struct {
	// Rate is of each app, in calls per second.
	Rate float64
	// Header goes with each call.
	Header http.Header

	cancel context.CancelFunc
	loops  sync.WaitGroup
	calls  sync.WaitGroup

	mu      sync.Mutex
	tally   Tally
	latency []time.Duration
}

// Tally is what came of the calls.
type Tally struct {
	// Made are all calls; Down those whose replica was killed before they were answered.
	Made, Down int
	// Failed are the calls that were answered otherwise than with 200, or not at all, by what went wrong.
	Failed map[string]int
	// First are the first failures.
	First []Failure
}

// Failure is one call that failed.
type Failure struct {
	At      time.Time // when it was seen
	Took    time.Duration
	Replica string
	What    string
}

// Failures counts the failed calls.
func (t Tally) Failures() int {
	n := 0
	for _, times := range t.Failed {
		n += times
	}
	return n
}

// Answered counts those of the failed calls that were answered: with a problem, or another status.
func (t Tally) Answered() int {
	n := 0
	for what, times := range t.Failed {
		if !strings.HasPrefix(what, notAnswered) {
			n += times
		}
	}
	return n
}

const notAnswered = "not answered: "

// String tells of the failures, by kind.
func (t Tally) String() string {
	if len(t.Failed) == 0 {
		return "0"
	}
	text := fmt.Sprint(t.Failures())
	for _, what := range slices.Sorted(maps.Keys(t.Failed)) {
		text += fmt.Sprintf(", %d %s", t.Failed[what], what)
	}
	return text
}

// Start begins to call. Each app begins at another moment of its interval.
func (l *Load) Start(ctx context.Context, replicas []*Replica) {
	ctx, l.cancel = context.WithCancel(ctx)
	l.tally.Failed = map[string]int{}
	interval := time.Duration(float64(time.Second) / l.Rate)
	for i, r := range replicas {
		first := interval * time.Duration(i) / time.Duration(len(replicas))
		l.loops.Go(func() { l.loop(ctx, r, first, interval) })
	}
}

// Stop ends it, waits for the last answer, and gives the tally.
func (l *Load) Stop() Tally {
	l.cancel()
	l.loops.Wait()
	l.calls.Wait()
	return l.Tally()
}

// Tally is the tally so far.
func (l *Load) Tally() Tally {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := l.tally
	t.Failed, t.First = maps.Clone(t.Failed), slices.Clone(t.First)
	return t
}

// Latency gives a quantile of the latencies of the calls that were answered with 200.
func (l *Load) Latency(q float64) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return Quantile(l.latency, q)
}

// Quantile gives a quantile; 0 of none.
func Quantile(of []time.Duration, q float64) time.Duration {
	if len(of) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(of))
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}

func (l *Load) loop(ctx context.Context, r *Replica, first, interval time.Duration) {
	timer := time.NewTimer(first)
	defer timer.Stop()
	due := time.Now().Add(first)
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		if life := r.life.Load(); life%2 == 1 {
			// Not bounded by ctx: a call that is under way at the end is not one that failed.
			l.calls.Go(func() { l.call(context.WithoutCancel(ctx), r, life) })
		}
		due = due.Add(interval)
		timer.Reset(time.Until(due))
	}
}

func (l *Load) call(ctx context.Context, r *Replica, life int64) {
	start := time.Now()
	status, body, err := r.Get(ctx, "/things", l.Header)
	took := time.Since(start)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tally.Made++
	switch {
	case err == nil && status == http.StatusOK:
		l.latency = append(l.latency, took)
		return
	case err != nil && r.life.Load() != life:
		l.tally.Down++
		return
	}
	what := failureOf(status, body, err)
	l.tally.Failed[what]++
	const told = 20
	if len(l.tally.First) < told {
		l.tally.First = append(l.tally.First, Failure{time.Now(), took, r.Name, what})
	}
}

// failureOf names what went wrong: the problem's type, if the sidecar said so.
func failureOf(status int, body []byte, err error) string {
	if err != nil {
		return notAnswered + err.Error()
	}
	var problem struct{ Type string }
	if json.Unmarshal(body, &problem) == nil && problem.Type != "" {
		_, name, _ := strings.Cut(problem.Type, "#")
		return name
	}
	return fmt.Sprintf("status %d", status)
}
