package tokenendpoint_test

import (
	"io"
	"maps"
	"mime"
	"mime/multipart"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-bearer/caddy-bearer/tokensource/internal/wiretest"
	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenendpoint"
)

const formType = "application/x-www-form-urlencoded"

// K1 and K3: where the parameters go, by the request that is sent.
func TestParamsIn(t *testing.T) {
	for name, c := range map[string]struct {
		edit func(ep *tokenendpoint.Endpoint)
		want wiretest.SentRequest
	}{
		"form": {
			func(ep *tokenendpoint.Endpoint) {},
			wiretest.SentRequest{Method: "POST", URL: wiretest.URL, Body: "grant_type=client_credentials&scope=a+b"},
		},
		"query": {
			func(ep *tokenendpoint.Endpoint) { ep.ParamsIn = tokenendpoint.ParamsQuery },
			wiretest.SentRequest{Method: "POST", URL: wiretest.URL + "?grant_type=client_credentials&scope=a+b"},
		},
		"GET": {
			func(ep *tokenendpoint.Endpoint) { ep.Method = "GET" },
			wiretest.SentRequest{Method: "GET", URL: wiretest.URL + "?grant_type=client_credentials&scope=a+b"},
		},
		"get, in small letters": {
			func(ep *tokenendpoint.Endpoint) { ep.Method = "get" },
			wiretest.SentRequest{Method: "GET", URL: wiretest.URL + "?grant_type=client_credentials&scope=a+b"},
		},
		"JSON": {
			func(ep *tokenendpoint.Endpoint) { ep.ParamsIn = tokenendpoint.ParamsJSON },
			wiretest.SentRequest{Method: "POST", URL: wiretest.URL, Body: `{"grant_type":"client_credentials","scope":"a b"}`},
		},
		"none": {
			func(ep *tokenendpoint.Endpoint) { ep.ParamsIn = tokenendpoint.ParamsNone },
			wiretest.SentRequest{Method: "POST", URL: wiretest.URL},
		},
		"after the URL's own query": {
			func(ep *tokenendpoint.Endpoint) {
				ep.URL, ep.ParamsIn = wiretest.Literal(wiretest.URL+"?tenant=x"), tokenendpoint.ParamsQuery
			},
			wiretest.SentRequest{Method: "POST", URL: wiretest.URL + "?tenant=x&grant_type=client_credentials&scope=a+b"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := &wiretest.Wire{}
			ep := wiretest.Endpoint(w)
			c.edit(ep)
			wiretest.MustCall(t, ep, wiretest.Param("scope", "a b"))
			got := w.Last(t)
			if got.Method != c.want.Method || got.URL != c.want.URL || got.Body != c.want.Body {
				t.Errorf("sent %s %s %q,\nwant %s %s %q", got.Method, got.URL, got.Body, c.want.Method, c.want.URL, c.want.Body)
			}
		})
	}
}

// MondiaPay wants the form's content type though all is in the query; a GET
// has none.
func TestContentType(t *testing.T) {
	for name, c := range map[string]struct {
		in     tokenendpoint.ParamsIn
		method string
		want   string
	}{
		"form":  {tokenendpoint.ParamsForm, "", formType},
		"query": {tokenendpoint.ParamsQuery, "", formType},
		"none":  {tokenendpoint.ParamsNone, "", formType},
		"json":  {tokenendpoint.ParamsJSON, "", "application/json"},
		"GET":   {"", "GET", ""},
	} {
		w := &wiretest.Wire{}
		ep := wiretest.Endpoint(w)
		ep.ParamsIn, ep.Method = c.in, c.method
		wiretest.MustCall(t, ep)
		if got := w.Last(t).Header.Get("Content-Type"); got != c.want {
			t.Errorf("%s: Content-Type %q, want %q", name, got, c.want)
		}
	}
}

func TestParamsMultipart(t *testing.T) {
	w := &wiretest.Wire{}
	ep := wiretest.Endpoint(w)
	ep.ParamsIn = tokenendpoint.ParamsMultipart
	wiretest.MustCall(t, ep, wiretest.Param("scope", "a\r\nb"))
	sent := w.Last(t)
	mediaType, params, err := mime.ParseMediaType(sent.Header.Get("Content-Type"))
	if err != nil || mediaType != "multipart/form-data" {
		t.Fatalf("Content-Type %q: %v", sent.Header.Get("Content-Type"), err)
	}
	got := map[string]string{}
	for r := multipart.NewReader(strings.NewReader(sent.Body), params["boundary"]); ; {
		part, err := r.NextPart()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(part)
		if err != nil {
			t.Fatal(err)
		}
		got[part.FormName()] = string(b)
	}
	if want := map[string]string{"grant_type": "client_credentials", "scope": "a\r\nb"}; !maps.Equal(got, want) {
		t.Errorf("sent %q, want %q", got, want)
	}
}

