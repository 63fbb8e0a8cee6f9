package idp

import (
	"fmt"
	"math"
	"time"
)

// Outcome is what came of a token request.
type Outcome string

// The outcomes.
const (
	Issued    Outcome = "issued"
	Reissued  Outcome = "issued again within the grace period"
	Reused    Outcome = "ALARM: a used refresh token; the grant is revoked"
	Revoked   Outcome = "refused: the grant is revoked"
	HungUp    Outcome = "the client hung up; nothing was done"
	Unknown   Outcome = "refused: never issued"
	Malformed Outcome = "refused: malformed"
)

// Call is one token request.
type Call struct {
	Number int
	// Who sent it.
	Who string
	// Grant is its grant_type.
	Grant string
	// Family is the grant that it is about, and Generation that of the refresh token which it brought; the seed's is 0.
	Family, Generation int
	// Arrived, Decided and Sent are its times: Decided is when the refresh token was used up, a moment before the
	// answer went out, and Sent when the answer was given to the kernel. Zero: not.
	Arrived, Decided, Sent time.Time
	Outcome                Outcome
}

// String is the call in one line.
func (c Call) String() string {
	s := fmt.Sprintf("call %d by %s: %s, grant %d generation %d: %s", c.Number, c.Who, c.Grant, c.Family, c.Generation, c.Outcome)
	if c.Outcome == "" {
		s += "(under way)"
	}
	if !c.Decided.IsZero() {
		s += fmt.Sprintf(" (decided +%.1f ms, sent +%.1f ms)", ms(c.Decided.Sub(c.Arrived)), ms(c.Sent.Sub(c.Arrived)))
	}
	return s
}

func ms(d time.Duration) float64 { return d.Seconds() * 1e3 }

// Counts are the counters of a provider.
type Counts struct {
	// Refreshes are the token requests with a refresh token, whatever came of them; Issued those that got a new pair.
	Refreshes, Issued int
	// Reissued are those that got one again within the grace period.
	Reissued int
	// Alarms are refresh tokens that came again.
	Alarms int
	// HungUp are those that nothing was done for.
	HungUp int
	// Refused are all other refusals, malformed requests among them.
	Refused int
	// Codes are the authorization codes that were taken.
	Codes int
	// API counts the calls of the API, and Unauthorized those that were refused.
	API, Unauthorized int
}

// Counts gives the counters.
func (p *Provider) Counts() Counts {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.counts
}

// Calls gives the token requests so far.
func (p *Provider) Calls() []Call { return p.Last(math.MaxInt) }

// Last gives the last n token requests.
func (p *Provider) Last(n int) []Call {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []Call
	for _, c := range p.calls[max(0, len(p.calls)-n):] {
		out = append(out, *c)
	}
	return out
}

// done notes the outcome of a token request. The lock is held.
func (p *Provider) done(c *Call, o Outcome, at time.Time) {
	c.Outcome, c.Decided = o, at
	switch o {
	case Issued:
		if c.Grant == refreshGrant {
			p.counts.Issued++
		} else {
			p.counts.Codes++
		}
	case Reissued:
		p.counts.Reissued++
	case Reused:
		p.counts.Alarms++
	case HungUp:
		p.counts.HungUp++
	case Revoked, Unknown, Malformed:
		p.counts.Refused++
	}
}
