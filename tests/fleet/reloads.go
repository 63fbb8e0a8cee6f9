package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/caddy-bearer/caddy-bearer/tests/fleet/rig"
	"github.com/caddy-bearer/caddy-bearer/tests/provider"
)

// reloads is a run in which a Caddy with the module and a plain one are reloaded, side by side and under the same load.
type reloads struct {
	reloads int
	warmUp  int
	every   time.Duration
	rate    float64
}

func (s *reloads) flags(f *flag.FlagSet) {
	f.IntVar(&s.reloads, "reloads", 1000, "how many")
	f.IntVar(&s.warmUp, "warm-up", 30, "reloads before anything is counted")
	f.DurationVar(&s.every, "every", 50*time.Millisecond, "how often")
	f.Float64Var(&s.rate, "rate", 400, "calls per second at each of the two")
}

func reloadsCommand(f *flag.FlagSet) func(context.Context, lab) (*report, error) {
	s := &reloads{}
	s.flags(f)
	return s.run
}

// Idle connections hold goroutines: they must be gone by the time that anything is counted.
const reloadedFile = `{
	admin "unix/THE_HOME/admin"
	persist_config off
	auto_https off
	storage file_system {
		root THE_HOME/storage
	}
	log {
		output stdout
		level WARN
	}
	servers {
		timeouts {
			idle 1s
		}
	}
	THE_SOURCE
}

http://localhost {
	bind "unix/THE_HOME/site"
	header X-Reload THE_NUMBER
	reverse_proxy THE_API {
		THE_TRANSPORT {
			keepalive 1s
		}
		THE_HEADER
	}
}
`

// reloaded is one of the two.
type reloaded struct {
	*rig.Replica
	text          string
	before, after rig.Footprint
	load          rig.Load
	tally         rig.Tally
	slowest       time.Duration
}

func (s *reloads) run(ctx context.Context, l lab) (*report, error) {
	p, err := rig.StartProvider(time.Hour)
	if err != nil {
		return nil, err
	}
	defer p.Close()
	module, err := startReloaded(ctx, l, "module", p,
		"THE_SOURCE", `token_source fleet {
		grant refresh_token {
			token_url `+p.URL+`/token
			client_id `+p.ClientID+`
			client_secret `+p.ClientSecret+`
			refresh_token {env.FLEET_SEED}
		}
	}`, "THE_TRANSPORT", "transport bearer fleet", "THE_HEADER", "")
	if err != nil {
		return nil, err
	}
	plain, err := startReloaded(ctx, l, "plain", p,
		"THE_SOURCE", "", "THE_TRANSPORT", "transport http", "THE_HEADER", `header_up Authorization "Bearer `+p.NewAccessToken("plain", 24*time.Hour)+`"`)
	if err != nil {
		return nil, errors.Join(err, module.Stop())
	}
	both := []*reloaded{module, plain}
	start := time.Now()
	err = s.measure(ctx, both)
	took := time.Since(start)
	stopped := errors.Join(module.Stop(), plain.Stop())
	if err := errors.Join(err, ctx.Err(), stopped); err != nil {
		return nil, err
	}
	return s.report(module, plain, p.Counts(), took), nil
}

func startReloaded(ctx context.Context, l lab, name string, p *provider.Server, replace ...string) (*reloaded, error) {
	home := filepath.Join(l.dir, name)
	text := strings.NewReplacer(append(replace, "THE_API", p.URL)...).Replace(reloadedFile)
	text = strings.ReplaceAll(text, rig.Home, home)
	r, err := rig.NewReplica(l.program, home, name, []string{"FLEET_SEED=" + p.NewRefreshToken(name)}, strings.ReplaceAll(text, "THE_NUMBER", "0"))
	if err != nil {
		return nil, err
	}
	return &reloaded{Replica: r, text: text}, r.Start(ctx)
}

// measure reloads both at once: what only one of them has to bear would not compare.
func (s *reloads) measure(ctx context.Context, both []*reloaded) error {
	each := func(f func(*reloaded) error) error {
		errs := make([]error, len(both))
		var wg sync.WaitGroup
		for i, r := range both {
			wg.Go(func() { errs[i] = f(r) })
		}
		wg.Wait()
		return errors.Join(errs...)
	}
	err := each(func(r *reloaded) error {
		if err := r.underLoad(ctx, s.warmUp, s.every, s.rate); err != nil {
			return err
		}
		var err error
		r.before, err = r.rest(ctx)
		return err
	})
	if err != nil {
		return err
	}
	return each(func(r *reloaded) error {
		if err := r.underLoad(ctx, s.reloads, s.every, s.rate); err != nil {
			return err
		}
		var err error
		r.after, err = r.restAsBefore(ctx)
		return err
	})
}

// slack is by how many goroutines and descriptors a Caddy may differ from what it was: its own come and go.
const slack = 2

// restAsBefore is rest, and waits on where more is held than before: what is late in being given back is not a leak.
func (r *reloaded) restAsBefore(ctx context.Context) (rig.Footprint, error) {
	now, err := r.rest(ctx)
	// The error is that it stays so, which the figures say.
	_ = rig.Until(ctx, time.Minute, r.Name+" is as before", func() bool {
		if err == nil && now.Goroutines <= r.before.Goroutines+slack && now.Descriptors <= r.before.Descriptors+slack {
			return true
		}
		if pause(ctx, time.Second) == nil {
			now, err = r.Footprint(ctx)
		}
		return false
	})
	return now, errors.Join(ctx.Err(), err)
}

