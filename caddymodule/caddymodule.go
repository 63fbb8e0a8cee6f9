// Package caddymodule is the Caddy side of caddy-bearer: an app that owns
// token sources (token_sources), a reverse proxy transport that injects their
// tokens (http.reverse_proxy.transport.bearer), and a handler through which
// tokens that need a person are obtained (http.handlers.token_login).
//
// It translates: Caddyfile and JSON into the settings of package tokensource,
// that package's errors into HTTP answers, its renewals into metrics, spans
// and logs, Caddy's storage into its Store. What a token's life is, it leaves
// to that package.
package caddymodule
