package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-bearer/caddy-bearer/internal/plainhttp"
	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenendpoint"
)

// Endpoint configures a token call: its URL, what it sends, and how its response is
// read. Text may hold {env.*}, {file.*} and {key.*}. token_url, params and headers may
// also hold Caddy's {time.now.*}, which is the time of each call.
type Endpoint struct {
	// The URL of the call. https, or http to a loopback address. Required.
	TokenURL string `json:"token_url,omitempty"`

	// POST or GET. Default: POST.
	Method string `json:"method,omitempty"`

	// The client's identifier at the provider.
	ClientID string `json:"client_id,omitempty"`

	// The client's secret. Write a placeholder, {env.NAME} or {file.PATH}: the
	// config can be read through the admin API.
	ClientSecret string `json:"client_secret,omitempty"`

	// How the client authenticates: client_secret_basic, client_secret_post,
	// client_secret_basic_raw (Basic without form-encoding), client_secret_query,
	// header (two names follow), template (an Authorization value of {id},
	// {secret} and {base64} follows), or none.
	// Default: client_secret_basic; none without a secret.
	ClientAuth []string `json:"client_auth,omitempty"`

	// The scopes asked for (RFC 6749, section 3.3).
	Scope []string `json:"scope,omitempty"`

	// The resources asked for (RFC 8707).
	Resource []string `json:"resource,omitempty"`

	// Where the parameters go: form, query, json, multipart or none.
	// Default: form; query with GET.
	ParamsIn string `json:"params_in,omitempty"`

	// Further parameters. They replace parameters of the same name that the grant
	// sends.
	Params []Param `json:"params,omitempty"`

	// Parameters to send under other names.
	Rename map[string]string `json:"rename,omitempty"`

	// Parameters to leave out.
	Omit []string `json:"omit,omitempty"`

	// Headers of the call; they may replace Accept and Content-Type.
	Headers []Header `json:"headers,omitempty"`

	// A source whose token authorizes the call. If the response is 401, that token is
	// renewed and the call is made once more.
	Bearer string `json:"bearer,omitempty"`

	// How long one call may take, until its last byte. Default: 10s.
	Timeout caddy.Duration `json:"timeout,omitempty"`

	// How the response is read.
	Response *Response `json:"response,omitempty"`

	// How to reach the endpoint (a private CA, a forward proxy, a client
	// certificate): the options of Caddy's http transport.
	Transport *reverseproxy.HTTPTransport `json:"transport,omitempty"`

	// Hosts to which the credentials may go over plain http, besides loopback.
	AllowHTTP []string `json:"allow_http,omitempty"`

	// Where the Caddyfile says it.
	Origin *Origin `json:"origin,omitempty"`
}

// Param is a parameter of a token request.
type Param struct {
	// The name; dots nest objects in a JSON body.
	Name string `json:"name"`
	// The value.
	Value string `json:"value"`
	// "query" or "body". Default: where the other parameters go.
	In string `json:"in,omitempty"`
	// In a JSON body: string, number, bool or raw. Default: string.
	Type string `json:"type,omitempty"`
}

