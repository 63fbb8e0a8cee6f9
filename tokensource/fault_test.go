package tokensource

import (
	"testing"

	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenendpoint"
)

// TestJudge is the table of whose fault a failure is: docs/faults.md, "Whose fault
// a failure is".
func TestJudge(t *testing.T) {
	const (
		worked = 1 << iota
		grantWorked
		perKey
		ownClient
		doubt
		stays
	)
	said := func(status int, code string) *tokenendpoint.Error {
		return &tokenendpoint.Error{Status: status, Code: tokenendpoint.Code(code), Class: tokenendpoint.Permanent, Sent: true}
	}
	bare := func(status int) *tokenendpoint.Error { return &tokenendpoint.Error{Status: status, Sent: true} }
	means := func(m tokenendpoint.Meaning) *tokenendpoint.Error {
		return &tokenendpoint.Error{Status: 400, Meaning: m, Class: tokenendpoint.Permanent, Sent: true}
	}
	for _, c := range []struct {
		name  string
		call  callKind
		known int
		err   *tokenendpoint.Error
		want  judgement
	}{
		// What is no answer to the question is the endpoint's, whatever was asked.
		{"silence", callGrant, 0, bare(0), judgement{FaultEndpoint, 0}},
		{"500 at a refresh", callRefreshToken, worked, bare(500), judgement{FaultEndpoint, 0}},
		{"a gateway's 403", callGrant, 0, bare(403), judgement{FaultEndpoint, 0}},
		{"a bare 401", callGrant, worked, bare(401), judgement{FaultEndpoint, 0}},
		{"a bare 401 at a refresh", callRefreshToken, worked, bare(401), judgement{FaultEndpoint, 0}},
		{"an unreadable 200 for a code", callCode, worked, bare(200), judgement{FaultEndpoint, 0}},
		{"a bare 401 that stays", callGrant, stays, bare(401), judgement{FaultClient, 0}},
		{"a bare 401 that stays, at a refresh", callRefreshToken, worked | stays, bare(401), judgement{FaultSuspected, 2}},

		// The client.
		{"invalid_client", callGrant, worked | grantWorked, said(401, "invalid_client"), judgement{FaultClient, 0}},
		{"invalid_client at a refresh", callRefreshToken, worked, said(400, "invalid_client"), judgement{FaultClient, 0}},
		{"invalid_client for a code", callCode, worked, said(401, "invalid_client"), judgement{FaultClient, 0}},
		{"its kin", callRefreshToken, worked, said(400, "invalid_client_secret"), judgement{FaultClient, 0}},
		{"GitHub's kin", callGrant, 0, said(200, "incorrect_client_credentials"), judgement{FaultClient, 0}},
		{"unauthorized_client for a grant", callGrant, worked | grantWorked, said(400, "unauthorized_client"), judgement{FaultClient, 0}},
		{"401 access_denied for a grant", callGrant, 0, said(401, "access_denied"), judgement{FaultClient, 0}},
		{"a 401 in JSON for a grant that worked", callGrant, worked | grantWorked, said(401, ""), judgement{FaultClient, 0}},
		{"invalid_scope", callGrant, worked | grantWorked, said(400, "invalid_scope"), judgement{FaultClient, 0}},
		{"unsupported_anything", callGrant, 0, said(400, "unsupported_token_type"), judgement{FaultClient, 0}},
		{"the settings' own password", callGrant, 0, said(400, "invalid_grant"), judgement{FaultClient, 0}},
		{"invalid_request for a grant that never worked", callGrant, 0, said(400, "invalid_request"), judgement{FaultClient, 0}},
		{"invalid_request for one that did", callGrant, worked | grantWorked, said(400, "invalid_request"), judgement{FaultEndpoint, 0}},
		{"a 401 at a refresh in a new process", callRefreshToken, 0, said(401, "access_denied"), judgement{FaultClient, 2}},
		{"invalid_scope at a refresh in a new process", callRefreshToken, 0, said(400, "invalid_scope"), judgement{FaultClient, 3}},

		// A consent.
		{"invalid_grant at a refresh", callRefreshToken, 0, said(400, "invalid_grant"), judgement{FaultConsent, 0}},
		{"invalid_grant for a code", callCode, worked, said(400, "invalid_grant"), judgement{FaultConsent, 0}},
		{"a refresh token that may be used up", callRefreshToken, doubt, said(400, "unauthorized_client"), judgement{FaultConsent, 0}},
		{"Glewlwyd's bare 400 in doubt", callRefreshToken, doubt, bare(400), judgement{FaultConsent, 0}},
		{"invalid_client in doubt", callRefreshToken, doubt, said(401, "invalid_client"), judgement{FaultClient, 0}},
		{"any other word for a code", callCode, worked, said(400, "bad_verification_code"), judgement{FaultConsent, 0}},

		// A consent, perhaps.
		{"Dex", callRefreshToken, worked, said(400, "invalid_request"), judgement{FaultSuspected, 3}},
		{"Gitea", callRefreshToken, worked, said(400, "unauthorized_client"), judgement{FaultSuspected, 3}},
		{"Gitea, in a new process", callRefreshToken, 0, said(400, "unauthorized_client"), judgement{FaultSuspected, 3}},
		{"GitHub", callRefreshToken, 0, said(200, "bad_refresh_token"), judgement{FaultSuspected, 3}},
		{"a word of its own with 401", callRefreshToken, worked, said(401, "session_over"), judgement{FaultSuspected, 2}},
		{"a 401 that names the token", callRefreshToken, 0, said(401, "invalid_refresh_token"), judgement{FaultSuspected, 2}},

		// A user.
		{"a user who is not known", callGrant, perKey | worked, said(400, "access_denied"), judgement{FaultUser, 3}},
		{"a user, the first of all", callGrant, perKey, said(404, ""), judgement{FaultUser, 3}},
		{"a 401 for one user", callGrant, perKey | worked, said(401, ""), judgement{FaultUser, 2}},
		{"a 401 for the first user", callGrant, perKey, said(401, ""), judgement{FaultClient, 2}},
		{"a client of the user's own", callGrant, perKey | ownClient, said(401, "invalid_client"), judgement{FaultUser, 0}},

		// The settings go before all that.
		{"consent_lost", callRefreshToken, 0, means(tokenendpoint.ConsentLost), judgement{FaultConsent, 0}},
		{"consent_lost, by a grant for a user", callGrant, perKey, means(tokenendpoint.ConsentLost), judgement{FaultUser, 0}},
		{"user_refused", callGrant, perKey, means(tokenendpoint.UserRefused), judgement{FaultUser, 0}},
		{"user_refused at a refresh", callRefreshToken, worked, means(tokenendpoint.UserRefused), judgement{FaultUser, 0}},
		{"user_refused without a key", callGrant, 0, means(tokenendpoint.UserRefused), judgement{FaultClient, 0}},
		{"client_refused at a refresh", callRefreshToken, worked, means(tokenendpoint.ClientRefused), judgement{FaultClient, 0}},
		{"permanent at a grant", callGrant, perKey, means(tokenendpoint.RefusedForGood), judgement{FaultClient, 0}},
		{"permanent at a refresh", callRefreshToken, worked, means(tokenendpoint.RefusedForGood), judgement{FaultConsent, 0}},
	} {
		t.Run(c.name, func(t *testing.T) {
			has := func(bit int) bool { return c.known&bit != 0 }
			got := judge(c.err, evidence{
				call: c.call, works: has(worked), grantWorked: has(grantWorked), perKey: has(perKey),
				ownClient: has(ownClient), doubt: has(doubt), bareStays: has(stays),
			})
			if got != c.want {
				t.Errorf("%q, suspects %d: want %q, %d", got.fault, got.suspects, c.want.fault, c.want.suspects)
			}
		})
	}
}
