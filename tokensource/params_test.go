package tokensource_test

import (
	"io"
	"maps"
	"mime"
	"mime/multipart"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-bearer/caddy-bearer/tokensource"
)

const formType = "application/x-www-form-urlencoded"

// K1 and K3: where the parameters go, by the request that is sent.
func TestParamsIn(t *testing.T) {
	for name, c := range map[string]struct {
		edit func(ep *tokensource.Endpoint)
		want sentRequest
	}{
		"form": {
			func(ep *tokensource.Endpoint) {},
			sentRequest{method: "POST", url: idp, body: "grant_type=client_credentials&scope=a+b"},
		},
		"query": {
			func(ep *tokensource.Endpoint) { ep.ParamsIn = tokensource.ParamsQuery },
			sentRequest{method: "POST", url: idp + "?grant_type=client_credentials&scope=a+b"},
		},
		"GET": {
			func(ep *tokensource.Endpoint) { ep.Method = "GET" },
			sentRequest{method: "GET", url: idp + "?grant_type=client_credentials&scope=a+b"},
		},
		"get, in small letters": {
			func(ep *tokensource.Endpoint) { ep.Method = "get" },
			sentRequest{method: "GET", url: idp + "?grant_type=client_credentials&scope=a+b"},
		},
		"JSON": {
			func(ep *tokensource.Endpoint) { ep.ParamsIn = tokensource.ParamsJSON },
			sentRequest{method: "POST", url: idp, body: `{"grant_type":"client_credentials","scope":"a b"}`},
		},
		"none": {
			func(ep *tokensource.Endpoint) { ep.ParamsIn = tokensource.ParamsNone },
			sentRequest{method: "POST", url: idp},
		},
		"after the URL's own query": {
			func(ep *tokensource.Endpoint) {
				ep.URL, ep.ParamsIn = lit(idp+"?tenant=x"), tokensource.ParamsQuery
			},
			sentRequest{method: "POST", url: idp + "?tenant=x&grant_type=client_credentials&scope=a+b"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := &wire{}
			ep := endpoint(w)
			c.edit(ep)
			mustCall(t, ep, param("scope", "a b"))
			got := w.last(t)
			if got.method != c.want.method || got.url != c.want.url || got.body != c.want.body {
				t.Errorf("sent %s %s %q,\nwant %s %s %q", got.method, got.url, got.body, c.want.method, c.want.url, c.want.body)
			}
		})
	}
}

// MondiaPay wants the form's content type though all is in the query; a GET
// has none.
func TestContentType(t *testing.T) {
	for name, c := range map[string]struct {
		in     tokensource.ParamsIn
		method string
		want   string
	}{
		"form":  {tokensource.ParamsForm, "", formType},
		"query": {tokensource.ParamsQuery, "", formType},
		"none":  {tokensource.ParamsNone, "", formType},
		"json":  {tokensource.ParamsJSON, "", "application/json"},
		"GET":   {"", "GET", ""},
	} {
		w := &wire{}
		ep := endpoint(w)
		ep.ParamsIn, ep.Method = c.in, c.method
		mustCall(t, ep)
		if got := w.last(t).header.Get("Content-Type"); got != c.want {
			t.Errorf("%s: Content-Type %q, want %q", name, got, c.want)
		}
	}
}

func TestParamsMultipart(t *testing.T) {
	w := &wire{}
	ep := endpoint(w)
	ep.ParamsIn = tokensource.ParamsMultipart
	mustCall(t, ep, param("scope", "a\r\nb"))
	sent := w.last(t)
	mediaType, params, err := mime.ParseMediaType(sent.header.Get("Content-Type"))
	if err != nil || mediaType != "multipart/form-data" {
		t.Fatalf("Content-Type %q: %v", sent.header.Get("Content-Type"), err)
	}
	got := map[string]string{}
	for r := multipart.NewReader(strings.NewReader(sent.body), params["boundary"]); ; {
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
		in, all   tokensource.ParamsIn
		url, body string
	}{
		"query beside a form":   {tokensource.ParamsQuery, tokensource.ParamsForm, idp + "?x=1", "grant_type=client_credentials"},
		"query beside JSON":     {tokensource.ParamsQuery, tokensource.ParamsJSON, idp + "?x=1", `{"grant_type":"client_credentials"}`},
		"form beside a query":   {tokensource.ParamsForm, tokensource.ParamsQuery, idp + "?grant_type=client_credentials", "x=1"},
		"form beside nothing":   {tokensource.ParamsForm, tokensource.ParamsNone, idp, "x=1"},
		"query beside nothing":  {tokensource.ParamsQuery, tokensource.ParamsNone, idp + "?x=1", ""},
		"in the body, it being": {tokensource.ParamsForm, tokensource.ParamsJSON, idp, `{"grant_type":"client_credentials","x":"1"}`},
	} {
		w := &wire{}
		ep := endpoint(w)
		ep.ParamsIn = c.all
		mustCall(t, ep, tokensource.Param{Name: "x", Value: lit("1"), In: c.in})
		if got := w.last(t); got.url != c.url || got.body != c.body {
			t.Errorf("%s: sent %s %q, want %s %q", name, got.url, got.body, c.url, c.body)
		}
	}
}

