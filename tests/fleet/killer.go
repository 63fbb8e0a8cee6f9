package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/caddy-bearer/caddy-bearer/internal/sleep"
	"github.com/caddy-bearer/caddy-bearer/tests/fleet/rig"
	"github.com/caddy-bearer/caddy-bearer/tests/provider"
)

// killer kills the replica that renews, again and again.
type killer struct {
	*kills
	fleet    *rig.Fleet
	provider *provider.Server
	arrivals <-chan provider.Arrival
	load     *rig.Load
	stored   *rig.Watch
	deaths   []death
}

// phase is where in a renewal a kill fell.
type phase string

const (
	beforeCall phase = "before the call"
	duringCall phase = "during the call"
	inWindow   phase = "between answer and write"
	afterWrite phase = "after the write"
)

// death is one kill and what came of it.
type death struct {
	rig.Death
	number    int
	victim    string
	phase     phase
	call      provider.Call // the last that the victim made; zero: none since its last renewal
	restarted time.Time
	renewed   time.Time // when the next generation was written
	by        int       // the number of the call that it came of
	lost      bool
	notice    notice
}

// notice is how long after the restart a loss was told of; 0: it was not.
type notice struct{ log, metric, readiness time.Duration }

// String proves where it lies.
func (d death) String() string {
	at := func(t time.Time) string {
		if t.IsZero() {
			return "never"
		}
		return fmt.Sprintf("%+.1f ms", ms(t.Sub(d.Killed)))
	}
	return fmt.Sprintf("kill %d of %s, %s: refresh token %d.%d used up %s, answer sent %s, dead between 0 and %s; told of %.1f s after the restart",
		d.number, d.victim, d.phase, d.call.Family, d.call.Generation, at(d.call.Decided), at(d.call.Sent), at(d.Gone), d.notice.log.Seconds())
}

const (
	// early and late are how much before the call's arrival and after its answer a kill may fall. What announces a call is
	// noticed up to a millisecond late.
	early = 3 * time.Millisecond
	late  = 30 * time.Millisecond
	// soon is how much after the answer a kill may fall that is aimed at it.
	soon = 5 * time.Millisecond

	aimRenewal = "renewal"
	aimAnswer  = "answer"
)

// once kills one replica at a moment that is uniformly at random over its renewal, starts it again at once, and waits
// until the token was renewed once more, or is known to be lost.
func (k *killer) once(ctx context.Context, number int) error {
	victim, err := k.aim(ctx)
	if err != nil {
		return fmt.Errorf("waiting for a renewal to kill: %w", err)
	}
	before := k.provider.Counts()
	d := death{number: number, victim: victim.Name, Death: victim.Kill()}
	if err := victim.Start(ctx); err != nil {
		return err
	}
	d.restarted = time.Now()
	lostBefore := k.load.Tally().Failed[needsPerson]
	err = rig.Until(ctx, rig.Hang, "the token is renewed again, or known to be lost", func() bool {
		d.renewed, d.by = k.renewedAfter(d.Gone)
		d.lost = k.provider.Counts().Alarms > before.Alarms || k.load.Tally().Failed[needsPerson] > lostBefore
		return d.lost || !d.renewed.IsZero()
	})
	d.phase, d.call = k.place(victim.Name, d.Death)
	if err == nil && d.lost {
		d.notice = k.noticed(ctx, d)
		err = k.authorize(ctx, victim)
	}
	k.deaths = append(k.deaths, d)
	return err
}

const needsPerson = "authorization-required"

// aim waits for a moment of a renewal, and tells who renews.
func (k *killer) aim(ctx context.Context) (*rig.Replica, error) {
	select {
	case <-k.arrivals: // long ago
	default:
	}
	span := (k.minDelay + k.maxDelay) / 2
	ctx, cancel := context.WithTimeout(ctx, rig.Hang)
	defer cancel()
	// More often than its share, or a few kills would not fall there at all.
	if k.aimed == aimRenewal && k.replicas == 1 && rand.N(5*early+span+late) < 5*early {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-k.stored.Next(): // what announces the call
			return k.fleet.Replicas[0], pause(ctx, rand.N(early)-time.Millisecond)
		}
	}
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case a := <-k.arrivals:
		r := k.fleet.Replica(a.Who)
		if r == nil {
			return nil, fmt.Errorf("a token request by %q", a.Who)
		}
		at := rand.N(a.Delay + late)
		if k.aimed == aimAnswer {
			at = a.Delay + rand.N(soon)
		}
		return r, pause(ctx, at-time.Since(a.At))
	}
}

