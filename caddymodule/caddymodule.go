// Package caddymodule is the Caddy side of caddy-bearer: an app that owns
// token sources (token_sources), a reverse proxy transport that injects their
// tokens (http.reverse_proxy.transport.bearer), and a handler through which
// tokens that need a person are obtained (http.handlers.token_login).
//
// It translates: Caddyfile and JSON into the settings of packages tokensource
// and bearer, their errors into HTTP answers, renewals and requests into
// metrics, spans and logs, Caddy's storage into a Store. What a token's life
// is, it leaves to tokensource; how a request gets its token, to bearer.
package caddymodule
