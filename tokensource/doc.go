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
// # Use
//
//	source, err := tokensource.New(tokensource.Config{
//		Name:  "acme",
//		Grant: tokensource.ClientCredentials(tokenendpoint.New(url, id, secret)),
//	})
//	...
//	defer source.Close(ctx)
//	token, err := source.Token(ctx, tokensource.Key{})
//
// How a token is obtained is a [Grant]. There is a constructor for each of
// OAuth's: [ClientCredentials], [Password], [AuthorizationCode], [RefreshToken],
// and [Request] for whatever else responds with a token. Package tokenendpoint
// makes the calls, in the dialects of real providers too.
//
// A program rarely asks for a token itself. Package bearer is an
// http.RoundTripper that puts tokens into requests and renews one that an API
// refuses. [Source.TokenSource] is a golang.org/x/oauth2 TokenSource.
//
// # Errors
//
// [Source.Token] fails with one of the package's sentinels, to be tested with
// errors.Is. [RetryAfter] says when to ask again.
//
// # Many processes
//
// With a [tokenstore.Store] a token outlives the process. Processes that share
// the store renew each token once: see docs/decisions/0008-renewal-in-a-fleet.md.
package tokensource
