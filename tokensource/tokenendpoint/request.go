package tokenendpoint

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// Client is who asks for tokens.
type Client struct {
	ID     Template
	Secret Template
}

// Request is a token request while it is being made.
type Request struct {
	URL    *url.URL
	Header http.Header
	Params *ParamList
}

// ClientAuth adds a client's credentials to one attempt at a token call. It
// is called for every attempt, so one that signs assertions can make each
// with an identifier of its own (a repeated jti is refused).
type ClientAuth interface {
	Authenticate(ctx context.Context, id string, secret Secret, r *Request) error
}

// ClientAuthFunc is a function as a [ClientAuth].
type ClientAuthFunc func(ctx context.Context, id string, secret Secret, r *Request) error

// Authenticate implements [ClientAuth].
func (f ClientAuthFunc) Authenticate(ctx context.Context, id string, secret Secret, r *Request) error {
	return f(ctx, id, secret, r)
}

// The client authentication methods, under their registered names (RFC 7591,
// section 2) where they have one.
var (
	// ClientSecretBasic: HTTP Basic over the form-encoded id and secret, as
	// RFC 6749, section 2.3.1 wants it.
	ClientSecretBasic ClientAuth = ClientAuthFunc(func(_ context.Context, id string, secret Secret, r *Request) error {
		setBasic(r, url.QueryEscape(id), url.QueryEscape(secret.Reveal()))
		return nil
	})
	// ClientSecretBasicRaw: HTTP Basic without the encoding, as RFC 7617 has
	// it and as many servers expect.
	ClientSecretBasicRaw ClientAuth = ClientAuthFunc(func(_ context.Context, id string, secret Secret, r *Request) error {
		setBasic(r, id, secret.Reveal())
		return nil
	})
	// ClientSecretPost: among the parameters, wherever they go.
	ClientSecretPost ClientAuth = ClientAuthFunc(func(_ context.Context, id string, secret Secret, r *Request) error {
		r.Params.Set("client_id", id)
		r.Params.SetSecret("client_secret", secret)
		return nil
	})
	// ClientSecretQuery: in the query, though other parameters go elsewhere.
	ClientSecretQuery ClientAuth = ClientAuthFunc(func(_ context.Context, id string, secret Secret, r *Request) error {
		r.Params.put(sent{name: "client_id", value: id, in: ParamsQuery})
		r.Params.put(sent{name: "client_secret", value: secret.Reveal(), in: ParamsQuery, secret: true})
		return nil
	})
	// ClientNone: a public client names itself, if it has a name.
	ClientNone ClientAuth = ClientAuthFunc(func(_ context.Context, id string, _ Secret, r *Request) error {
		if id != "" {
			r.Params.Set("client_id", id)
		}
		return nil
	})
)

// ClientSecretHeader sends the id and the secret as headers of those names.
func ClientSecretHeader(idName, secretName string) ClientAuth {
	return ClientAuthFunc(func(_ context.Context, id string, secret Secret, r *Request) error {
		r.Header.Set(idName, id)
		r.Header.Set(secretName, secret.Reveal())
		return nil
	})
}

// ClientSecretTemplate sends an Authorization header made of {id}, {secret}
// and {base64}, which is the base64 of "id:secret".
func ClientSecretTemplate(t Template) ClientAuth {
	return ClientAuthFunc(func(_ context.Context, id string, secret Secret, r *Request) error {
		value, err := t.Expand(func(name string) (string, bool) {
			switch name {
			case "id":
				return id, true
			case "secret":
				return secret.Reveal(), true
			case "base64":
				return base64.StdEncoding.EncodeToString([]byte(id + ":" + secret.Reveal())), true
			}
			return "", false
		})
		r.Header.Set("Authorization", value)
		return err
	})
}

func setBasic(r *Request, user, password string) {
	r.Header.Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(user+":"+password)))
}

