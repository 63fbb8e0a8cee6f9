package caddymodule

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"path"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/caddy-bearer/caddy-bearer/internal/plainhttp"
	"github.com/caddy-bearer/caddy-bearer/tokensource"
	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenendpoint"
)

func init() {
	caddy.RegisterModule(new(TokenLogin))
	httpcaddyfile.RegisterHandlerDirective("token_login", parseTokenLogin)
	httpcaddyfile.RegisterDirectiveOrder("token_login", httpcaddyfile.Before, "reverse_proxy")
}

// TokenLogin is a handler through which a source gets tokens that need a person.
// The last element of the path decides:
//
//   - GET start sends a person's browser to the provider, with PKCE (S256) and a
//     state that is bound to the browser.
//   - GET callback receives the browser when it comes back, exchanges the code
//     and shows a fixed page.
//   - POST confirm takes the app's word that a login which began with a link is that
//     of the key's own user. The form field confirmation has the text that the
//     browser got in the end. Only then is the code sent to the provider.
//   - POST code takes a code that the app has received itself, as the form field
//     code. A code that was accepted or refused is not sent again.
//
// What the app POSTs has the same key as its requests to the API. Only callers that a
// bearer transport would serve may POST. Caddy's access log
// does not get these requests, because they carry codes.
type TokenLogin struct {
	// The token source's name. Required.
	Source string `json:"source"`
	// The addresses and ranges that may hand over codes. Default: loopback.
	Callers []string `json:"callers,omitempty"`
	// The names under which they may address the sidecar, besides loopback names.
	Hosts []string `json:"hosts,omitempty"`
	// Where a browser is sent when its login has ended well: an https URL, an http URL
	// of this host, or a path. The parameter confirmation is added to it, if the app has
	// to confirm the login. It should take a confirmation only from a browser that it
	// has sent to the login link itself. Default: a page that shows the confirmation.
	ReturnTo string `json:"return_to,omitempty"`
	// Where the Caddyfile says it.
	Origin *Origin `json:"origin,omitempty"`

	source  *pooledSource
	keys    keyReader
	callers callerCheck
	log     *zap.Logger
}

const (
	loginStart    = "start"
	loginCallback = "callback"
	loginConfirm  = "confirm"
	loginCode     = "code"
)

// CaddyModule returns the Caddy module information.
func (*TokenLogin) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.token_login",
		New: func() caddy.Module { return new(TokenLogin) },
	}
}

// Provision finds the source.
func (tl *TokenLogin) Provision(ctx caddy.Context) error {
	tl.log = ctx.Logger()
	var err error
	if tl.source, tl.keys, err = findSource(ctx, "token_login", tl.Source, tl.Origin); err != nil {
		return err
	}
	if grant := tl.source.GrantType(); grant != "authorization_code" {
		return tl.Origin.errorf("", "token_login %s: its grant is %s: expected authorization_code", tl.Source, grant)
	}
	if tl.callers, err = provisionCallers(ctx, tl.Origin, tl.Callers, tl.Hosts); err != nil {
		return tl.Origin.errorf("callers", "%w", err)
	}
	if !validReturnTo(tl.ReturnTo) {
		return tl.Origin.errorf("return_to", "%q: expected an https URL, an http URL of this host, or a path", tl.ReturnTo)
	}
	return nil
}

func validReturnTo(text string) bool {
	u, err := url.Parse(text)
	switch {
	case text == "":
		return true
	case err != nil || u.Fragment != "" || u.User != nil:
		return false
	case u.Scheme == "" && u.Host == "":
		return strings.HasPrefix(u.Path, "/") && !strings.HasPrefix(text, "//")
	}
	return u.Hostname() != "" && (u.Scheme == "https" || (u.Scheme == "http" && plainhttp.Loopback(u.Hostname())))
}

