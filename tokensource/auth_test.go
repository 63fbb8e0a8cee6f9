package tokensource_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-bearer/caddy-bearer/tokensource"
)

func basic(text string) string { return "Basic " + base64.StdEncoding.EncodeToString([]byte(text)) }

// K5: each method, by the request that is sent. The credentials hold what
// tells the encodings apart.
func TestClientAuth(t *testing.T) {
	const id, secret = "i d+/%", "s&c:r=t"
	for name, c := range map[string]struct {
		auth          tokensource.ClientAuth
		authorization string
		body          string
		query         string
		headers       map[string]string
	}{
		"the default is basic": {authorization: basic("i+d%2B%2F%25:s%26c%3Ar%3Dt"), body: "grant_type=client_credentials"},
		"basic": {
			auth: tokensource.ClientSecretBasic, authorization: basic("i+d%2B%2F%25:s%26c%3Ar%3Dt"),
			body: "grant_type=client_credentials",
		},
		"basic, raw": {
			auth: tokensource.ClientSecretBasicRaw, authorization: basic(id + ":" + secret),
			body: "grant_type=client_credentials",
		},
		"post": {
			auth: tokensource.ClientSecretPost,
			body: "client_id=i+d%2B%2F%25&client_secret=s%26c%3Ar%3Dt&grant_type=client_credentials",
		},
		"query": {
			auth: tokensource.ClientSecretQuery, query: "?client_id=i+d%2B%2F%25&client_secret=s%26c%3Ar%3Dt",
			body: "grant_type=client_credentials",
		},
		"none": {
			auth: tokensource.ClientNone,
			body: "client_id=i+d%2B%2F%25&grant_type=client_credentials",
		},
		"headers": {
			auth: tokensource.ClientSecretHeader("client_id", "Client-Secret"), body: "grant_type=client_credentials",
			headers: map[string]string{"Client_id": id, "Client-Secret": secret},
		},
		"a template": {
			auth: tokensource.ClientSecretTemplate(tmpl(t, "ID {base64}")), body: "grant_type=client_credentials",
			authorization: "ID " + base64.StdEncoding.EncodeToString([]byte(id+":"+secret)),
		},
		"a template of the parts": {
			auth: tokensource.ClientSecretTemplate(tmpl(t, `Key {id}/{secret}`)), body: "grant_type=client_credentials",
			authorization: "Key " + id + "/" + secret,
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := &wire{}
			ep := endpoint(w)
			ep.Client, ep.Auth = tokensource.Client{ID: lit(id), Secret: lit(secret)}, c.auth
			mustCall(t, ep)
			got := w.last(t)
			if got.header.Get("Authorization") != c.authorization || got.body != c.body || got.url != idp+c.query {
				t.Errorf("sent %s, %q, %s", got.url, got.header.Get("Authorization"), got.body)
			}
			for name, value := range c.headers {
				if got.header.Get(name) != value {
					t.Errorf("header %s is %q, want %q", name, got.header.Get(name), value)
				}
			}
		})
	}
}

func TestClientWithoutSecret(t *testing.T) {
	w := &wire{}
	ep := endpoint(w)
	mustCall(t, ep)
	if got := w.last(t); got.body != "grant_type=client_credentials" || got.header.Get("Authorization") != "" {
		t.Errorf("without a client: sent %q, %s", got.header, got.body)
	}
	w = &wire{}
	ep = endpoint(w)
	ep.Client.ID = lit("public")
	mustCall(t, ep)
	if got := w.last(t); got.body != "client_id=public&grant_type=client_credentials" || got.header.Get("Authorization") != "" {
		t.Errorf("a public client: sent %q, %s", got.header, got.body)
	}
}

// The credentials go where the parameters go, in their dialect.
func TestClientSecretPostElsewhere(t *testing.T) {
	for in, want := range map[tokensource.ParamsIn]string{
		tokensource.ParamsJSON:  ` {"client_key":"id","client_secret":"s","grant_type":"client_credentials"}`,
		tokensource.ParamsQuery: "?client_key=id&client_secret=s&grant_type=client_credentials ",
	} {
		w := &wire{}
		ep := endpoint(w)
		ep.ParamsIn, ep.Auth = in, tokensource.ClientSecretPost
		ep.Client = tokensource.Client{ID: lit("id"), Secret: lit("s")}
		ep.Rename = map[string]string{"client_id": "client_key"}
		mustCall(t, ep)
		if got := strings.TrimPrefix(w.last(t).url, idp) + " " + w.last(t).body; got != want {
			t.Errorf("%s: sent %s, want %s", in, got, want)
		}
	}
}