// K3, per parameter: Figma has one in the query and the others in JSON.
func TestParamElsewhere(t *testing.T) {
	for name, c := range map[string]struct {
		in, all   tokenendpoint.ParamsIn
		url, body string
	}{
		"query beside a form":   {tokenendpoint.ParamsQuery, tokenendpoint.ParamsForm, wiretest.URL + "?x=1", "grant_type=client_credentials"},
		"query beside JSON":     {tokenendpoint.ParamsQuery, tokenendpoint.ParamsJSON, wiretest.URL + "?x=1", `{"grant_type":"client_credentials"}`},
		"form beside a query":   {tokenendpoint.ParamsForm, tokenendpoint.ParamsQuery, wiretest.URL + "?grant_type=client_credentials", "x=1"},
		"form beside nothing":   {tokenendpoint.ParamsForm, tokenendpoint.ParamsNone, wiretest.URL, "x=1"},
		"query beside nothing":  {tokenendpoint.ParamsQuery, tokenendpoint.ParamsNone, wiretest.URL + "?x=1", ""},
		"in the body, it being": {tokenendpoint.ParamsForm, tokenendpoint.ParamsJSON, wiretest.URL, `{"grant_type":"client_credentials","x":"1"}`},
	} {
		w := &wiretest.Wire{}
		ep := wiretest.Endpoint(w)
		ep.ParamsIn = c.all
		wiretest.MustCall(t, ep, tokenendpoint.Param{Name: "x", Value: wiretest.Literal("1"), In: c.in})
		if got := w.Last(t); got.URL != c.url || got.Body != c.body {
			t.Errorf("%s: sent %s %q, want %s %q", name, got.URL, got.Body, c.url, c.body)
		}
	}
}

// K4: the endpoint's parameters take the place of the grant's; names change
// and go last.
func TestDialect(t *testing.T) {
	for name, c := range map[string]struct {
		edit func(ep *tokenendpoint.Endpoint)
		want string
	}{
		"add": {
			func(ep *tokenendpoint.Endpoint) {
				ep.Params = []tokenendpoint.Param{wiretest.Param("audience", "https://api/")}
			},
			"audience=https%3A%2F%2Fapi%2F&client_id=id&client_secret=s%26s&grant_type=client_credentials",
		},
		"replace": {
			func(ep *tokenendpoint.Endpoint) {
				ep.Params = []tokenendpoint.Param{wiretest.Param("grant_type", "openapi_2lo")}
			},
			"client_id=id&client_secret=s%26s&grant_type=openapi_2lo",
		},
		"replace the client's": {
			func(ep *tokenendpoint.Endpoint) {
				ep.Params = []tokenendpoint.Param{wiretest.Param("client_id", "other")}
			},
			"client_id=other&client_secret=s%26s&grant_type=client_credentials",
		},
		"rename": {
			func(ep *tokenendpoint.Endpoint) {
				ep.Rename = map[string]string{"client_id": "client_key", "grant_type": "type"}
			},
			"client_key=id&client_secret=s%26s&type=client_credentials",
		},
		"omit": {
			func(ep *tokenendpoint.Endpoint) { ep.Omit = []string{"grant_type"} },
			"client_id=id&client_secret=s%26s",
		},
		"swap names": {
			func(ep *tokenendpoint.Endpoint) {
				ep.Rename = map[string]string{"client_id": "client_secret", "client_secret": "client_id"}
			},
			"client_id=s%26s&client_secret=id&grant_type=client_credentials",
		},
		"omit and name another so": {
			func(ep *tokenendpoint.Endpoint) {
				ep.Omit, ep.Rename = []string{"grant_type"}, map[string]string{"client_id": "grant_type"}
			},
			"client_secret=s%26s&grant_type=id",
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := &wiretest.Wire{}
			ep := wiretest.Endpoint(w)
			ep.Client = tokenendpoint.Client{ID: wiretest.Literal("id"), Secret: wiretest.Literal("s&s")}
			ep.Auth = tokenendpoint.ClientSecretPost
			c.edit(ep)
			wiretest.MustCall(t, ep)
			if got := w.Last(t).Body; got != c.want {
				t.Errorf("sent %s, want %s", got, c.want)
			}
		})
	}
}

