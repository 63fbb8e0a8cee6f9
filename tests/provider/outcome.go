package provider

import (
	"fmt"
	"time"
)

// Outcome is what came of a token request.
type Outcome string

// The outcomes. A token request has none while it is under way, nor where a script answered it without the grant.
const (
	Issued   Outcome = "issued"
	Reissued Outcome = "issued again within the grace period"
	Reused   Outcome = "ALARM: a used refresh token; the grant is revoked"
	Revoked  Outcome = "refused: the grant is revoked"
	HungUp   Outcome = "the client hung up; nothing was done"
	Unknown  Outcome = "refused: the code, the refresh token or the password is not valid"
	Rejected Outcome = "refused: malformed"
)

// String is the call in one line, without any secret.
func (c Call) String() string {
	if c.Endpoint != Token && c.Endpoint != User {
		return fmt.Sprintf("%s call %d: %s %s, token %d of %q: status %d %s",
			c.Endpoint, c.Number, c.Method, c.Path, c.Serial, c.Holder, c.Status, c.Refused)
	}
	outcome := c.Outcome
	if outcome == "" {
		outcome = "(not decided)"
	}
	s := fmt.Sprintf("%s call %d by %q: %s, grant %d generation %d: %s, status %d %s",
		c.Endpoint, c.Number, c.Who(), c.GrantType, c.Family, c.Generation, outcome, c.Status, c.Refused)
	if !c.Decided.IsZero() {
		s += fmt.Sprintf(" (decided %+.1f ms, sent %+.1f ms)", ms(c.Decided.Sub(c.Time)), ms(c.Sent.Sub(c.Time)))
	}
	return s
}

func ms(d time.Duration) float64 { return d.Seconds() * 1e3 }

// Counts are the counters of a provider. A token request is counted when it is decided.
type Counts struct {
	// Refreshes are the well-formed token requests with a refresh token, but for those of clients that hung up. Issued are
	// those that got a new token.
	Refreshes, Issued int
	// Reissued are those that got one again within the grace period.
	Reissued int
	// Alarms are the grants that were revoked because a refresh token came again.
	Alarms int
	// HungUp are the requests that nothing was done for, since the client was gone.
	HungUp int
	// Refused are all other refusals.
	Refused int
	// Grants are the requests that got a token for something else: authorization codes, say.
	Grants int
	// API counts the calls of the API, and Unauthorized those that came without a live token.
	API, Unauthorized int
}

// Counts gives the counters.
func (p *Provider) Counts() Counts {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := p.tally
	c.API = p.counts[API]
	return c
}

// decided notes the outcome of a token request. The lock is held.
func (x *Exchange) decided(o Outcome, at time.Time) {
	x.call.Outcome, x.call.Decided = o, at
	c := &x.p.tally
	refresh := x.call.GrantType == "refresh_token"
	if refresh && o != HungUp && o != Rejected {
		c.Refreshes++
	}
	switch o {
	case Issued:
		if refresh {
			c.Issued++
		} else {
			c.Grants++
		}
	case Reissued:
		c.Reissued++
	case Reused:
		c.Alarms++
	case HungUp:
		c.HungUp++
	case Revoked, Unknown, Rejected:
		c.Refused++
	}
}
