// Package bearer is an [http.RoundTripper] that keeps the requests of an
// [http.Client] authorized. It takes its tokens from a [tokensource.Source]:
//
//	client := &http.Client{Transport: &bearer.Transport{Source: source}}
//
// # What happens to a request
//
//   - The transport puts the token into the request: as Authorization: Bearer, or
//     where [Transport.Inject] says. It removes credentials that the request
//     brings.
//   - If the API refuses a token that worked before ([AuthFailure]; status 401 by
//     default), the token is renewed once for all requests, and the request is
//     sent again with the new one. For this the transport remembers the first
//     [Transport.ReplayBody] bytes of the body while it sends them.
//   - If the API refuses a new token, it may not know that token yet
//     ([Transport.Settle]). The request waits and is sent again, or is sent with
//     the previous token.
//   - If the API refuses the new token, too, but accepts it from other requests,
//     the request is the cause. For a minute no token is renewed for it.
//   - If nothing helps, the caller gets the API's refusal unchanged. The header
//     Proxy-Status says why nothing helped.
//   - If the API keeps refusing and accepts none of the key's tokens, a circuit
//     breaker opens ([Breakers]). Requests then get an error at once, until a
//     probe finds that the API accepts tokens again.
//
// The transport never modifies the request. It passes responses on unchanged,
// with one exception: it marks the response to an accepted token as private,
// because a cache in front sees a request without Authorization.
//
// # Errors
//
// No request is ever sent without a token. If there is no token, the error is an
// [*Error]; http.Client wraps it in a [net/url.Error]. The errors of package
// tokensource say what to do:
//
//	switch {
//	case errors.Is(err, tokensource.ErrAuthorizationRequired):
//		// a person must authorize again
//	case errors.Is(err, tokensource.ErrUnavailable), errors.Is(err, tokensource.ErrBreakerOpen):
//		// try again after tokensource.RetryAfter(err)
//	}
//
// Tokens go over https, or over http to this host. [Transport.AllowHTTP] names
// other hosts for http. A request that follows a redirect to another host is
// refused with [ErrInsecure], because the token is not meant for that host; set
// the client's CheckRedirect to handle such redirects.
//
// # One token for each user
//
// A source with key names holds a token for each [tokensource.Key]. The key
// comes with the request's context ([WithKey]) or from a function
// ([Transport.Key]). A request without a key is an error ([ErrKey]).
package bearer
