// Package tokensource keeps OAuth access tokens alive.
//
// A [Source] holds one token, or one for each [Key], and renews it by itself:
// ahead of its expiry, in the background, once at a time however many callers
// want it, with back-off when the token endpoint fails. What it learns goes to
// a [Store] before it is used, so that a restart loses nothing.
//
// A token's life is fresh, due, expired:
//
//   - fresh: [Source.Token] is an atomic load.
//   - due: callers still get the token while one renewal runs in the background.
//   - expired: callers wait for that one renewal, each no longer than its context.
//
// How a token is obtained is a [Grant]. [EndpointGrant] speaks to a token
// endpoint as RFC 6749 describes it and in the dialects that real providers
// have instead; its request and answer are read and written by [tokenendpoint.Endpoint].
//
// The package knows nothing of Caddy: [Source.TokenSource] is a
// golang.org/x/oauth2 TokenSource for any Go program.
package tokensource
