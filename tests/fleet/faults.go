package main

import (
	"time"
)

const failover = "failover"

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
	"split": func(x *site) {
		x.other.Cut()
		x.last()
		x.other.Mend()
	},
	failover: (*site).failOver,
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