// newRequest makes the request, and lists the secrets in it, to be looked for
// in what comes back.
func (ep *Endpoint) newRequest(ctx context.Context, params []Param, vars Lookup, bearer Authorization) (*http.Request, []string, error) {
	rawURL, err := ep.URL.Expand(func(name string) (string, bool) {
		value, ok := vars(name)
		return escapeInURL(value), ok && value != "." && value != ".."
	})
	if err != nil {
		return nil, nil, fmt.Errorf("token_url: %w", err)
	}
	u, err := url.Parse(rawURL)
	if err != nil || u.Host == "" || u.User != nil { // the parser's error quotes it
		return nil, nil, errors.New("token_url: expected an absolute URL without credentials")
	}
	tr := &Request{URL: u, Header: http.Header{}, Params: &ParamList{}}
	if err := ep.expand(tr.Params, params, vars); err != nil {
		return nil, nil, err
	}
	secrets, err := ep.authenticate(ctx, tr, vars, bearer)
	if err != nil {
		return nil, nil, err
	}
	if err := ep.expand(tr.Params, ep.Params, vars); err != nil {
		return nil, nil, err
	}
	ep.dialect(tr.Params)
	req, err := ep.finish(ctx, tr, vars)
	if err != nil {
		return nil, nil, err
	}
	for _, p := range tr.Params.list {
		if p.secret && p.value != "" {
			secrets = append(secrets, p.value)
		}
	}
	for _, h := range ep.Header { // an API key, maybe
		if value := req.Header.Get(h.Name); len(value) >= 8 {
			secrets = append(secrets, value)
		}
	}
	return req, secrets, nil
}

// escapeInURL makes a key's value safe in a path as in a query: it adds no
// parameter, and no step up or down.
func escapeInURL(value string) string {
	return strings.ReplaceAll(url.QueryEscape(value), "+", "%20")
}

// authenticate adds the client's credentials, and the chained token.
func (ep *Endpoint) authenticate(ctx context.Context, tr *Request, vars Lookup, bearer Authorization) (secrets []string, err error) {
	id, err := ep.Client.ID.Expand(vars)
	if err != nil {
		return nil, fmt.Errorf("client_id: %w", err)
	}
	secret, err := ep.Client.Secret.Expand(vars)
	if err != nil {
		return nil, fmt.Errorf("client_secret: %w", err)
	}
	if secret != "" {
		secrets = append(secrets, secret)
	}
	auth := ep.Auth
	switch {
	case auth != nil:
	case secret == "":
		auth = ClientNone
	default:
		auth = ClientSecretBasic
	}
	if err := auth.Authenticate(ctx, id, NewSecret(secret), tr); err != nil {
		return nil, fmt.Errorf("client authentication: %w", err)
	}
	if bearer != nil {
		tr.Header["Authorization"] = bearer.HeaderValue()
		secrets = append(secrets, bearer.AccessToken())
	}
	if _, credentials, ok := strings.Cut(tr.Header.Get("Authorization"), " "); ok {
		secrets = append(secrets, credentials)
	}
	return secrets, nil
}

// finish encodes the parameters and sets the headers, the configured ones last.
func (ep *Endpoint) finish(ctx context.Context, tr *Request, vars Lookup) (*http.Request, error) {
	query, body, contentType, err := ep.encode(tr.Params)
	if err != nil {
		return nil, err
	}
	if len(query) > 0 {
		if tr.URL.RawQuery != "" {
			tr.URL.RawQuery += "&"
		}
		tr.URL.RawQuery += query.Encode()
	}
	method := cmp.Or(strings.ToUpper(ep.Method), http.MethodPost)
	if method == http.MethodGet {
		body = nil
	}
	req, err := http.NewRequestWithContext(ctx, method, tr.URL.String(), bytes.NewReader(body))
	if err != nil {
		return nil, errors.New("the token request cannot be made from its method and URL")
	}
	req.GetBody = nil // nothing is ever sent twice behind our back
	req.Header = tr.Header
	setHeader(req.Header, "Accept", "application/json")
	setHeader(req.Header, "User-Agent", "caddy-bearer")
	if method != http.MethodGet {
		setHeader(req.Header, "Content-Type", contentType)
	}
	for _, h := range ep.Header {
		value, err := h.Value.Expand(vars)
		if err != nil {
			return nil, fmt.Errorf("header %s: %w", h.Name, err)
		}
		if !httpguts.ValidHeaderFieldValue(value) {
			return nil, fmt.Errorf("header %s: its value has characters that cannot be sent", h.Name)
		}
		if strings.EqualFold(h.Name, "Host") {
			req.Host = value
			continue
		}
		req.Header.Set(h.Name, value)
	}
	return req, nil
}

func setHeader(h http.Header, name, value string) {
	if _, ok := h[name]; !ok {
		h[name] = []string{value}
	}
}