func pause(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	return sleep.For(ctx, d)
}

// settled is the number of the call by which the token was last seen to be renewed.
func (k *killer) settled() int {
	if len(k.deaths) == 0 {
		return 0
	}
	return k.deaths[len(k.deaths)-1].by
}

// renewedAfter is when a generation was written for which the provider was asked after a moment, and by which call; zero: it
// was not.
func (k *killer) renewedAfter(moment time.Time) (at time.Time, by int) {
	const enough = 20 // since then
	for _, c := range slices.Backward(k.provider.LastTokenCalls(enough)) {
		if !c.Time.After(moment) || c.Outcome != provider.Issued && c.Outcome != provider.Reissued {
			continue
		}
		if written := k.stored.Between(c.Decided, time.Now()); len(written) > 0 {
			return written[0], c.Number
		}
	}
	return time.Time{}, 0
}

// notes is how late a change of the store may be noticed: nothing that was started after a kill writes sooner.
const notes = 5 * time.Millisecond

// place finds out where in a renewal a kill fell.
func (k *killer) place(victim string, d rig.Death) (phase, provider.Call) {
	var call provider.Call
	for _, c := range k.provider.TokenCalls() {
		if c.Who() == victim && c.Time.Before(d.Gone) && c.Number > k.settled() {
			call = c
		}
	}
	switch {
	case call.Number == 0:
		return beforeCall, call
	case call.Outcome == provider.HungUp, call.Decided.IsZero(), call.Decided.After(d.Gone):
		return duringCall, call
	case len(k.stored.Between(call.Decided, d.Gone.Add(notes))) > 0:
		return afterWrite, call
	}
	return inWindow, call
}

// noticed waits until a loss is told of wherever it has to be.
func (k *killer) noticed(ctx context.Context, d death) notice {
	var n notice
	since := func(seen bool, at *time.Duration) {
		if seen && *at == 0 {
			*at = time.Since(d.restarted)
		}
	}
	victim := k.fleet.Replica(d.victim)
	// The error says what is missing; the figures say it too.
	_ = rig.Until(ctx, rig.Hang, "the loss is told of", func() bool {
		_ = pause(ctx, 20*time.Millisecond)
		since(k.logged(d.Gone), &n.log)
		_, metrics, err := victim.Get(ctx, "/metrics", nil)
		since(err == nil && strings.Contains(string(metrics), `caddy_token_source_needs_person{source="fleet"} 1`), &n.metric)
		status, _, err := victim.Admin(ctx, "/token_sources/readiness", nil, nil)
		since(err == nil && status == http.StatusServiceUnavailable, &n.readiness)
		return n.log > 0 && n.metric > 0 && n.readiness > 0
	})
	return n
}

// logged reports whether a replica has logged an error of the source since a moment.
func (k *killer) logged(since time.Time) bool {
	for _, r := range k.fleet.Replicas {
		lines, _ := r.Logged(since)
		for _, l := range lines {
			if l.Level == "error" {
				return true
			}
		}
	}
	return false
}

// authorize brings a new grant by an authorization code, as a person would, and waits until everybody has a token.
func (k *killer) authorize(ctx context.Context, r *rig.Replica) error {
	var status int
	var body []byte
	err := rig.Until(ctx, rig.Hang, "a code is taken", func() bool {
		_ = pause(ctx, 20*time.Millisecond)
		form := url.Values{"code": {k.provider.NewCode("person")}}
		header := http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}
		var err error
		status, body, err = r.Post(ctx, "/tokens/code", header, []byte(form.Encode()))
		return err == nil && status == http.StatusOK
	})
	if err != nil {
		return fmt.Errorf("%w: %d %s", err, status, body)
	}
	for _, r := range k.fleet.Replicas {
		err := rig.Until(ctx, rig.Hang, r.Name+" has a token", func() bool {
			_ = pause(ctx, 20*time.Millisecond)
			status, _, err := r.Get(ctx, "/things", nil)
			return err == nil && status == http.StatusOK
		})
		if err != nil {
			return err
		}
	}
	return nil
}
