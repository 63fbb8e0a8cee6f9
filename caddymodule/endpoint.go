package caddymodule

import (
	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenendpoint"
)

// Endpoint configures a call that issues tokens: where it goes, what it says,
// and how the answer reads. Text may hold {env.*}, {file.*} and {key.*}.
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

	// Further parameters; one that the grant sends too takes its place.
	Params []Param `json:"params,omitempty"`

	// Parameters to send under other names.
	Rename map[string]string `json:"rename,omitempty"`

	// Parameters to leave out.
	Omit []string `json:"omit,omitempty"`

	// Headers of the call; they may replace Accept and Content-Type.
	Headers []Header `json:"headers,omitempty"`

	// A source whose token authorizes the call. When the call answers 401, that
	// token is renewed and the call made once more.
	Bearer string `json:"bearer,omitempty"`

	// How long one call may take, to the last byte. Default: 10s.
	Timeout caddy.Duration `json:"timeout,omitempty"`

	// How the answer reads.
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
	// "query" or "body", where it goes elsewhere than the others.
	In string `json:"in,omitempty"`
	// In a JSON body: string, number, bool or raw. Default: string.
	Type string `json:"type,omitempty"`
}

// Header is a header of a token request.
type Header struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// Response says how a token answer reads.
type Response struct {
	// auto, json, form, or text (the body is the token). Default: auto.
	Format string `json:"format,omitempty"`
	// The statuses of a good answer. Default: any 2xx.
	Status []int `json:"status,omitempty"`
	// Paths to the token, the first that is there wins; header:NAME is a
	// header. Default: access_token.
	AccessToken []string `json:"access_token,omitempty"`
	// The same for the refresh token. Default: refresh_token.
	RefreshToken []string `json:"refresh_token,omitempty"`
	// A path to the expiry. Default: expires_in.
	ExpiresIn string `json:"expires_in,omitempty"`
	// What it counts: auto, seconds, ms, epoch, epoch_ms, rfc3339, duration,
	// d:hh:mm, jwt_exp (of the token) or never. Default: auto.
	ExpiresKind string `json:"expires_kind,omitempty"`
	// What makes an answer an error, whatever its status.
	ErrorWhen []tokenendpoint.Matcher `json:"error_when,omitempty"`
	// Which errors pass, though they look as if they were for good. These are
	// looked at first, then throttled, then permanent.
	Transient []tokenendpoint.Matcher `json:"transient,omitempty"`
	// Which errors are for good: remembered, and not repeated.
	Permanent []tokenendpoint.Matcher `json:"permanent,omitempty"`
	// Which errors ask for fewer calls.
	Throttled []tokenendpoint.Matcher `json:"throttled,omitempty"`
}

// inherit fills in from the grant's endpoint what a refresh block leaves out.
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
