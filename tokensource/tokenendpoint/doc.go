// Package tokenendpoint makes one call of an OAuth 2.0 token endpoint: it
// writes the request, reads the response, and says what a failure means.
//
// [Endpoint] describes the place and its dialect. The zero value of every field
// but URL is what RFC 6749 describes; the others are for providers that do it
// differently. [Endpoint.Call] makes one call, authenticated by a [ClientAuth],
// and returns a [Response] or an [*Error].
//
// Nothing is sent twice: no redirect is followed and no request is repeated by
// the HTTP client, because a code or a refresh token may be good for one use.
// No error holds the response's body or anything that was sent. Secrets live in
// a [Secret] or a [Template], which print as a placeholder.
//
// A [Matcher] tests a response. The same matchers judge token endpoints and APIs.
//
// The package keeps nothing between calls. The life of a token is package
// tokensource's.
package tokenendpoint
