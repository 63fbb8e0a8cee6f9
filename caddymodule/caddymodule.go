// Package caddymodule is the Caddy side of caddy-bearer: an app that owns
// token sources (token_sources), a handler that sends requests to an API with their
// tokens (http.handlers.bearer), a proxy that does so for calls to the API's own
// address (http.handlers.bearer_intercept), a transport for reverse_proxy
// (http.reverse_proxy.transport.bearer), and a handler that obtains tokens which need a
// person (http.handlers.token_login).
//
// The package translates. It turns Caddyfile and JSON into the settings of packages
// tokensource and bearer, their errors into HTTP responses, renewals and requests
// into metrics, spans and logs, and Caddy's storage into a Store. Package
// tokensource decides about the life of a token, and package bearer decides how a
// request gets it.
package caddymodule
