package bearer

import (
	"time"

	"github.com/caddy-bearer/caddy-bearer/tokensource"
)

// A refusal may be about the token or about the request. This file decides which,
// and what to do. Its functions depend only on their argument, so they are tested
// by table.

// evidence is what is known when the API has refused a token.
type evidence struct {
	// About the refused token, which is the newest of this request:

	worked    bool // the API had accepted it before it was sent
	works     bool // the API has accepted it by now, perhaps from another request meanwhile
	young     bool // it is younger than settle
	again     bool // the API refused this request with it before
	renewable bool // it can be replaced without a person

	// About the request:

	sendings    int  // how often it was sent
	waits       int  // how often it waited for the API to know a token
	patient     bool // there is time for one more wait
	renewed     bool // the API refused it with another token before
	replayable  bool // its body can be sent again
	predecessor bool // the previous token worked, is still valid, and was not tried yet

	// About other requests with this key in the last minute:

	uncured  bool // a renewal did not help this method and path
	suspect  bool // a renewal did not help some request, though the API has accepted the token in the last seconds
	hasty    bool // a young token was replaced already
	hopeless bool // the API refused a token past settle, too, and has accepted none since
}

// action is what to do with a refusal.
type action int

const (
	passOn          action = iota
	sendAgain              // with the same token, at once
	sendLater              // after a wait, with the same token or the one that has replaced it
	sendPredecessor        // with the previous token
	renew                  // and send again with the new token
	renewOnly              // for later requests: this one cannot be sent again
)

// decision says what to do about a refusal.
type decision struct {
	do   action
	wait time.Duration // for sendLater
	// why and verdict are for the observer and the breaker, if the refusal is passed
	// on.
	why     Replay
	verdict tokensource.Verdict
	// remember: a renewal will not help this method and path for a while.
	remember bool
}

// settleWaits are the waits until the API knows a new token. They are short first:
// most APIs that need time need little of it.
var settleWaits = [...]time.Duration{300 * time.Millisecond, time.Second, 2 * time.Second}

// maxSendings bounds how often one request is sent: at first, after each wait, and
// once with another token.
const maxSendings = 2 + len(settleWaits)

// decide implements the table in docs/decisions/0010-whose-fault-is-a-refusal.md.
// A request that cannot be sent again is judged by the same evidence. Where the
// decision is to renew, the token is renewed for the next request.
func decide(e evidence) decision {
	d := e.judge()
	if e.replayable {
		return d
	}
	switch d.do {
	case renew:
		return decision{do: renewOnly, why: ReplayBodyGone, verdict: tokensource.Neutral}
	case sendAgain, sendLater, sendPredecessor:
		return decision{why: ReplayBodyGone, verdict: tokensource.Neutral}
	}
	return d
}

// judge decides for a request that can be sent again.
func (e *evidence) judge() decision {
	last := e.sendings >= maxSendings
	switch {
	case e.worked && (e.renewed || e.again):
		// The token works for others, but this request was refused before, too. No
		// token helps it, so the next ones with this method and path cause no renewal.
		return decision{why: ReplayRequest, verdict: tokensource.Neutral, remember: true}
	case e.worked && (e.uncured || e.suspect):
		return decision{why: ReplayRequest, verdict: tokensource.Neutral}
	case e.works && !e.worked && !last:
		return decision{do: sendAgain} // the API has just learned of the token
	case !e.worked && e.young:
		switch {
		case last:
		case e.predecessor:
			return decision{do: sendPredecessor}
		case e.waits < len(settleWaits) && e.patient:
			return decision{do: sendLater, wait: settleWaits[e.waits]}
		}
		if !last && !e.renewed && e.renewable && !e.hasty && !e.hopeless && !e.works {
			// The token has had some time, so it may have been revoked. This happens only
			// once: if the successor is refused, too, the API is slow, and a third token
			// would be as young.
			return decision{do: renew}
		}
		if e.hopeless && !e.works {
			// Its predecessor was refused past settle. So the API is not slow but refuses
			// the key's tokens, and the breaker must count that, or it would never open
			// for a key whose tokens are all replaced young.
			return decision{why: ReplayRefused, verdict: tokensource.Fails, remember: e.renewed}
		}
		// The token is too young to blame it, so the breaker does not count. If it later
		// works for others, the renewal that brought it did not help this request.
		return decision{why: ReplayUnsettled, verdict: tokensource.Neutral, remember: e.renewed}
	case e.renewed && e.works: // the API knows it now, but no sending is left
		return decision{why: ReplayUnsettled, verdict: tokensource.Neutral}
	case e.renewed:
		return decision{why: ReplayRefused, verdict: tokensource.Fails, remember: true}
	case !e.renewable:
		return decision{why: ReplayNeedPerson, verdict: tokensource.Fails}
	case last:
		return decision{why: ReplayUnsettled, verdict: tokensource.Neutral}
	}
	return decision{do: renew}
}
