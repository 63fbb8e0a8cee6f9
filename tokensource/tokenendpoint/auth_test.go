package tokenendpoint_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-bearer/caddy-bearer/tokensource/internal/wiretest"
	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenendpoint"
)

func basic(text string) string { return "Basic " + base64.StdEncoding.EncodeToString([]byte(text)) }

// K5: each method, by the request that is sent. The credentials hold what
// tells the encodings apart.
func TestClientAuth(t *testing.T) {
	const id, secret = "i d+/%", "s&c:r=t"
	for name, c := range map[string]struct {
		auth          tokenendpoint.ClientAuth
		authorization string
		body          string
		query         string
		headers       map[string]string
	}{
		"the default is basic": {authorization: basic("i+d%2B%2F%25:s%26c%3Ar%3Dt"), body: "grant_type=client_credentials"},
		"basic": {
			auth: tokenendpoint.ClientSecretBasic, authorization: basic("i+d%2B%2F%25:s%26c%3Ar%3Dt"),
			body: "grant_type=client_credentials",
		},
		"basic, raw": {
			auth: tokenendpoint.ClientSecretBasicRaw, authorization: basic(id + ":" + secret),
			body: "grant_type=client_credentials",
		},
		"post": {
			auth: tokenendpoint.ClientSecretPost,
			body: "client_id=i+d%2B%2F%25&client_secret=s%26c%3Ar%3Dt&grant_type=client_credentials",
		},
		"query": {
			auth: tokenendpoint.ClientSecretQuery, query: "?client_id=i+d%2B%2F%25&client_secret=s%26c%3Ar%3Dt",
			body: "grant_type=client_credentials",
		},
		"none": {
			auth: tokenendpoint.ClientNone,
			body: "client_id=i+d%2B%2F%25&grant_type=client_credentials",
		},
		"headers": {
			auth: tokenendpoint.ClientSecretHeader("client_id", "Client-Secret"), body: "grant_type=client_credentials",
			headers: map[string]string{"Client_id": id, "Client-Secret": secret},
		},
		"a template": {
			auth: tokenendpoint.ClientSecretTemplate(wiretest.Template(t, "ID {base64}")), body: "grant_type=client_credentials",
			authorization: "ID " + base64.StdEncoding.EncodeToString([]byte(id+":"+secret)),
		},
		"a template of the parts": {
			auth: tokenendpoint.ClientSecretTemplate(wiretest.Template(t, `Key {id}/{secret}`)), body: "grant_type=client_credentials",
			authorization: "Key " + id + "/" + secret,
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := &wiretest.Wire{}
			ep := wiretest.Endpoint(w)
			ep.Client, ep.Auth = tokenendpoint.Client{ID: wiretest.Literal(id), Secret: wiretest.Literal(secret)}, c.auth
			wiretest.MustCall(t, ep)
			got := w.Last(t)
			if got.Header.Get("Authorization") != c.authorization || got.Body != c.body || got.URL != wiretest.URL+c.query {
				t.Errorf("sent %s, %q, %s", got.URL, got.Header.Get("Authorization"), got.Body)
			}
			for name, value := range c.headers {
				if got.Header.Get(name) != value {
					t.Errorf("header %s is %q, want %q", name, got.Header.Get(name), value)
				}
			}
		})
	}
}

func TestClientWithoutSecret(t *testing.T) {
	w := &wiretest.Wire{}
	ep := wiretest.Endpoint(w)
	wiretest.MustCall(t, ep)
	if got := w.Last(t); got.Body != "grant_type=client_credentials" || got.Header.Get("Authorization") != "" {
		t.Errorf("without a client: sent %q, %s", got.Header, got.Body)
	}
	w = &wiretest.Wire{}
	ep = wiretest.Endpoint(w)
	ep.Client.ID = wiretest.Literal("public")
	wiretest.MustCall(t, ep)
	if got := w.Last(t); got.Body != "client_id=public&grant_type=client_credentials" || got.Header.Get("Authorization") != "" {
		t.Errorf("a public client: sent %q, %s", got.Header, got.Body)
	}
}

// The credentials go where the parameters go, in their dialect.
func TestClientSecretPostElsewhere(t *testing.T) {
	for in, want := range map[tokenendpoint.ParamsIn]string{
		tokenendpoint.ParamsJSON:  ` {"client_key":"id","client_secret":"s","grant_type":"client_credentials"}`,
		tokenendpoint.ParamsQuery: "?client_key=id&client_secret=s&grant_type=client_credentials ",
	} {
		w := &wiretest.Wire{}
		ep := wiretest.Endpoint(w)
		ep.ParamsIn, ep.Auth = in, tokenendpoint.ClientSecretPost
		ep.Client = tokenendpoint.Client{ID: wiretest.Literal("id"), Secret: wiretest.Literal("s")}
		ep.Rename = map[string]string{"client_id": "client_key"}
		wiretest.MustCall(t, ep)
		if got := strings.TrimPrefix(w.Last(t).URL, wiretest.URL) + " " + w.Last(t).Body; got != want {
			t.Errorf("%s: sent %s, want %s", in, got, want)
		}
	}
}