// An assertion is good for one attempt: each is authenticated anew.
func TestEveryAttemptIsAuthenticatedAnew(t *testing.T) {
	n := 0
	signed := tokensource.ClientAuthFunc(func(_ context.Context, id string, _ tokensource.Secret, r *tokensource.TokenRequest) error {
		n++
		r.Params.Set("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer")
		r.Params.SetSecret("client_assertion", tokensource.NewSecret(fmt.Sprintf("%s-jti-%d", id, n)))
		return nil
	})
	w := &wire{}
	ep := endpoint(w)
	ep.Client.ID, ep.Auth = lit("me"), signed
	mustCall(t, ep)
	mustCall(t, ep)
	for i, sent := range w.requests {
		if want := fmt.Sprintf("client_assertion=me-jti-%d&", i+1); !strings.Contains(sent.body, want) {
			t.Errorf("attempt %d sent %s, want %s in it", i+1, sent.body, want)
		}
	}
}

func TestClientAuthThatFails(t *testing.T) {
	broken := errors.New("no key")
	w := &wire{}
	ep := endpoint(w)
	ep.Auth = tokensource.ClientAuthFunc(func(context.Context, string, tokensource.Secret, *tokensource.TokenRequest) error {
		return broken
	})
	if _, err := call(ep); !errors.Is(err, broken) {
		t.Errorf("%v, want %v", err, broken)
	}
	ep.Auth = tokensource.ClientSecretTemplate(tmpl(t, "ID {bse64}"))
	if _, err := call(ep); err == nil {
		t.Error("a template with an unknown variable was sent")
	}
	if w.count() > 0 {
		t.Errorf("sent %v", w.requests)
	}
}

// K6: literals and key values, replacing what is set by default.
func TestHeaders(t *testing.T) {
	w := &wire{}
	ep := endpoint(w)
	ep.Header = []tokensource.HeaderField{
		{Name: "x-api-key", Value: lit("k{1}")},
		{Name: "accept", Value: lit("*/*")},
		{Name: "User-Agent", Value: lit("bot/1 by me")},
		{Name: "host", Value: lit("tenant.example")},
		{Name: "X-User", Value: tmpl(t, "u-{key.user}")},
	}
	if err := callWithKey(t, ep, nil, "user", "Ann"); err != nil {
		t.Fatal(err)
	}
	got := w.last(t)
	for name, value := range map[string]string{"X-Api-Key": "k{1}", "Accept": "*/*", "User-Agent": "bot/1 by me", "X-User": "u-Ann"} {
		if !slices.Equal(got.header.Values(name), []string{value}) {
			t.Errorf("header %s is %q, want %q", name, got.header.Values(name), value)
		}
	}
	if got.host != "tenant.example" {
		t.Errorf("Host is %s, want tenant.example", got.host)
	}
}

func TestDefaultHeaders(t *testing.T) {
	w := &wire{}
	mustCall(t, endpoint(w))
	for name, value := range map[string]string{"Accept": "application/json", "User-Agent": "caddy-bearer", "Content-Type": formType} {
		if got := w.last(t).header.Get(name); got != value {
			t.Errorf("header %s is %q, want %q", name, got, value)
		}
	}
}

// A header that net/http would not send is a mistake in the settings or the
// key, and must not read as one of the endpoint's.
func TestHeaderThatCannotBeSent(t *testing.T) {
	ep := endpoint(tokensource.NewTransport())
	ep.URL = lit("http://127.0.0.1:1/token")
	ep.Header = []tokensource.HeaderField{{Name: "X-Api-Key", Value: lit("canary-of-a-key\n")}}
	_, err := call(ep)
	if err == nil {
		t.Fatal("it was sent")
	}
	if strings.Contains(err.Error(), "canary") {
		t.Errorf("the error shows the value: %v", err)
	}
	if !strings.Contains(err.Error(), "X-Api-Key") {
		t.Errorf("%q does not name the header", err)
	}
	var ee *tokensource.EndpointError
	if errors.As(err, &ee) && ee.Sent {
		t.Error("the error says that it was sent")
	}
}

// chained is a source of client tokens c1, c2 and an endpoint that wants one.
func chained(t *testing.T, w http.RoundTripper) (*fakeGrant, *tokensource.Endpoint) {
	g := &fakeGrant{}
	ep := endpoint(w)
	ep.Bearer = newSource(t, tokensource.Config{Name: "client", Grant: g, Patience: -1})
	return g, ep
}

// Mondia's second step: the call is authorized by another source's token.
func TestBearer(t *testing.T) {
	w := &wire{}
	_, ep := chained(t, w)
	ep.Client = tokensource.Client{ID: lit("id"), Secret: lit("s")}
	mustCall(t, ep)
	if got := w.last(t).header.Values("Authorization"); !slices.Equal(got, []string{"Bearer granted-1"}) {
		t.Errorf("Authorization is %q, want the client token alone", got)
	}
}
