package tokensource

import (
	"errors"
	"slices"
	"strings"

	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenendpoint"
)

// Whose fault a failed token call is, as pure functions of what the endpoint
// said and of what is known already. The fault decides who waits, who is told,
// what is kept, and when the next attempt is made.

// Fault says whose fault a failure is.
type Fault string

// The faults.
const (
	// FaultNone: nothing failed.
	FaultNone Fault = ""
	// FaultEndpoint: the token endpoint is down, throttles, or said something
	// that is no answer to the question. All keys wait for it, with back-off.
	FaultEndpoint Fault = "endpoint"
	// FaultClient: the endpoint does not take the client, or what the settings
	// ask for. It concerns every key. One probe at a time finds out whether that
	// is still so.
	FaultClient Fault = "client"
	// FaultConsent: a refresh token or a code is refused. It is not sent again.
	FaultConsent Fault = "consent"
	// FaultSuspected: a refresh was refused in words that do not say whose fault
	// it is. The refresh token is kept, and tried again from time to time.
	FaultSuspected Fault = "consent_suspected"
	// FaultUser: the endpoint refuses one key. Others are served.
	FaultUser Fault = "user"
	// FaultStore: the token store fails.
	FaultStore Fault = "store"
	// FaultRecord: the store works, but the key's record must not be used: it is not
	// sealed, or sealed with another key, or of a newer release. It is left alone,
	// and nobody is called. See ErrUnreadable.
	FaultRecord Fault = "record"
)

// Failure is a failed renewal, judged. It matches ErrUnavailable, ErrRefused or
// ErrAuthorizationRequired, by its fault, whatever the endpoint's words were.
type Failure struct {
	Fault Fault
	// Err is what happened: an [*tokenendpoint.Error] if the endpoint answered or
	// could not be reached.
	Err error
	// lost: it was a person's refresh token.
	lost bool
}

// Error returns the error's own text.
func (f *Failure) Error() string {
	if f.Fault == FaultConsent && f.lost {
		return errLost.Error() + ": " + f.Err.Error()
	}
	return f.Err.Error()
}

// Is matches what the fault means to a caller, and whatever else the error is.
func (f *Failure) Is(target error) bool {
	switch target {
	case ErrUnavailable:
		return f.Fault == FaultEndpoint
	case ErrRefused:
		return f.Fault == FaultClient || f.Fault == FaultUser
	case ErrAuthorizationRequired:
		return f.Fault == FaultConsent || f.Fault == FaultSuspected
	case errLost:
		return f.Fault == FaultConsent && f.lost
	}
	return errors.Is(f.Err, target)
}

// As finds the error's type. The error is not unwrapped any other way: what the
// endpoint's words mean by themselves must not contradict the fault.
func (f *Failure) As(target any) bool { return errors.As(f.Err, target) }

// FaultOf returns whose fault err is; FaultNone if it does not say.
func FaultOf(err error) Fault {
	var f *Failure
	switch {
	case err == nil:
		return FaultNone
	case errors.As(err, &f):
		return f.Fault
	case ofStore(err):
		return FaultStore
	case errors.Is(err, ErrUnreadable):
		return FaultRecord
	case errors.Is(err, ErrAuthorizationRequired), errors.Is(err, ErrCodeRefused):
		return FaultConsent
	case errors.Is(err, ErrUnavailable), errors.Is(err, ErrBreakerOpen):
		return FaultEndpoint
	}
	return FaultNone
}

// callKind is what a token call sends.
type callKind int

const (
	callGrant callKind = iota // the settings alone
	callRefreshToken
	callCode
)

// evidence is what is known besides the response.
type evidence struct {
	call callKind
	// perKey: the grant asks for one key's token, with the key's own values.
	perKey bool
	// ownClient: each key has a client of its own.
	ownClient bool
	// works: the client got a token with these settings before.
	works bool
	// grantWorked: this grant did.
	grantWorked bool
	// doubt: the refresh token may have been used up by a renewal that was cut
	// off.
	doubt bool
	// bareStays: a 401 without words has come so often, for so long, that it is
	// no passing fault of a gateway.
	bareStays bool
}

// judgement is a fault, and how sure it is.
type judgement struct {
	fault Fault
	// suspects: the client may be at fault instead. With a 401 it is, when so many
	// keys are refused alike with no success in between; with other words it is
	// found out, see doubt. 0: the fault is certain.
	suspects int
}

// How many keys have to be refused alike until it is the client's fault. A 401
// is what a server says of a client (RFC 6749, section 5.2); other words are
// said of users far more often.
const (
	suspectsUnauthorized = 2
	suspectsOther        = 3
)

// judge decides whose fault a failed call to the endpoint is.
func judge(ee *tokenendpoint.Error, ev evidence) judgement {
	j := judgeShared(ee, ev)
	if ev.ownClient && (j.fault == FaultClient || j.suspects > 0) {
		if j.fault == FaultClient {
			j.fault = FaultUser
		}
		j.suspects = 0 // what is said of this client says nothing of the others
	}
	return j
}