// ServeHTTP implements caddyhttp.MiddlewareHandler.
func (tl *TokenLogin) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	var handle func(http.ResponseWriter, *http.Request) error
	method := http.MethodGet
	switch path.Base(r.URL.Path) {
	case loginStart:
		handle = tl.start
	case loginCallback:
		handle = tl.callback
	case loginConfirm:
		handle, method = tl.confirm, http.MethodPost
	case loginCode:
		handle, method = tl.code, http.MethodPost
	default:
		return orNotFound(w, r, next)
	}
	// The query and the form carry codes. Keep them out of the access log, out of
	// caches, and out of the Referer of whatever page comes next.
	caddyhttp.SetVar(r.Context(), caddyhttp.LogSkipVar, true)
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Referrer-Policy", "no-referrer")
	if r.Method != method {
		w.Header().Set("Allow", method)
		handle = func(w http.ResponseWriter, _ *http.Request) error {
			return (&problem{name: problemMethodRefused, status: http.StatusMethodNotAllowed, detail: "expected " + method}).write(w, r)
		}
	}
	if err := handle(w, r); err != nil {
		// The caller has gone. The error is not returned: Caddy would log it together
		// with the request, and so with the code in its query.
		tl.log.Debug("the response to a login was not written", zap.String("source", tl.Source), zap.Error(err))
	}
	return nil
}

// orNotFound passes a request on to the next handler. If no handler responds, it
// responds with 404. Caddy would send an empty 200, which a program takes for
// success.
func orNotFound(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	watched := &watchedWriter{ResponseWriterWrapper: &caddyhttp.ResponseWriterWrapper{ResponseWriter: w}}
	if err := next.ServeHTTP(watched, r); err != nil || watched.responded {
		return err
	}
	p := &problem{
		name: problemNotFound, status: http.StatusNotFound,
		detail: fmt.Sprintf("expected a path that ends in /%s, /%s, /%s or /%s", loginStart, loginCallback, loginConfirm, loginCode),
	}
	return p.write(w, r)
}

// watchedWriter notes whether a handler has responded.
type watchedWriter struct {
	*caddyhttp.ResponseWriterWrapper
	responded bool
}

