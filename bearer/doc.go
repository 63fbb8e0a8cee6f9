// Package bearer is an [http.RoundTripper] that keeps the requests of an
// [http.Client] authorized. It takes its tokens from a [tokensource.Source]:
//
//	client := &http.Client{Transport: &bearer.Transport{Source: source}}
//
// # What happens to a request
//
//   - The token is put into it: as Authorization: Bearer, or where
//     [Transport.Inject] says. Credentials that the request brings are removed.
//   - If the API refuses the token ([AuthFailure]; status 401 unless told
//     otherwise), a token that worked is renewed once for all requests, and the
//     request is sent again with the new one. For this the first
//     [Transport.ReplayBody] bytes of its body are remembered while they are sent.
//   - A token that is new may not be known at the API yet ([Transport.Settle]): the
//     request waits and is sent again, or is sent with the token before.
//   - If a new token is refused as well while it works for others, it is about the
//     request, and none is renewed for it for a minute.
//   - If nothing helps, the caller gets the API's refusal as it came. Its header
//     Proxy-Status says why.
//   - If refusals go on and nothing works, a circuit breaker opens ([Breakers]) and
//     requests get an error at once, until a probe finds that tokens work again.
//
// The request itself is never modified. Answers pass as they come, except that
// an answer to an accepted token is marked private for caches: they see a
// request without Authorization.
//
// # Errors
//
// No request is ever sent without a token. Where there is none, the error is an
// [*Error]; http.Client wraps it in a [net/url.Error]. What to do about it is
// told by package tokensource:
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