// Header is a header of a token request.
type Header struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// Response says how a token response is read.
type Response struct {
	// auto, json, form, or text (the body is the token). Default: auto.
	Format string `json:"format,omitempty"`
	// The statuses of a successful response. Default: any 2xx.
	Status []int `json:"status,omitempty"`
	// Paths to the token. The first path that exists is used. header:NAME is a header,
	// and cookie:NAME a cookie that the response sets. A scheme before the token, such
	// as "Bearer ", is removed. Default: access_token.
	AccessToken []string `json:"access_token,omitempty"`
	// The same for the refresh token. Default: refresh_token.
	RefreshToken []string `json:"refresh_token,omitempty"`
	// A path to the expiry. Default: expires_in.
	ExpiresIn string `json:"expires_in,omitempty"`
	// What the value means: auto, seconds, ms, minutes, epoch, epoch_ms, rfc3339,
	// duration, d:hh:mm, jwt_exp (the token's own exp) or never. Each kind accepts all
	// spellings of its meaning: numbers, units in words, ISO 8601 durations, dates
	// with or without a zone (without one they are UTC). Default: auto, which accepts
	// all of them. It takes a bare number for seconds, or for the unit in which the
	// path ends (expires_minutes).
	ExpiresKind string `json:"expires_kind,omitempty"`
	// Responses that match one of these are errors, whatever their status.
	ErrorWhen []tokenendpoint.Matcher `json:"error_when,omitempty"`
	// Errors that a later attempt may not meet. The matchers of an error are tried in
	// this order: transient, throttled, consent_lost, user_refused, client_refused,
	// permanent.
	Transient []tokenendpoint.Matcher `json:"transient,omitempty"`
	// Errors that refuse for good: the client if a grant gets one, the refresh token
	// if a refresh does.
	Permanent []tokenendpoint.Matcher `json:"permanent,omitempty"`
	// Errors that refuse the refresh token or the code for good, so that a person has
	// to authorize again.
	ConsentLost []tokenendpoint.Matcher `json:"consent_lost,omitempty"`
	// Errors that refuse the user for whom the call is made, and nobody else.
	UserRefused []tokenendpoint.Matcher `json:"user_refused,omitempty"`
	// Errors that refuse the client, or what the settings ask for.
	ClientRefused []tokenendpoint.Matcher `json:"client_refused,omitempty"`
	// Errors that ask for fewer calls.
	Throttled []tokenendpoint.Matcher `json:"throttled,omitempty"`
}

// inherit fills in options that a refresh block leaves out, from the grant's
// endpoint.
func (e *Endpoint) inherit(from *Endpoint) *Endpoint {
	out := *e
	orElse(&out.TokenURL, from.TokenURL)
	orElse(&out.Method, from.Method)
	orElse(&out.ParamsIn, from.ParamsIn)
	orElse(&out.Timeout, from.Timeout)
	orElse(&out.Response, from.Response)
	orElse(&out.Transport, from.Transport)
	if out.ClientID == "" && out.ClientSecret == "" {
		out.ClientID, out.ClientSecret = from.ClientID, from.ClientSecret
	}
	if out.ClientAuth == nil {
		out.ClientAuth = from.ClientAuth
	}
	if out.Headers == nil {
		out.Headers = from.Headers
	}
	if out.Rename == nil {
		out.Rename = from.Rename
	}
	if out.Omit == nil {
		out.Omit = from.Omit
	}
	if out.AllowHTTP == nil {
		out.AllowHTTP = from.AllowHTTP
	}
	orElse(&out.Origin, from.Origin)
	return &out
}

func orElse[T comparable](field *T, otherwise T) {
	var zero T
	if *field == zero {
		*field = otherwise
	}
}

// clientAuths are the methods of client authentication, each with the number of words
// that follow it.
var clientAuths = map[string]int{
	"client_secret_basic": 0, "client_secret_post": 0, "client_secret_basic_raw": 0,
	"client_secret_query": 0, "none": 0, "header": 2, "template": 1,
}

// build makes the library's endpoint.
func (e *Endpoint) build(gc *GrantContext) (*tokenendpoint.Endpoint, error) {
	ep := &tokenendpoint.Endpoint{
		Method:    e.Method,
		ParamsIn:  tokenendpoint.ParamsIn(e.ParamsIn),
		Rename:    e.Rename,
		Omit:      e.Omit,
		Vars:      callVars,
		Timeout:   time.Duration(e.Timeout),
		Transport: nil,
	}
	for _, step := range []func(*GrantContext, *tokenendpoint.Endpoint) error{
		e.buildURL, e.buildClient, e.buildParams, e.buildHeaders, e.buildResponse, e.buildTransport, e.buildBearer,
	} {
		if err := step(gc, ep); err != nil {
			return nil, err
		}
	}
	e.warnLiterals(gc)
	if e.Transport != nil && unverified(e.Transport.TLS) {
		gc.warn(e.Origin, "transport", noVerification)
	}
	return ep, nil
}

