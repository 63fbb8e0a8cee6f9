package main

import (
	"fmt"
	"time"

	"github.com/caddy-bearer/caddy-bearer/tests/fleet/rig"
	"github.com/caddy-bearer/caddy-bearer/tests/provider"
)

func (k *killer) count(is func(death) bool) int {
	n := 0
	for _, d := range k.deaths {
		if is(d) {
			n++
		}
	}
	return n
}

// windows are the times from the provider's answer until the new generation was stored, where nobody was killed in
// between. They are measured from the moment before the answer goes out to the moment after which the write was noticed.
func (k *killer) windows() (all []time.Duration, longest provider.Call) {
	most := time.Duration(0)
	calls := k.provider.TokenCalls()
	for i, c := range calls {
		if c.Outcome != provider.Issued && c.Outcome != provider.Reissued {
			continue
		}
		end := time.Now()
		if i+1 < len(calls) {
			end = calls[i+1].Time
		}
		if written := k.stored.Between(c.Decided, end); len(written) > 0 && !k.cutOff(c, written[0]) {
			window := written[0].Sub(c.Decided)
			if all = append(all, window); window > most {
				most, longest = window, c
			}
		}
	}
	return all, longest
}

// cutOff reports whether the caller was killed before it could write. A call may arrive when its sender is dead already.
func (k *killer) cutOff(c provider.Call, written time.Time) bool {
	return k.count(func(d death) bool {
		return d.victim == c.Who() && d.Gone.Add(notes).After(c.Time) && d.Gone.Add(notes).Before(written)
	}) > 0
}

func (k *killer) recoveries() []time.Duration {
	var out []time.Duration
	for _, d := range k.deaths {
		if !d.renewed.IsZero() {
			out = append(out, d.renewed.Sub(d.Gone))
		}
	}
	return out
}

// lines are the kills and restarts, for a timeline.
func (k *killer) lines() []rig.Line {
	var out []rig.Line
	for _, d := range k.deaths {
		out = append(out,
			rig.Line{At: d.Killed, Text: fmt.Sprintf("kill %d: SIGKILL to %s", d.number, d.victim)},
			rig.Line{At: d.Gone, Text: d.victim + " is dead, " + string(d.phase)},
			rig.Line{At: d.restarted, Text: d.victim + " listens again"})
	}
	return out
}
