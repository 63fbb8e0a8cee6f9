package bearer

import (
	"time"

	"github.com/caddy-bearer/caddy-bearer/tokensource"
)

// Whose fault is a refusal: the token's or the request's? This file decides, by
// what is known and by nothing else, so that it is tested by table.

// evidence is what is known when the API has refused a token.
type evidence struct {
	// The token that was refused, the newest that this request had:

	worked    bool // the API had accepted it before it was sent
	works     bool // the API has accepted it by now: another request's, meanwhile
	young     bool // it is younger than settle
	again     bool // this request was refused with it before
	renewable bool // it can be replaced without a person

	// The request:

	sendings    int  // how often it was sent
	waits       int  // how often it waited for a token to become known
	patient     bool // its caller has the time for one more wait
	renewed     bool // another token was refused before this one
	replayable  bool // its body can be sent again
	predecessor bool // the token before this one worked and lives, and was not sent yet

	// What is remembered of the last minute:

	uncured  bool // a renewal did not help the same method and path
	suspect  bool // nor another request with this key, and the API has just accepted the token
	hasty    bool // a young token was replaced already
	hopeless bool // a token of this key had its time and was refused still, and none was accepted since
}

// action is what to do with a refusal.
type action int

const (
	passOn          action = iota
	sendAgain              // with the same token, at once
	sendLater              // with the same token, or what has replaced it, after a wait
	sendPredecessor        // with the token before
	renew                  // and send with the new token
	renewOnly              // for the requests to come: this one cannot be sent again
)

// decision is what becomes of a refusal.
type decision struct {
	do   action
	wait time.Duration // of sendLater
	// why and verdict are for the observer and the breaker where the refusal is
	// passed on.
	why     Replay
	verdict tokensource.Verdict
	// remember: a renewal will not help this method and path for a while.
	remember bool
}

// settleWaits are the waits for a token to become known.
var settleWaits = [...]time.Duration{300 * time.Millisecond, time.Second, 2 * time.Second}

// maxSendings bounds how often one request is sent: first, after each wait, and
// once with another token.
const maxSendings = 2 + len(settleWaits)

// decide is the table of docs/decisions/0010-whose-fault-is-a-refusal.md.
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
		// The token works for others, and this request was refused before it.
		return decision{why: ReplayRequest, verdict: tokensource.Neutral, remember: true}
	case e.worked && (e.uncured || e.suspect):
		return decision{why: ReplayRequest, verdict: tokensource.Neutral}
	case e.works && !e.worked && !last:
		return decision{do: sendAgain} // it has just become known
	case !e.worked && e.young:
		switch {
		case last:
		case e.predecessor:
			return decision{do: sendPredecessor}
		case e.waits < len(settleWaits) && e.patient:
			return decision{do: sendLater, wait: settleWaits[e.waits]}
		}
		if !last && !e.renewed && e.renewable && !e.hasty && !e.hopeless && !e.works {
			// It has had some time, and may have been revoked. But if its successor is
			// refused too, the API is slow, and a third token would be as young again.
			return decision{do: renew}
		}
		if e.hopeless && !e.works { // as the one before it, which had its time
			return decision{why: ReplayRefused, verdict: tokensource.Fails, remember: e.renewed}
		}
		// It is too young to be held against anyone. If it turns out to work for
		// others, the renewal that brought it did not help this request.
		return decision{why: ReplayUnsettled, verdict: tokensource.Neutral, remember: e.renewed}
	case e.renewed && e.works: // known at last, when there was no sending left
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