func (e *Endpoint) buildURL(gc *GrantContext, ep *tokenendpoint.Endpoint) error {
	if e.TokenURL == "" {
		return e.Origin.errorf("", "token_url is missing: expected token_url <url>")
	}
	if m := e.Method; m != "" && m != http.MethodPost && m != http.MethodGet {
		return e.Origin.errorf("method", "%q: expected POST or GET", m)
	}
	if e.Method == http.MethodGet && e.ParamsIn != "" && e.ParamsIn != "query" && e.ParamsIn != "none" {
		return e.Origin.errorf("params_in", "a GET has no body for %s: expected query or none", e.ParamsIn)
	}
	switch e.ParamsIn {
	case "", "form", "query", "json", "multipart", "none":
	default:
		return e.Origin.errorf("params_in", "%q: expected form, query, json, multipart or none", e.ParamsIn)
	}
	if e.Timeout < 0 {
		return e.Origin.errorf("timeout", "%v: expected a duration above 0", time.Duration(e.Timeout))
	}
	t, err := gc.template(e.Origin, "token_url", e.TokenURL, keepsTime)
	if err != nil {
		return err
	}
	ep.URL = t
	return checkURL(e.Origin, "token_url", t, e.AllowHTTP)
}

// checkURL refuses a URL that would send credentials in the clear.
func checkURL(o *Origin, option string, t tokenendpoint.Template, allowHTTP []string) error {
	sample, _ := t.Expand(func(string) (string, bool) { return "x", true })
	u, err := url.Parse(sample)
	if err != nil || u.Host == "" || (u.Scheme != "https" && u.Scheme != "http") {
		return o.errorf(option, "not an absolute URL: expected one such as https://provider.example/token")
	}
	if u.User != nil {
		return o.errorf(option, "a URL must not carry credentials: expected client_id and client_secret")
	}
	if u.Scheme == "http" && !plainhttp.Allowed(u.Hostname(), allowHTTP) {
		return o.errorf(option, "http would send credentials to %s in the clear: expected https, a loopback address, or the host's name in allow_http", u.Host)
	}
	return nil
}

const notAbsoluteURI = "not an absolute URI without a fragment: expected one such as https://api.example/"

// absoluteURI reports whether a text is an absolute URI (RFC 3986, section 4.3). If
// it begins with a key's value, that value is expected to contain the scheme.
func absoluteURI(t tokenendpoint.Template) bool {
	for _, sample := range []string{"x", "https://x"} {
		text, _ := t.Expand(func(string) (string, bool) { return sample, true })
		u, err := url.Parse(text)
		if err == nil && u.IsAbs() && !strings.ContainsFunc(text, outsideURI) {
			return true
		}
	}
	return false
}

// outsideURI reports whether an absolute URI cannot have the character (RFC 3986,
// section 2). '#' is one, because it would begin a fragment.
func outsideURI(r rune) bool {
	return r <= ' ' || r > '~' || strings.ContainsRune("#\"<>\\^`{|}", r)
}

// checkIssuer checks an issuer identifier (RFC 8414, section 2). It is compared with
// the issuer that a callback names. If no provider can have that identifier, every
// login would be refused.
func checkIssuer(issuer string, allowHTTP []string) error {
	u, err := url.Parse(issuer)
	if err != nil || u.Host == "" || u.User != nil || strings.ContainsFunc(issuer, outsideURI) || strings.Contains(issuer, "?") ||
		u.Scheme != "https" && (u.Scheme != "http" || !plainhttp.Allowed(u.Hostname(), allowHTTP)) {
		return errors.New("not an issuer identifier: expected an https URL without query and fragment, such as https://provider.example (RFC 8414)")
	}
	return nil
}

func (e *Endpoint) buildClient(gc *GrantContext, ep *tokenendpoint.Endpoint) (err error) {
	if ep.Client.ID, err = gc.template(e.Origin, "client_id", e.ClientID, keepsNone); err != nil {
		return err
	}
	if ep.Client.Secret, err = gc.template(e.Origin, "client_secret", e.ClientSecret, keepsFiles); err != nil {
		return err
	}
	if len(e.ClientAuth) == 0 {
		return nil
	}
	method, args := e.ClientAuth[0], e.ClientAuth[1:]
	if err := checkClientAuth(method, args); err != nil {
		return e.Origin.errorf("client_auth", "%w", err)
	}
	switch method {
	case "client_secret_basic":
		ep.Auth = tokenendpoint.ClientSecretBasic
	case "client_secret_post":
		ep.Auth = tokenendpoint.ClientSecretPost
	case "client_secret_basic_raw":
		ep.Auth = tokenendpoint.ClientSecretBasicRaw
	case "client_secret_query":
		ep.Auth = tokenendpoint.ClientSecretQuery
	case "none":
		ep.Auth = tokenendpoint.ClientNone
	case "header":
		ep.Auth = tokenendpoint.ClientSecretHeader(args[0], args[1])
	case "template":
		t, err := tokenendpoint.ParseTemplate(args[0])
		if err != nil {
			return e.Origin.errorf("client_auth", "%w", err)
		}
		ep.Auth = tokenendpoint.ClientSecretTemplate(t)
	}
	if method != "none" && (e.ClientID == "" || e.ClientSecret == "") {
		return e.Origin.errorf("client_auth", "%s got no client_id and client_secret: expected both", method)
	}
	return nil
}