// judgeShared is judge where all keys are one client's.
func judgeShared(ee *tokenendpoint.Error, ev evidence) judgement {
	said, certain := saidBySettings(ee, ev), true
	if said == FaultNone {
		said, certain = saidByCode(ee, ev)
	}
	switch {
	case said != FaultNone && certain:
		return judgement{fault: said}
	case ev.call == callCode && ev.works:
		return judgement{fault: FaultConsent}
	}
	unauthorized := ee.Status == 401
	suspects := suspectsOther
	if unauthorized {
		suspects = suspectsUnauthorized
	}
	aboutClient := (unauthorized && !ofToken(string(ee.Code))) || said == FaultClient
	switch ev.call {
	case callRefreshToken:
		if ev.works || !aboutClient {
			return judgement{FaultSuspected, suspects}
		}
		return judgement{FaultClient, suspects}
	case callCode:
		if aboutClient {
			return judgement{FaultClient, suspects}
		}
		return judgement{fault: FaultConsent}
	}
	switch {
	case ev.perKey && (ev.works || !aboutClient):
		return judgement{FaultUser, suspects}
	case ev.perKey:
		return judgement{FaultClient, suspects}
	case !aboutClient && ev.grantWorked:
		// It worked with these settings: something else is out of order.
		return judgement{fault: FaultEndpoint}
	}
	return judgement{fault: FaultClient}
}

// saidBySettings is what the response means by the endpoint's matchers.
func saidBySettings(ee *tokenendpoint.Error, ev evidence) Fault {
	refused := FaultClient // by a grant
	switch {
	case ev.call != callGrant:
		refused = FaultConsent
	case ev.perKey:
		refused = FaultUser
	}
	switch ee.Meaning {
	case tokenendpoint.ClientRefused:
		return FaultClient
	case tokenendpoint.ConsentLost:
		return refused
	case tokenendpoint.UserRefused:
		if ev.call == callGrant {
			return refused
		}
		return FaultUser
	case tokenendpoint.RefusedForGood:
		if ev.call == callGrant {
			return FaultClient
		}
		return FaultConsent
	}
	return FaultNone
}

// saidByCode is what the response's code and status mean. certain is false
// where the words are about a client, and may be said of a user as well.
func saidByCode(ee *tokenendpoint.Error, ev evidence) (said Fault, certain bool) {
	// Glewlwyd answers a refresh token that was used before with a bare 400.
	if ev.call == callRefreshToken && ev.doubt && ee.Status == 400 && ee.Code == "" {
		return FaultConsent, true
	}
	if ee.Class != tokenendpoint.Permanent {
		if ev.bareStays && ee.Status == 401 {
			return FaultNone, false
		}
		return FaultEndpoint, true
	}
	code := string(ee.Code)
	switch {
	case ofClient(code):
		return FaultClient, true
	case code == "invalid_grant" && ev.call != callGrant:
		return FaultConsent, true
	case ev.call == callRefreshToken && ev.doubt && code != "invalid_target":
		// Servers tell a used refresh token in many ways (Gitea: unauthorized_client,
		// Dex: invalid_request). Where it may have been used, any refusal of it counts.
		return FaultConsent, true
	case ev.call != callGrant && ofToken(code):
		return FaultNone, false
	case slices.Contains(aboutSettings, code), strings.HasPrefix(code, "unsupported_"):
		return FaultClient, false
	case ev.call == callGrant && code == "unauthorized_client":
		return FaultClient, false // of a refresh, Gitea says it of a dead refresh token
	case ev.call == callGrant && !ev.perKey && (code == "invalid_grant" || code == "access_denied"):
		return FaultClient, true // the settings' own password, or what they ask for
	}
	return FaultNone, false
}

// aboutSettings are codes for what the settings ask for (RFC 6749, section 5.2;
// RFC 8707, section 2).
var aboutSettings = []string{"invalid_scope", "invalid_target"}

// ofClient reports whether a code says that the client is not known, or that
// its credentials are wrong: invalid_client (RFC 6749, section 5.2) and the words
// that servers have of their own, such as invalid_client_secret.
func ofClient(code string) bool {
	return strings.Contains(plainCode(code), "client") && code != "unauthorized_client"
}

// ofToken reports whether a code names the token that was sent, such as
// bad_refresh_token (GitHub).
func ofToken(code string) bool {
	plain := plainCode(code)
	return strings.Contains(plain, "refreshtoken") || slices.Contains([]string{"invalidtoken", "expiredtoken", "tokenexpired", "tokenrevoked", "tokeninvalid"}, plain)
}

// plainCode is a code in lower case without its separators.
func plainCode(code string) string {
	return strings.Map(func(r rune) rune {
		if r == '_' || r == '-' || r == '.' || r == ' ' {
			return -1
		}
		return r
	}, strings.ToLower(code))
}