func TestJSONParams(t *testing.T) {
	w := &wiretest.Wire{}
	ep := wiretest.Endpoint(w)
	ep.ParamsIn = tokenendpoint.ParamsJSON
	ep.Params = []tokenendpoint.Param{
		{Name: "n", Value: wiretest.Literal("42"), Type: tokenendpoint.ParamNumber},
		{Name: "f", Value: wiretest.Literal("-1.50"), Type: tokenendpoint.ParamNumber},
		{Name: "b", Value: wiretest.Literal("true"), Type: tokenendpoint.ParamBool},
		{Name: "r", Value: wiretest.Literal(`[1,{"x":null}]`), Type: tokenendpoint.ParamRaw},
		{Name: "user.name", Value: wiretest.Literal("me")},
		{Name: "user.id", Value: wiretest.Literal("7"), Type: tokenendpoint.ParamNumber},
		{Name: `dotted\.name`, Value: wiretest.Literal(`"quoted"`)},
		{Name: "not a number", Value: wiretest.Literal("42")},
	}
	wiretest.MustCall(t, ep)
	want := `{"b":true,"dotted.name":"\"quoted\"","f":-1.50,"grant_type":"client_credentials","n":42,` +
		`"not a number":"42","r":[1,{"x":null}],"user":{"id":7,"name":"me"}}`
	if got := w.Last(t).Body; got != want {
		t.Errorf("sent %s,\nwant %s", got, want)
	}
}

// A value that is not of its type is an error before anything is sent, and
// the error does not show it.
func TestJSONParamOfAnotherType(t *testing.T) {
	for kind, values := range map[tokenendpoint.ParamType][]string{
		tokenendpoint.ParamNumber: {"", "x", "0x10", "1 2", "Inf", "NaN", "1_0", "+1", "01"},
		tokenendpoint.ParamBool:   {"", "yes", "2"},
		tokenendpoint.ParamRaw:    {"", "{", `{"a":1} {"b":2}`, "nul"},
	} {
		for _, value := range values {
			w := &wiretest.Wire{}
			ep := wiretest.Endpoint(w)
			ep.ParamsIn = tokenendpoint.ParamsJSON
			_, err := wiretest.Call(ep, tokenendpoint.Param{Name: "p", Value: wiretest.Literal(value), Type: kind, Secret: true})
			if err == nil || w.Count() > 0 {
				t.Errorf("%s %q was sent: %v", kind, value, w.Requests)
			} else if value != "" && strings.Contains(err.Error(), `"`+value+`"`) {
				t.Errorf("the error shows the value: %v", err)
			}
		}
	}
}

// encoding/json makes every broken byte the same U+FFFD: two users would
// become one at the provider.
func TestJSONParamsKeepUsersApart(t *testing.T) {
	var bodies []string
	for _, user := range []string{"a\xff", "a\xfe"} {
		w := &wiretest.Wire{}
		ep := wiretest.Endpoint(w)
		ep.ParamsIn = tokenendpoint.ParamsJSON
		if err := wiretest.CallWithKey(ep, []tokenendpoint.Param{{Name: "user", Value: wiretest.Template(t, "{key.user}")}}, "user", user); err != nil {
			continue // refused is as good as kept apart
		}
		bodies = append(bodies, w.Last(t).Body)
	}
	if len(bodies) == 2 && bodies[0] == bodies[1] {
		t.Errorf("two users are asked for by the same body %s", bodies[0])
	}
}

// A key's value fills in a parameter and nothing more, wherever it stands.
func TestKeyInURL(t *testing.T) {
	for name, c := range map[string]struct{ url, value string }{
		"a path segment":       {"https://idp.example/{key.user}/token", "a/b?c#d"},
		"a query":              {"https://idp.example/token?user={key.user}&scope=read", "a&scope=admin"},
		"a query, plus":        {"https://idp.example/token?user={key.user}&scope=read", "+1 555"},
		"a query, percent":     {"https://idp.example/token?user={key.user}&scope=read", "a%26scope=admin"},
		"a fragment in it":     {"https://idp.example/token?user={key.user}&scope=read", "a#b"},
		"up the path":          {"https://idp.example/tenants/{key.user}/token", ".."},
		"nowhere on the path":  {"https://idp.example/tenants/{key.user}/token", "."},
		"a host to be changed": {"https://{key.user}.idp.example/token", "evil.example/"},
	} {
		t.Run(name, func(t *testing.T) {
			w := &wiretest.Wire{}
			ep := wiretest.Endpoint(w)
			ep.URL = wiretest.Template(t, c.url)
			if err := wiretest.CallWithKey(ep, nil, "user", c.value); err != nil {
				return // refused, nothing sent
			}
			u, err := url.Parse(w.Last(t).URL)
			if err != nil {
				t.Fatal(err)
			}
			if u.Hostname() != "idp.example" {
				t.Fatalf("sent to %s", u.Hostname())
			}
			if u.RawQuery != "" {
				q, err := url.ParseQuery(u.RawQuery)
				if err != nil || !slices.Equal(q["user"], []string{c.value}) || !slices.Equal(q["scope"], []string{"read"}) {
					t.Errorf("the query says %q, want user %q and scope read", q, c.value)
				}
				return
			}
			segments := strings.Split(strings.Trim(u.EscapedPath(), "/"), "/")
			if value, err := url.PathUnescape(segments[len(segments)-2]); err != nil || value != c.value || strings.Trim(segments[len(segments)-2], ".") == "" {
				t.Errorf("the path is %s, want a segment of %q that no server resolves", u.EscapedPath(), c.value)
			}
		})
	}
}