// underLoad reloads a number of times while an app calls.
func (r *reloaded) underLoad(ctx context.Context, times int, every time.Duration, rate float64) error {
	r.load = rig.Load{Rate: rate}
	r.load.Start(ctx, []*rig.Replica{r.Replica})
	tick := time.NewTicker(every)
	defer tick.Stop()
	var err error
	for i := range times {
		<-tick.C
		start := time.Now()
		if err = r.reload(ctx, fmt.Sprint(times, "-", i+1)); err != nil {
			break
		}
		r.slowest = max(r.slowest, time.Since(start))
	}
	r.tally = r.load.Stop()
	return err
}

// reload loads the configuration with something changed, or Caddy would do nothing.
func (r *reloaded) reload(ctx context.Context, number string) error {
	header := http.Header{"Content-Type": {"text/caddyfile"}}
	config := []byte(strings.ReplaceAll(r.text, "THE_NUMBER", number))
	var status int
	var body []byte
	var err error
	// The admin endpoint is replaced as well, now and then before it has answered: what was loaded is loaded once more, which
	// changes nothing.
	for range 3 {
		if status, body, err = r.Admin(ctx, "/load", header, config); err == nil {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("reloading %s: %w", r.Name, err)
	}
	if status != http.StatusOK {
		return fmt.Errorf("reloading %s: %d %s", r.Name, status, body)
	}
	return nil
}

// rest waits until the idle connections are gone and nothing changes any more, and gives what is left.
func (r *reloaded) rest(ctx context.Context) (rig.Footprint, error) {
	const calm = 2500 * time.Millisecond
	r.Idle()
	var last rig.Footprint
	var failed error
	since := time.Now()
	err := rig.Until(ctx, rig.Hang, r.Name+" comes to rest", func() bool {
		if pause(ctx, 100*time.Millisecond) != nil {
			return false
		}
		now, err := r.Footprint(ctx)
		if now.Goroutines != last.Goroutines || now.Descriptors != last.Descriptors {
			since = time.Now()
		}
		last, failed = now, err
		return err != nil || time.Since(since) > calm
	})
	return last, errors.Join(err, failed)
}

func (s *reloads) report(module, plain *reloaded, c provider.Counts, took time.Duration) *report {
	r := &report{title: fmt.Sprintf("reloads: %d, one each %v, of a Caddy with the module and of a plain one at once, over unix sockets, %v calls/s at each",
		s.reloads, s.every, s.rate)}
	growth := func(judge func(bool, string, any, string), what string, slack, before, after, plainBefore, plainAfter int, unit int, word string) {
		judge(after-before <= max(plainAfter-plainBefore, 0)+slack, what+" before and after",
			fmt.Sprintf("%d, %d%s", before/unit, after/unit, word), fmt.Sprintf("no growth (+%d%s)", slack/unit, word))
		r.note("  of plain Caddy", "%d, %d%s", plainBefore/unit, plainAfter/unit, word)
	}
	m, p := module, plain
	growth(r.must, "goroutines", slack, m.before.Goroutines, m.after.Goroutines, p.before.Goroutines, p.after.Goroutines, 1, "")
	growth(r.must, "descriptors", slack, m.before.Descriptors, m.after.Descriptors, p.before.Descriptors, p.after.Descriptors, 1, "")
	growth(r.bound, "heap", 1<<20, m.before.Heap, m.after.Heap, p.before.Heap, p.after.Heap, 1<<10, " KiB")
	mine, theirs := m.tally.Failures(), p.tally.Failures()
	// Both counts are random: they differ by less than that, were they of the same Caddy, in 999 of 1,000 runs.
	noise := int(math.Ceil(3 * math.Sqrt(float64(mine+theirs))))
	r.bound(mine <= theirs+noise, "failed calls", m.tally, fmt.Sprintf("plain's (+%d)", noise))
	// A connection that is closed at the wrong moment is Caddy's own, and chance; an answer is not.
	r.exactly("calls that were answered with a failure", m.tally.Answered(), 0)
	r.note("  of plain Caddy", "%v", p.tally)
	r.note("calls, and of plain Caddy", "%d, %d", m.tally.Made, p.tally.Made)
	r.exactly("token calls", c.Refreshes, 1)
	r.exactly("calls that the API refused", c.Unauthorized, 0)
	r.note("longest reload, and of plain Caddy", "%.0f, %.0f ms", ms(m.slowest), ms(p.slowest))
	r.note("latency p50, p99, longest", "%.1f, %.1f, %.1f ms", ms(m.load.Latency(.5)), ms(m.load.Latency(.99)), ms(m.load.Latency(1)))
	r.note("  of plain Caddy", "%.1f, %.1f, %.1f ms", ms(p.load.Latency(.5)), ms(p.load.Latency(.99)), ms(p.load.Latency(1)))
	r.note("time", "%.0f s", took.Seconds())
	return r
}