// WriteHeader implements http.ResponseWriter.
func (w *watchedWriter) WriteHeader(status int) {
	w.responded = true
	w.ResponseWriterWrapper.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (w *watchedWriter) Write(b []byte) (int, error) {
	w.responded = true
	return w.ResponseWriterWrapper.Write(b)
}

// ReadFrom implements io.ReaderFrom.
func (w *watchedWriter) ReadFrom(r io.Reader) (int64, error) {
	w.responded = true
	return w.ResponseWriterWrapper.ReadFrom(r)
}

// Unwrap is called by a handler that takes over the connection. Such a handler
// responds by itself.
func (w *watchedWriter) Unwrap() http.ResponseWriter {
	w.responded = true
	return w.ResponseWriterWrapper.Unwrap()
}

// report logs the outcome of a step of a login. It replaces the access log, which
// does not get these requests.
func (tl *TokenLogin) report(step string, err error) {
	if err != nil {
		tl.log.Warn("login failed", zap.String("source", tl.Source), zap.String("step", step),
			zap.String("result", tokensource.Result(err)), zap.Error(err))
		return
	}
	tl.log.Info("login", zap.String("source", tl.Source), zap.String("step", step))
}

// start sends a person to the provider.
func (tl *TokenLogin) start(w http.ResponseWriter, r *http.Request) error {
	ls := tl.source.logins
	if ls == nil {
		return loginPage(w, http.StatusNotFound, "This provider has no page to log in at", "The source has no auth_url.")
	}
	if prefetches(r) {
		return loginPage(w, http.StatusServiceUnavailable, "Open this link yourself", "It works once.")
	}
	key, unconfirmed, t, err := tl.startKey(ls, r)
	var authURL, state, cookie string
	if err == nil {
		// The cookie binds the login to this browser. Without it, an attacker could
		// begin a login, authorize with his own account, and let the victim's browser
		// open the callback: the victim's key would get the attacker's token.
		authURL, state, cookie, err = ls.begin(key, unconfirmed, t, r.Cookies())
	}
	if err != nil {
		tl.report(loginStart, err)
		status := http.StatusBadRequest
		switch {
		case errors.Is(err, errLoginCaller), errors.Is(err, errTicketBound):
			status = http.StatusForbidden
		case errors.Is(err, errTooManyLinks):
			status = http.StatusServiceUnavailable
		}
		return loginPage(w, status, "This link cannot be used", "Go back to the app and begin again.")
	}
	http.SetCookie(w, &http.Cookie{
		Name: loginCookie(state), Value: cookie, Path: ls.cookiePath(), MaxAge: int(loginLife.Seconds()),
		// Lax and not Strict: the browser comes back by a navigation from the
		// provider's site, and must bring the cookie.
		HttpOnly: true, SameSite: http.SameSiteLaxMode,
		Secure: r.TLS != nil || strings.HasPrefix(ls.auth.config.RedirectURL, "https:"),
	})
	tl.report(loginStart, nil)
	http.Redirect(w, r, authURL, http.StatusFound)
	return nil
}

// startKey returns the key for which a login begins, and whether the app must confirm
// it. A link from a problem document carries a ticket, and the ticket holds the key. A
// request without a ticket names the key itself, but only a caller that could get a
// ticket may do that: whoever begins a login decides whose token is replaced.
func (tl *TokenLogin) startKey(ls *pendingLogins, r *http.Request) (key tokensource.Key, unconfirmed bool, t *ticket, err error) {
	p := tl.callers.check(r)
	if text := r.URL.Query().Get("ticket"); text != "" {
		if t, err = ls.open(tl.Source, text); err != nil {
			return key, false, nil, err
		}
		key = tokensource.NewKey(t.Values...)
		bound, err := t.boundTo(r)
		return key, !bound && !(p == nil && (ls.local() || tl.hasKey(r, key))), t, err
	}
	if p != nil {
		return key, false, nil, fmt.Errorf("%w: %s", errLoginCaller, p.detail)
	}
	key, _, err = tl.keys.read(r)
	return key, false, nil, err
}

// hasKey reports whether a request brings the key by itself.
func (tl *TokenLogin) hasKey(r *http.Request, key tokensource.Key) bool {
	own, _, err := tl.keys.read(r)
	return err == nil && len(tl.keys.names) > 0 && own == key
}

var errLoginCaller = errors.New("this caller may not begin a login without a ticket")

// loginCookie names the cookie by its state, so that two logins in one browser do
// not overwrite each other's cookie.
func loginCookie(state string) string {
	const shown = 16
	return loginCookiePrefix + state[:min(len(state), shown)]
}

const loginCookiePrefix = "token_login_"

// callback receives a person's browser from the provider. Anybody may open this
// address, so nothing in the request is trusted before finish has matched the
// state and the cookie. The pages that it shows are fixed, so the request cannot
// put text into them.
func (tl *TokenLogin) callback(w http.ResponseWriter, r *http.Request) error {
	ls := tl.source.logins
	if ls == nil {
		return loginPage(w, http.StatusNotFound, "This provider has no page to log in at", "The source has no auth_url.")
	}
	q := r.URL.Query()
	cookie, name := "", loginCookie(q.Get("state"))
	if c, err := r.Cookie(name); err == nil {
		cookie = c.Value
	}
	// finish uses up the state, whatever comes next: each login ends once.
	l, err := ls.finish(q.Get("state"), cookie, q.Get("iss"))
	if err != nil {
		tl.report(loginCallback, err)
		return loginPage(w, http.StatusBadRequest, "This login cannot be finished", "It took too long, or was begun elsewhere. Go back to the app and begin again.")
	}
	http.SetCookie(w, &http.Cookie{Name: name, Path: ls.cookiePath(), MaxAge: -1, HttpOnly: true})
	// A redirect may carry a code and an error at once; see readCode.
	if q.Has("error") || len(q["code"]) != 1 || q.Get("code") == "" {
		tl.report(loginCallback, errProviderDeclined)
		return loginPage(w, http.StatusForbidden, "The provider did not agree", "Nothing was changed. Go back to the app to try again.")
	}
	code := tokenendpoint.NewSecret(q.Get("code"))
	if l.unconfirmed {
		tl.log.Info("login waits for the app's confirmation", zap.String("source", tl.Source), zap.String("key", l.key.String()))
		return tl.finished(w, r, ls.await(l, code))
	}
	_, err = tl.source.Exchange(r.Context(), l.key, tokensource.Code{Code: code, Verifier: tokenendpoint.NewSecret(l.verifier)})
	tl.report(loginCallback, err)
	switch {
	case errors.Is(err, tokensource.ErrCodeRefused):
		return loginPage(w, http.StatusUnprocessableEntity, "The provider refused the login", "Go back to the app and begin again.")
	case err != nil:
		return loginPage(w, http.StatusServiceUnavailable, "The provider cannot be reached", "Go back to the app and try again in a moment.")
	}
	return tl.finished(w, r, "")
}

// finished sends a browser back to the app, or shows a page. confirmation is "" if the
// app has nothing to confirm.
func (tl *TokenLogin) finished(w http.ResponseWriter, r *http.Request, confirmation string) error {
	if tl.ReturnTo != "" {
		u, err := url.Parse(tl.ReturnTo) // Provision has checked it
		if err != nil {
			return err
		}
		if confirmation != "" {
			q := u.Query()
			q.Set("confirmation", confirmation)
			u.RawQuery = q.Encode()
		}
		http.Redirect(w, r, u.String(), http.StatusSeeOther)
		return nil
	}
	if confirmation != "" {
		return loginPage(w, http.StatusOK, confirmation, "Enter this code in the app to finish the login. Do not give it to anybody.")
	}
	return loginPage(w, http.StatusOK, "You are logged in", "You can close this page and go back to the app.")
}

var errProviderDeclined = errors.New("the provider's redirect carries an error, or no code")

// UnmarshalCaddyfile sets up the handler from Caddyfile tokens. Syntax:
//
//	token_login <source> {
//	    callers   <ranges...>
//	    hosts     <names...>
//	    return_to <url>
//	}
func (tl *TokenLogin) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // token_login
	tl.Origin = originAt(d)
	if !d.NextArg() {
		return d.Err("token_login: got no source: expected token_login <source>")
	}
	tl.Source = d.Val()
	if d.NextArg() {
		return d.Errf("token_login %s: unexpected %q: expected its options in a block", tl.Source, d.Val())
	}
	return options{
		"callers": callersOption(&tl.Callers),
		"hosts":   listOption(&tl.Hosts, "<names...>"),

		"return_to": textOption(&tl.ReturnTo, "<url>"),
	}.parse(d, "token_login", tl.Origin, nil)
}

