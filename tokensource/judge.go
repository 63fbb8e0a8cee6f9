package tokensource

import (
	"errors"
	"net/http"
	"time"

	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenendpoint"
)

// What a failed call says, and of whom: pure functions of the error.

// remember is the failure after another error.
func remember(last failure, err error, now time.Time) failure {
	next := failure{attempts: last.attempts + 1, err: err}
	var chained *tokenendpoint.AuthorizerError
	switch {
	case ofStore(err):
		next.until = now.Add(min(retryAfter(0, next.attempts, random()), storeRetryMax))
	case errors.As(err, &chained) && final(chained.Err):
		// It is the other source's to remember: this one asks it again.
		next.until = now.Add(recheckStore)
	case final(err):
		next.permanent = true
		next.until = now.Add(recheckStore)
	default:
		next.until = now.Add(retryAfter(RetryAfter(err), next.attempts, random()))
	}
	return next
}

// final reports whether waiting does not help a caller.
func final(err error) bool {
	return errors.Is(err, ErrRefused) || errors.Is(err, ErrAuthorizationRequired)
}

// refusedForGood reports whether it was this source's endpoint that refused:
// what another source that the call leans on was told is not meant.
func refusedForGood(err error) bool {
	var chained *tokenendpoint.AuthorizerError
	return errors.Is(err, ErrRefused) && !errors.As(err, &chained)
}

// grantRefused reports whether an error says that the refresh token is no good,
// for good, and not that the client or the request is at fault: that is mended
// in the settings. Servers tell a used refresh token in many ways
// (unauthorized_client, invalid_request): where it may have been used, any
// refusal of it counts.
func grantRefused(err error, doubt bool) bool {
	var ee *tokenendpoint.Error
	if !errors.As(err, &ee) {
		return false
	}
	if doubt && ee.Status == http.StatusBadRequest && ee.Code == "" {
		return true // all that Glewlwyd says
	}
	if !refusedForGood(err) {
		return false
	}
	switch ee.Code {
	case "invalid_client", "invalid_target":
		return false
	case "unauthorized_client", "unsupported_grant_type", "invalid_request", "invalid_scope":
		return doubt
	case "":
		return ee.Status != http.StatusUnauthorized || doubt
	}
	return true
}

func judge(err error) Verdict {
	var ee *tokenendpoint.Error
	var chained *tokenendpoint.AuthorizerError
	switch {
	case err == nil:
		return Works
	case errors.As(err, &chained):
		return Neutral
	case !errors.As(err, &ee), ee.Class == tokenendpoint.Throttled:
		return Neutral
	case ee.Class == tokenendpoint.Transient:
		return Fails
	case ee.Code == "invalid_client", ee.Code == "unauthorized_client", ee.Status == 401 && ee.Code == "":
		return Fails
	}
	return Works
}

// uncertain reports whether a call may have used up what was sent with it.
func uncertain(err error) bool {
	var ee *tokenendpoint.Error
	return errors.As(err, &ee) && ee.Sent && (ee.Status == 0 || ee.Status < 300)
}

// spent reports whether a code that was sent is no good any more: refused,
// taken by a response that could not be read, or perhaps so by one that did not
// come. When the endpoint was out of order or throttling, or was never
// reached, it is good still.
func spent(err error) bool {
	var ee *tokenendpoint.Error
	return errors.As(err, &ee) && ee.Sent && ee.Status < 500 && ee.Class != tokenendpoint.Throttled
}
