package caddymodule

import (
	"cmp"
	"fmt"
	"net/url"
	"reflect"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-bearer/caddy-bearer/internal/plainhttp"
	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenendpoint"
)

// What is in this file is allowed, and seldom meant. It is told at each load.

// warn logs a warning about an option, with its place in the Caddyfile.
func warn(ctx caddy.Context, o *Origin, option, format string, args ...any) {
	ctx.Logger().Warn(o.errorf(option, format, args...).Error())
}

// warn is that of the config, once for endpoints that share the option.
func (gc *GrantContext) warn(o *Origin, option, text string) {
	if id := fmt.Sprint(o, option); !gc.warned[id] {
		if gc.warned == nil {
			gc.warned = make(map[string]bool)
		}
		gc.warned[id] = true
		warn(gc.Context, o, option, "%s", text)
	}
}

// warnLiteral warns of a secret that stands in the config itself. Whoever can read
// /config/ or the autosaved file has it. {$NAME} becomes such a text, too. A token
// endpoint on this host is a test's.
func (e *Endpoint) warnLiteral(gc *GrantContext, option, text string) {
	if text == "" || hasPlaceholder(text) {
		return
	}
	if u, err := url.Parse(e.TokenURL); err == nil && plainhttp.Loopback(u.Hostname()) {
		return
	}
	gc.warn(e.Origin, option, "the value stands in the config, which the admin API shows and Caddy saves to a file: expected {env.NAME} or {file.PATH} ({$NAME} is replaced too early)")
}

// warnLiterals warns of the endpoint's own secrets.
func (e *Endpoint) warnLiterals(gc *GrantContext) {
	e.warnLiteral(gc, "client_secret", e.ClientSecret)
	for _, p := range e.Params {
		if namesSecret(p.Name) {
			e.warnLiteral(gc, "param "+p.Name, p.Value)
		}
	}
	for _, h := range e.Headers {
		if namesSecret(h.Name) {
			e.warnLiteral(gc, "header "+h.Name, h.Value)
		}
	}
}

// namesSecret reports whether a parameter or header of this name holds a secret.
func namesSecret(name string) bool {
	name = strings.NewReplacer("-", "", "_", "", ".", "").Replace(strings.ToLower(name))
	for _, word := range []string{"secret", "password", "passwd", "apikey", "privatekey", "authorization", "refreshtoken", "accesskey"} {
		if strings.Contains(name, word) {
			return true
		}
	}
	return false
}

// warnEveryone warns of callers that are everyone.
func (c *callerCheck) warnEveryone(ctx caddy.Context, o *Origin) {
	for _, r := range c.ranges {
		if r.Bits() == 0 {
			warn(ctx, o, "callers", "%s is everyone who can reach this address, and acts with the tokens: expected the ranges that the callers have", r)
		}
	}
}

// unverified reports whether TLS is not verified, and noVerification warns of it.
func unverified(tls *reverseproxy.TLSConfig) bool { return tls != nil && tls.InsecureSkipVerify }

const noVerification = "certificates are not verified: anybody on the way can take the place of the other side, and gets the credentials: expected the CA's file in place of that"

// warnRedirect warns of a redirect_uri at which others can read the code.
func (g *AuthorizationCode) warnRedirect(gc *GrantContext, redirectURI tokenendpoint.Template) {
	sample, _ := redirectURI.Expand(func(string) (string, bool) { return "x", true })
	if u, err := url.Parse(sample); err == nil && u.Scheme == "http" && !plainhttp.Loopback(u.Hostname()) {
		gc.warn(g.Origin, "redirect_uri", "codes come back over plain http: expected https, or http to a loopback address (RFC 8252, section 8.3)")
	}
}

// warnAdmin warns of an admin endpoint that every program on this host can call. It can
// send the tokens to another upstream, and have placeholders of the environment printed.
// Caddy checks the origin of web pages there, and no more.
func (a *App) warnAdmin(ctx caddy.Context) {
	listen, ok := adminListen(ctx)
	if !ok || len(a.Sources) == 0 {
		return
	}
	if addr, err := caddy.ParseNetworkAddress(listen); err != nil || addr.IsUnixNetwork() || addr.IsFdNetwork() {
		return
	}
	a.log.Warn("the admin endpoint listens on " + listen + ": every program on this host can change the config there, and so get the tokens and the client's secret: " +
		"expected `admin unix//run/caddy/admin.sock|0600`, in a folder of Caddy's user, or `admin off`")
}

// adminListen returns where the config's admin endpoint listens; false if it is off. A
// module cannot ask for that. Reading the fields by reflection can do no harm: if they
// have other names one day, there is no warning, and a test fails.
func adminListen(ctx caddy.Context) (string, bool) {
	field := func(v reflect.Value, name string) reflect.Value {
		for v.Kind() == reflect.Pointer {
			v = v.Elem()
		}
		if v.Kind() != reflect.Struct {
			return reflect.Value{}
		}
		return v.FieldByName(name)
	}
	cfg := field(reflect.ValueOf(ctx), "cfg")
	if cfg.Kind() != reflect.Pointer || cfg.IsNil() {
		return "", false
	}
	admin := field(cfg, "Admin")
	if admin.Kind() != reflect.Pointer {
		return "", false
	}
	listen := ""
	if !admin.IsNil() {
		if disabled := field(admin, "Disabled"); disabled.Kind() != reflect.Bool || disabled.Bool() {
			return "", false
		}
		text := field(admin, "Listen")
		if text.Kind() != reflect.String {
			return "", false
		}
		listen = text.String()
	}
	return cmp.Or(listen, caddy.DefaultAdminListen), true // the default is CADDY_ADMIN, where that is set
}