func parseTokenLogin(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	tl := new(TokenLogin)
	return tl, tl.UnmarshalCaddyfile(h.Dispenser)
}

// confirm takes the app's word that the person who has finished a login is the key's
// own user.
func (tl *TokenLogin) confirm(w http.ResponseWriter, r *http.Request) error {
	return tl.exchange(w, r, loginConfirm, func(key tokensource.Key, form url.Values) (tokensource.Code, *problem) {
		confirmations := form["confirmation"]
		if len(confirmations) != 1 || confirmations[0] == "" {
			return tokensource.Code{}, badForm("expected the field confirmation, once")
		}
		var l *login
		if tl.source.logins != nil {
			l = tl.source.logins.confirm(key, confirmations[0])
		}
		if l == nil {
			return tokensource.Code{}, &problem{
				name: problemCodeRefused, status: http.StatusUnprocessableEntity,
				detail: "this confirmation is unknown, is too old, or is of another key; a new login is needed",
			}
		}
		return tokensource.Code{Code: l.code, Verifier: tokenendpoint.NewSecret(l.verifier)}, nil
	})
}

// code takes a code that the app has received. The app may hand over the same code
// again, for instance after a timeout: Exchange sends each code once and repeats
// its outcome.
func (tl *TokenLogin) code(w http.ResponseWriter, r *http.Request) error {
	return tl.exchange(w, r, loginCode, func(_ tokensource.Key, form url.Values) (tokensource.Code, *problem) {
		// A provider's redirect may carry a code and an error at once, as MondiaPay's
		// does after a failed purchase. If the app hands over everything that it got,
		// the code must not be sent.
		if form.Has("error") {
			return tokensource.Code{}, &problem{
				name: problemCodeRefused, status: http.StatusUnprocessableEntity,
				detail: "the provider's redirect carried an error; its code was not sent",
			}
		}
		if codes := form["code"]; len(codes) != 1 || codes[0] == "" {
			return tokensource.Code{}, badForm("expected the field code, once")
		}
		return tokensource.Code{Code: tokenendpoint.NewSecret(form.Get("code"))}, nil
	})
}