func checkClientAuth(method string, args []string) error {
	words, ok := clientAuths[method]
	switch {
	case !ok:
		return fmt.Errorf("%q: expected client_secret_basic, client_secret_post, client_secret_basic_raw, client_secret_query, header, template or none", method)
	case len(args) != words:
		return fmt.Errorf("%s: got %s after it: expected %d", method, counted(len(args), "word"), words)
	}
	if method == "template" {
		t, err := tokenendpoint.ParseTemplate(args[0])
		if err != nil {
			return err
		}
		for _, name := range t.Variables() {
			if !slices.Contains([]string{"id", "secret", "base64"}, name) {
				return fmt.Errorf("{%s}: expected {id}, {secret} or {base64}", name)
			}
		}
	}
	return nil
}

func (e *Endpoint) buildParams(gc *GrantContext, ep *tokenendpoint.Endpoint) error {
	for _, resource := range e.Resource {
		value, err := gc.template(e.Origin, "resource", resource, keepsNone)
		if err != nil {
			return err
		}
		if !absoluteURI(value) {
			return e.Origin.errorf("resource "+resource, notAbsoluteURI+" (RFC 8707); a provider's other words go into param resource <value>")
		}
		ep.Params = append(ep.Params, tokenendpoint.Param{Name: "resource", Value: value, Again: true})
	}
	for _, p := range e.Params {
		if p.Name == "" {
			return e.Origin.errorf("param", "got no name: expected one")
		}
		value, err := gc.template(e.Origin, "param "+p.Name, p.Value, keepsAll)
		if err != nil {
			return err
		}
		param := tokenendpoint.Param{Name: p.Name, Value: value, Type: tokenendpoint.ParamType(p.Type), Secret: strings.Contains(p.Value, "{")}
		switch p.In {
		case "":
		case "query":
			param.In = tokenendpoint.ParamsQuery
		case "body":
			if e.Method == http.MethodGet {
				return e.Origin.errorf("param "+p.Name, "a GET has no body: expected query")
			}
			param.In = tokenendpoint.ParamsForm
		default:
			return e.Origin.errorf("param "+p.Name, "in %q: expected query or body", p.In)
		}
		switch p.Type {
		case "", "string", "number", "bool", "raw":
		default:
			return e.Origin.errorf("param "+p.Name, "type %q: expected string, number, bool or raw", p.Type)
		}
		ep.Params = append(ep.Params, param)
	}
	return nil
}

func (e *Endpoint) buildHeaders(gc *GrantContext, ep *tokenendpoint.Endpoint) error {
	for _, h := range e.Headers {
		if !validHeaderName(h.Name) {
			return e.Origin.errorf("header "+h.Name, "not a header name")
		}
		value, err := gc.template(e.Origin, "header "+h.Name, h.Value, keepsAll)
		if err != nil {
			return err
		}
		ep.Header = append(ep.Header, tokenendpoint.HeaderField{Name: h.Name, Value: value})
	}
	return nil
}