// K4: the endpoint's parameters take the place of the grant's; names change
// and go last.
func TestDialect(t *testing.T) {
	for name, c := range map[string]struct {
		edit func(ep *tokensource.Endpoint)
		want string
	}{
		"add": {
			func(ep *tokensource.Endpoint) { ep.Params = []tokensource.Param{param("audience", "https://api/")} },
			"audience=https%3A%2F%2Fapi%2F&client_id=id&client_secret=s%26s&grant_type=client_credentials",
		},
		"replace": {
			func(ep *tokensource.Endpoint) { ep.Params = []tokensource.Param{param("grant_type", "openapi_2lo")} },
			"client_id=id&client_secret=s%26s&grant_type=openapi_2lo",
		},
		"replace the client's": {
			func(ep *tokensource.Endpoint) { ep.Params = []tokensource.Param{param("client_id", "other")} },
			"client_id=other&client_secret=s%26s&grant_type=client_credentials",
		},
		"rename": {
			func(ep *tokensource.Endpoint) {
				ep.Rename = map[string]string{"client_id": "client_key", "grant_type": "type"}
			},
			"client_key=id&client_secret=s%26s&type=client_credentials",
		},
		"omit": {
			func(ep *tokensource.Endpoint) { ep.Omit = []string{"grant_type"} },
			"client_id=id&client_secret=s%26s",
		},
		"swap names": {
			func(ep *tokensource.Endpoint) {
				ep.Rename = map[string]string{"client_id": "client_secret", "client_secret": "client_id"}
			},
			"client_id=s%26s&client_secret=id&grant_type=client_credentials",
		},
		"omit and name another so": {
			func(ep *tokensource.Endpoint) {
				ep.Omit, ep.Rename = []string{"grant_type"}, map[string]string{"client_id": "grant_type"}
			},
			"client_secret=s%26s&grant_type=id",
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := &wire{}
			ep := endpoint(w)
			ep.Client = tokensource.Client{ID: lit("id"), Secret: lit("s&s")}
			ep.Auth = tokensource.ClientSecretPost
			c.edit(ep)
			mustCall(t, ep)
			if got := w.last(t).body; got != c.want {
				t.Errorf("sent %s, want %s", got, c.want)
			}
		})
	}
}

func TestJSONParams(t *testing.T) {
	w := &wire{}
	ep := endpoint(w)
	ep.ParamsIn = tokensource.ParamsJSON
	ep.Params = []tokensource.Param{
		{Name: "n", Value: lit("42"), Type: tokensource.ParamNumber},
		{Name: "f", Value: lit("-1.50"), Type: tokensource.ParamNumber},
		{Name: "b", Value: lit("true"), Type: tokensource.ParamBool},
		{Name: "r", Value: lit(`[1,{"x":null}]`), Type: tokensource.ParamRaw},
		{Name: "user.name", Value: lit("me")},
		{Name: "user.id", Value: lit("7"), Type: tokensource.ParamNumber},
		{Name: `dotted\.name`, Value: lit(`"quoted"`)},
		{Name: "not a number", Value: lit("42")},
	}
	mustCall(t, ep)
	want := `{"b":true,"dotted.name":"\"quoted\"","f":-1.50,"grant_type":"client_credentials","n":42,` +
		`"not a number":"42","r":[1,{"x":null}],"user":{"id":7,"name":"me"}}`
	if got := w.last(t).body; got != want {
		t.Errorf("sent %s,\nwant %s", got, want)
	}
}

// A value that is not of its type is an error before anything is sent, and
// the error does not show it.
func TestJSONParamOfAnotherType(t *testing.T) {
	for kind, values := range map[tokensource.ParamType][]string{
		tokensource.ParamNumber: {"", "x", "0x10", "1 2", "Inf", "NaN", "1_0", "+1", "01"},
		tokensource.ParamBool:   {"", "yes", "2"},
		tokensource.ParamRaw:    {"", "{", `{"a":1} {"b":2}`, "nul"},
	} {
		for _, value := range values {
			w := &wire{}
			ep := endpoint(w)
			ep.ParamsIn = tokensource.ParamsJSON
			_, err := call(ep, tokensource.Param{Name: "p", Value: lit(value), Type: kind, Secret: true})
			if err == nil || w.count() > 0 {
				t.Errorf("%s %q was sent: %v", kind, value, w.requests)
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
		w := &wire{}
		ep := endpoint(w)
		ep.ParamsIn = tokensource.ParamsJSON
		if err := callWithKey(t, ep, []tokensource.Param{{Name: "user", Value: tmpl(t, "{key.user}")}}, "user", user); err != nil {
			continue // refused is as good as kept apart
		}
		bodies = append(bodies, w.last(t).body)
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
			w := &wire{}
			ep := endpoint(w)
			ep.URL = tmpl(t, c.url)
			if err := callWithKey(t, ep, nil, "user", c.value); err != nil {
				return // refused, nothing sent
			}
			u, err := url.Parse(w.last(t).url)
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
