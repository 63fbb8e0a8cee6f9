package caddymodule

import (
	"fmt"
	"net/http"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

func init() {
	caddy.RegisterModule(new(TokenReadiness))
	httpcaddyfile.RegisterHandlerDirective("token_readiness", parseTokenReadiness)
	httpcaddyfile.RegisterDirectiveOrder("token_readiness", httpcaddyfile.Before, "reverse_proxy")
}

// TokenReadiness is a handler that tells whether requests are served, as the
// admin API's /token_sources/readiness does, for where that API is off: 503 when
// a source has no token to serve with, else 200. It answers loopback and unix
// sockets alone unless callers says otherwise, and no web page.
type TokenReadiness struct {
	// The addresses and ranges that may ask, by the connection's peer. A unix
	// socket's callers always may. Default: the loopback ranges, 127.0.0.0/8 and
	// ::1.
	Callers []string `json:"callers,omitempty"`

	ctx     caddy.Context
	callers callerCheck
}

// CaddyModule returns the Caddy module information.
func (*TokenReadiness) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.token_readiness",
		New: func() caddy.Module { return new(TokenReadiness) },
	}
}

// Provision finds the sources, if there are any.
func (tr *TokenReadiness) Provision(ctx caddy.Context) (err error) {
	tr.ctx = ctx
	if tr.callers, err = newCallerCheck(tr.Callers, nil); err != nil {
		return fmt.Errorf("token_readiness: callers: %w", err)
	}
	_, err = findReadiness(ctx)
	return err
}

// ServeHTTP implements caddyhttp.MiddlewareHandler.
func (tr *TokenReadiness) ServeHTTP(w http.ResponseWriter, r *http.Request, _ caddyhttp.Handler) error {
	if p := tr.callers.checkPeer(r); p != nil {
		return p.write(w)
	}
	if !readinessMethod(r.Method) {
		w.Header().Set("Allow", readinessMethods)
		return (&problem{name: problemMethodRefused, status: http.StatusMethodNotAllowed, detail: "expected " + readinessMethods}).write(w)
	}
	ready, err := findReadiness(tr.ctx)
	if err != nil {
		return caddyhttp.Error(http.StatusServiceUnavailable, err)
	}
	return ready.write(w)
}

// UnmarshalCaddyfile sets up the handler from Caddyfile tokens. Syntax:
//
//	token_readiness {
//	    callers <ranges...>
//	}
func (tr *TokenReadiness) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // token_readiness
	if d.NextArg() {
		return d.Errf("token_readiness: unexpected %q: expected its options in a block", d.Val())
	}
	return options{"callers": callersOption(&tr.Callers)}.parse(d, "token_readiness", nil, nil)
}

func parseTokenReadiness(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	tr := new(TokenReadiness)
	return tr, tr.UnmarshalCaddyfile(h.Dispenser)
}

// Interface guards
var (
	_ caddy.Provisioner           = (*TokenReadiness)(nil)
	_ caddyhttp.MiddlewareHandler = (*TokenReadiness)(nil)
	_ caddyfile.Unmarshaler       = (*TokenReadiness)(nil)
)
