package tokensource

import (
	"errors"
	"time"

	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenendpoint"
)

// What follows from a failure: pure functions of the error.

// failure is what is remembered of a renewal that did not work.
type failure struct {
	err   error // nil: none
	fault Fault
	at    time.Time // when it was
	since time.Time // when the first in a row was
	// attempts in a row that failed.
	attempts int
	// alone are those of them since which the endpoint has worked for other keys.
	alone int
	// until: no renewal before, not even a look into the store.
	until time.Time
	// callAt: no token call before, unless the store has something new. It is far
	// away where only a person, or another process, can help.
	callAt time.Time
	// hurryAt: an attempt is as urgent as if a request waited for it, for the
	// token that still lives will not for long. Zero: it is not.
	hurryAt time.Time
}

// never is far away.
const never = 100 * 365 * 24 * time.Hour

// remember is the failure after another error. endpointWorked: the endpoint has
// done its work for others since the last failure.
func remember(last failure, err error, now time.Time, endpointWorked bool, random float64) failure {
	next := failure{err: err, fault: FaultOf(err), at: now, since: now, attempts: 1}
	if last.err != nil {
		next.since, next.attempts = last.since, last.attempts+1
	}
	var chained *tokenendpoint.AuthorizerError
	switch {
	case errors.Is(err, ErrUnreadable):
		next.until, next.callAt = now.Add(recheckStore), now.Add(never)
	case ofStore(err):
		next.until = now.Add(min(retryAfter(0, next.attempts, storeRetryMax, random), storeRetryMax))
	case errors.As(err, &chained):
		// It is the other source's to remember: this one asks it again.
		next.until = now.Add(lookAfter(err))
	case next.fault == FaultConsent:
		next.until, next.callAt = now.Add(recheckStore), now.Add(never)
	case next.fault == FaultSuspected:
		next.until, next.callAt = now.Add(recheckStore), now.Add(suspectAfter(next.attempts, statusOf(err) == 401))
	case next.fault == FaultUser:
		next.until = now.Add(min(backoff(next.attempts, userRetryMax), recheckStore))
		next.callAt = now.Add(backoff(next.attempts, userRetryMax))
	case next.fault == FaultClient:
		next.until = now.Add(lookAfter(err))
	case last.fault == FaultEndpoint && endpointWorked:
		next.alone = last.alone + 1
		next.until = now.Add(retryAfter(0, next.alone, userRetryMax/10, random))
	case next.fault == FaultEndpoint: // the gate knows for how long
		next.until = now.Add(backoffMin)
	default:
		next.until = now.Add(retryAfter(RetryAfter(err), next.attempts, userRetryMax, random))
	}
	return next
}

// lookAfter is how long a failure that says when to come again is let alone, until
// somebody else's outcome may be looked for.
func lookAfter(err error) time.Duration {
	return min(max(RetryAfter(err), backoffMin), recheckStore)
}

// final reports whether waiting does not help a caller.
func final(err error) bool {
	return errors.Is(err, ErrRefused) || errors.Is(err, ErrAuthorizationRequired)
}

// endpointError returns the endpoint's part of an error; nil: there is none, or
// it is of another source that the call leans on.
func endpointError(err error) *tokenendpoint.Error {
	var ee *tokenendpoint.Error
	var chained *tokenendpoint.AuthorizerError
	if errors.As(err, &chained) || !errors.As(err, &ee) {
		return nil
	}
	return ee
}

// verdictOf is what a failed call says to the endpoint's breaker.
func verdictOf(err error) Verdict {
	switch {
	case endpointError(err) == nil, throttled(err):
		return Neutral
	case FaultOf(err) == FaultEndpoint:
		return Fails
	}
	return Works
}

// uncertain reports whether a call may have used up what was sent with it.
func uncertain(err error) bool {
	var ee *tokenendpoint.Error
	return errors.As(err, &ee) && ee.Sent && ee.Status < 300 && ee.Class != tokenendpoint.Permanent
}

// spent reports whether a code that was sent is no good any more: refused,
// taken by a response that could not be read, or perhaps so by one that did not
// come. When the endpoint was out of order or throttling, refused the client, or
// was never reached, it is good still.
func spent(err error) bool {
	ee := endpointError(err)
	if ee == nil || !ee.Sent {
		return false
	}
	return ee.Status < 500 && ee.Class != tokenendpoint.Throttled && FaultOf(err) != FaultClient
}