// exchange serves what the app POSTs: it sends the code that read finds in the form.
func (tl *TokenLogin) exchange(w http.ResponseWriter, r *http.Request, step string, read func(tokensource.Key, url.Values) (tokensource.Code, *problem)) error {
	if p := tl.callers.check(r); p != nil {
		return p.write(w, r)
	}
	key, values, err := tl.keys.read(r)
	if err != nil {
		return keyProblem(err).write(w, r)
	}
	form, p := readForm(w, r)
	if p != nil {
		return p.write(w, r)
	}
	code, p := read(key, form)
	if p != nil {
		return p.write(w, r)
	}
	token, err := tl.source.Exchange(r.Context(), key, code)
	tl.report(step, err)
	if err != nil {
		return tl.source.problemOf(err, values, "").write(w, r)
	}
	return writeAuthorized(w, tl.Source, token)
}

// maxCodeForm bounds the form, in bytes.
const maxCodeForm = 16 << 10

func badForm(detail string) *problem {
	return &problem{name: problemBadRequest, status: http.StatusBadRequest, detail: detail}
}

func readForm(w http.ResponseWriter, r *http.Request) (url.Values, *problem) {
	if mediaType, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); mediaType != "application/x-www-form-urlencoded" {
		return nil, badForm("expected a form: Content-Type application/x-www-form-urlencoded")
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxCodeForm))
	if err != nil {
		return nil, badForm("the form is too long or was cut off")
	}
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return nil, badForm("the form is not well-formed")
	}
	return form, nil
}

func writeAuthorized(w http.ResponseWriter, source string, token *tokensource.Token) error {
	response := struct {
		Source    string     `json:"source"`
		Status    string     `json:"status"`
		ExpiresAt *time.Time `json:"expires_at,omitempty"`
	}{Source: source, Status: "authorized"}
	if expiry := token.Expiry(); !expiry.IsZero() {
		expiry = expiry.Round(0).UTC().Truncate(time.Second)
		response.ExpiresAt = &expiry
	}
	w.Header().Set("Content-Type", "application/json")
	return json.NewEncoder(w).Encode(response)
}

// loginPage shows a fixed page. Nothing of the request is in it, and the policy
// forbids scripts and frames, so the page cannot be abused.
func loginPage(w http.ResponseWriter, status int, title, text string) error {
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, err := fmt.Fprintf(w, loginHTML, title, title, text)
	return err
}

const loginHTML = `<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>%s</title>
<style>
:root { color-scheme: light dark }
body { font: 1.1rem/1.5 system-ui, sans-serif; display: grid; place-items: center; min-height: 90vh; margin: 0 1rem }
main { max-width: 30rem; text-align: center }
h1 { font-size: 1.5rem }
</style>
</head>
<body>
<main>
<h1>%s</h1>
<p>%s</p>
</main>
</body>
</html>
`

// Interface guards
var (
	_ caddy.Provisioner           = (*TokenLogin)(nil)
	_ caddyhttp.MiddlewareHandler = (*TokenLogin)(nil)
	_ caddyfile.Unmarshaler       = (*TokenLogin)(nil)
)
