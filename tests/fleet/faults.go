package main

import (
	"math/rand/v2"
	"slices"
	"time"

	"github.com/caddy-bearer/caddy-bearer/tests/fleet/rig"
)

const (
	failover = "failover"
	split    = "split"

	anyMoment   = "any"
	worstMoment = "worst"
)

// leaseLife is after how long a replica that says nothing is taken for dead.
const leaseLife = 5 * time.Second

// faults are what a Redis can do to a fleet. Each ends with Redis as good as before.
var faults = map[string]func(*site){
	"stopped": func(x *site) {
		x.main.Kill()
		x.last()
		x.main.Restart(x)
	},
	"paused": func(x *site) {
		x.main.Pause()
		x.last()
		x.main.Resume()
	},
	"slow": func(x *site) {
		x.one.SetLatency(x.latency)
		x.other.SetLatency(x.latency)
		x.last()
		x.one.SetLatency(0)
		x.other.SetLatency(0)
	},
	// Half of the fleet goes on rotating.
	split: func(x *site) {
		x.other.Cut()
		x.last()
		x.other.Mend()
	},
	failover: (*site).failOver,
}

// await waits for the moment at which a fault is to begin.
func (x *site) await(name string) {
	if name == failover {
		return // it chooses its own
	}
	if x.moment == anyMoment {
		if err := pause(x.ctx, rand.N(x.lifetime/10)); err != nil {
			x.Fatal(err)
		}
		return
	}
	arrivals := x.provider.Arrivals()
	deadline := time.After(10 * x.lifetime)
	for {
		select {
		case a := <-arrivals:
			if name == split && !x.beyond(a.Who) {
				continue // it is not one that is cut off
			}
			if err := pause(x.ctx, a.Delay-time.Since(a.At)); err != nil {
				x.Fatal(err)
			}
			return
		case <-deadline:
			x.Fatal("nobody renews")
		}
	}
}

// beyond reports whether a replica sees Redis through the other proxy.
func (x *site) beyond(name string) bool {
	return slices.IndexFunc(x.fleet.Replicas, func(r *rig.Replica) bool { return r.Name == name })%2 == 1
}

// last lets the fault last.
func (x *site) last() {
	if err := pause(x.ctx, x.outage); err != nil {
		x.Fatal(err)
	}
}

// failOver loses the write of a token: Redis and its replica are parted while the provider is asked, and the replica
// takes over.
func (x *site) failOver() {
	arrivals := x.provider.Arrivals()
	select {
	case <-arrivals:
	case <-time.After(x.lifetime):
		x.Fatal("nobody renews")
	}
	x.following.Cut()
	written := x.stored.Next()
	select {
	case <-written:
	case <-time.After(x.lifetime):
		x.Fatal("nothing was written")
	}
	x.main.Kill()
	x.last()
	x.second.Promote(x)
	x.one.SetTarget(x.second.Addr)
	x.other.SetTarget(x.second.Addr)
	// one replica more, or no write would ever be on enough of them
	x.main.SetArgs(durable...)
	x.main.Restart(x)
	x.main.Follow(x, x.second.Addr)
	x.stored.Stop()
	x.stored = watchRedis(x.ctx, x.second.Addr)
}