// An assertion is good for one attempt: each is authenticated anew.
func TestEveryAttemptIsAuthenticatedAnew(t *testing.T) {
	n := 0
	signed := tokenendpoint.ClientAuthFunc(func(_ context.Context, id string, _ tokenendpoint.Secret, r *tokenendpoint.Request) error {
		n++
		r.Params.Set("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer")
		r.Params.SetSecret("client_assertion", tokenendpoint.NewSecret(fmt.Sprintf("%s-jti-%d", id, n)))
		return nil
	})
	w := &wiretest.Wire{}
	ep := wiretest.Endpoint(w)
	ep.Client.ID, ep.Auth = wiretest.Literal("me"), signed
	wiretest.MustCall(t, ep)
	wiretest.MustCall(t, ep)
	for i, sent := range w.Requests {
		if want := fmt.Sprintf("client_assertion=me-jti-%d&", i+1); !strings.Contains(sent.Body, want) {
			t.Errorf("attempt %d sent %s, want %s in it", i+1, sent.Body, want)
		}
	}
}

func TestClientAuthThatFails(t *testing.T) {
	broken := errors.New("no key")
	w := &wiretest.Wire{}
	ep := wiretest.Endpoint(w)
	ep.Auth = tokenendpoint.ClientAuthFunc(func(context.Context, string, tokenendpoint.Secret, *tokenendpoint.Request) error {
		return broken
	})
	if _, err := wiretest.Call(ep); !errors.Is(err, broken) {
		t.Errorf("%v, want %v", err, broken)
	}
	ep.Auth = tokenendpoint.ClientSecretTemplate(wiretest.Template(t, "ID {bse64}"))
	if _, err := wiretest.Call(ep); err == nil {
		t.Error("a template with an unknown variable was sent")
	}
	if w.Count() > 0 {
		t.Errorf("sent %v", w.Requests)
	}
}

// K6: literals and key values, replacing what is set by default.
func TestHeaders(t *testing.T) {
	w := &wiretest.Wire{}
	ep := wiretest.Endpoint(w)
	ep.Header = []tokenendpoint.HeaderField{
		{Name: "x-api-key", Value: wiretest.Literal("k{1}")},
		{Name: "accept", Value: wiretest.Literal("*/*")},
		{Name: "User-Agent", Value: wiretest.Literal("bot/1 by me")},
		{Name: "host", Value: wiretest.Literal("tenant.example")},
		{Name: "X-User", Value: wiretest.Template(t, "u-{key.user}")},
	}
	if err := wiretest.CallWithKey(ep, nil, "user", "Ann"); err != nil {
		t.Fatal(err)
	}
	got := w.Last(t)
	for name, value := range map[string]string{"X-Api-Key": "k{1}", "Accept": "*/*", "User-Agent": "bot/1 by me", "X-User": "u-Ann"} {
		if !slices.Equal(got.Header.Values(name), []string{value}) {
			t.Errorf("header %s is %q, want %q", name, got.Header.Values(name), value)
		}
	}
	if got.Host != "tenant.example" {
		t.Errorf("Host is %s, want tenant.example", got.Host)
	}
}

func TestDefaultHeaders(t *testing.T) {
	w := &wiretest.Wire{}
	wiretest.MustCall(t, wiretest.Endpoint(w))
	for name, value := range map[string]string{"Accept": "application/json", "User-Agent": "caddy-bearer", "Content-Type": formType} {
		if got := w.Last(t).Header.Get(name); got != value {
			t.Errorf("header %s is %q, want %q", name, got, value)
		}
	}
}

// A header that net/http would not send is a mistake in the settings or the
// key, and must not read as one of the endpoint's.
func TestHeaderThatCannotBeSent(t *testing.T) {
	ep := wiretest.Endpoint(tokenendpoint.NewTransport())
	ep.URL = wiretest.Literal("http://127.0.0.1:1/token")
	ep.Header = []tokenendpoint.HeaderField{{Name: "X-Api-Key", Value: wiretest.Literal("canary-of-a-key\n")}}
	_, err := wiretest.Call(ep)
	if err == nil {
		t.Fatal("it was sent")
	}
	if strings.Contains(err.Error(), "canary") {
		t.Errorf("the error shows the value: %v", err)
	}
	if !strings.Contains(err.Error(), "X-Api-Key") {
		t.Errorf("%q does not name the header", err)
	}
	var ee *tokenendpoint.Error
	if errors.As(err, &ee) && ee.Sent {
		t.Error("the error says that it was sent")
	}
}