func (e *Endpoint) buildResponse(_ *GrantContext, ep *tokenendpoint.Endpoint) error {
	r := e.Response
	if r == nil {
		return nil
	}
	if kind := tokenendpoint.ExpiryKind(r.ExpiresKind); kind != "" && !tokenendpoint.ValidExpiryKind(kind) {
		return e.Origin.errorf("response", "expires_in kind %q: expected one of %s", r.ExpiresKind, expiryKinds())
	}
	switch r.Format {
	case "", "auto", "json", "form", "text":
	default:
		return e.Origin.errorf("response", "format %q: expected auto, json, form or text", r.Format)
	}
	if err := tokenendpoint.CheckMatchers(slices.Concat(r.ErrorWhen, r.Transient, r.Permanent, r.Throttled, r.ConsentLost, r.UserRefused, r.ClientRefused)); err != nil {
		return e.Origin.errorf("response", "%w", err)
	}
	ep.Response = tokenendpoint.ResponseOptions{
		Format: tokenendpoint.Format(r.Format), Status: r.Status,
		AccessToken: r.AccessToken, RefreshToken: r.RefreshToken,
		ExpiryKind: tokenendpoint.ExpiryKind(r.ExpiresKind),
		ErrorWhen:  r.ErrorWhen, Transient: r.Transient, Permanent: r.Permanent, Throttled: r.Throttled,
		ConsentLost: r.ConsentLost, UserRefused: r.UserRefused, ClientRefused: r.ClientRefused,
	}
	if r.ExpiresIn != "" {
		ep.Response.ExpiresIn = []string{r.ExpiresIn}
	}
	return nil
}

// buildTransport makes the endpoint's own transport, if it has settings for one. It
// keeps no connections open; tokenendpoint.NewTransport says why. Endpoints that share
// the settings share the transport.
func (e *Endpoint) buildTransport(gc *GrantContext, ep *tokenendpoint.Endpoint) error {
	settings := e.Transport
	if settings == nil {
		return nil
	}
	if shared, ok := gc.transports[settings]; ok {
		ep.Transport = shared
		return nil
	}
	if settings.TLS != nil && hasPlaceholder(settings.TLS.ServerName) { // Caddy would resolve it from a request, and there is none
		return e.Origin.errorf("transport", "tls_server_name %s: expected a name without placeholders", settings.TLS.ServerName)
	}
	if slices.Contains(settings.Versions, "3") {
		return e.Origin.errorf("transport", "versions 3: expected 1.1, 2 or h2c")
	}
	live, err := newLiveTLS(gc.Context, settings.TLS, func(ctx caddy.Context) (*http.Transport, error) {
		rt, err := copyTransport(settings).NewTransport(ctx)
		if err != nil {
			return nil, err
		}
		rt.DisableKeepAlives = true
		if rt.MaxResponseHeaderBytes == 0 { // net/http would take 10 MB
			rt.MaxResponseHeaderBytes = tokenendpoint.MaxResponseHeader
		}
		rt.DialContext = plainDialErrors(rt.DialContext)
		return rt, nil
	})
	if err != nil {
		return e.Origin.errorf("transport", "%w", err)
	}
	gc.resolver.watches = append(gc.resolver.watches, func(ctx context.Context, log *slog.Logger, replaced func()) {
		live.run(ctx, log, func(*http.Transport) { replaced() })
	})
	ep.Transport = liveRoundTripper[*http.Transport]{live}
	if gc.transports == nil {
		gc.transports = make(map[*reverseproxy.HTTPTransport]http.RoundTripper)
	}
	gc.transports[settings] = ep.Transport
	return nil
}

// plainDialErrors turns Caddy's DialError into a net.OpError. A DialError hides the
// error that it wraps from errors.As, so nobody could see that the call was never
// sent, and a code that may be used only once would count as used.
func plainDialErrors(dial dialFunc) dialFunc {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		var de reverseproxy.DialError
		if errors.As(err, &de) && ctx.Err() == nil {
			err = &net.OpError{Op: "dial", Net: network, Err: errors.New(de.Error())}
		}
		return conn, err
	}
}

type dialFunc = func(ctx context.Context, network, addr string) (net.Conn, error)

func (e *Endpoint) buildBearer(gc *GrantContext, ep *tokenendpoint.Endpoint) error {
	if e.Bearer == "" {
		return nil
	}
	src, err := gc.source(e.Bearer)
	if err != nil {
		return e.Origin.errorf("bearer", "%w", err)
	}
	ep.Bearer = src.Authorizer()
	for _, name := range src.KeyNames() {
		if !slices.Contains(gc.keyNames, name) {
			return e.Origin.errorf("bearer", "token_source %s has the key %q: expected this one to have it too", e.Bearer, name)
		}
	}
	return nil
}

func validHeaderName(name string) bool {
	return name != "" && !strings.ContainsFunc(name, func(r rune) bool {
		return r <= ' ' || r > '~' || strings.ContainsRune(`"(),/:;<=>?@[\]{}`, r)
	})
}
