package bearer

import (
	"bufio"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-bearer/caddy-bearer/tokensource"
)

// received is a request as net/http's server reads it from the wire.
func received(t *testing.T, lines ...string) *http.Request {
	t.Helper()
	text := "GET /path?q=1 HTTP/1.1\r\nHost: localhost\r\n" + strings.Join(lines, "\r\n")
	if len(lines) > 0 {
		text += "\r\n"
	}
	req, err := http.ReadRequest(bufio.NewReader(strings.NewReader(text + "\r\n")))
	if err != nil {
		t.Fatal(err)
	}
	return req
}

func mustInjector(t testing.TB, list []Injection, keyNames ...string) *injector {
	t.Helper()
	ij, err := newInjector(list, keyNames, nil)
	if err != nil {
		t.Fatal(err)
	}
	return &ij
}

// credentials are the headers of a request that a server may take for
// credentials: by any spelling of their names.
func credentials(h http.Header, name string) (all []string) {
	for n, values := range h {
		if strings.EqualFold(strings.Trim(strings.ReplaceAll(n, "_", "-"), "-"), name) {
			all = append(all, values...)
		}
	}
	return all
}

// TestInjectRemovesCredentials is attack 1: exactly one Authorization, ours.
func TestInjectRemovesCredentials(t *testing.T) {
	token := testToken(t, "ours")
	for _, name := range []string{
		"Authorization", "authorization", "AUTHORIZATION", "aUtHoRiZaTiOn", "Authorization_", "_Authorization", "AUTHORIZATION_",
		"Authorization__", "Proxy-Authorization", "proxy-authorization", "Proxy_Authorization", "PROXY_AUTHORIZATION_",
	} {
		t.Run(name, func(t *testing.T) {
			req := received(t, name+": Bearer theirs", name+": Basic dGhlaXJz", "Authorization: theirs", "Accept: */*")
			out, err := injectCopy(mustInjector(t, nil), req, token, nil)
			if err != nil {
				t.Fatal(err)
			}
			if got := credentials(out.Header, "Authorization"); !slices.Equal(got, []string{"Bearer ours"}) {
				t.Errorf("Authorization: %q", got)
			}
			if got := credentials(out.Header, "Proxy-Authorization"); len(got) != 0 {
				t.Errorf("Proxy-Authorization: %q", got)
			}
			if out.Header.Get("Accept") != "*/*" {
				t.Error("another header was removed")
			}
		})
	}
}

// TestInjectOwnHeader: a header that the transport sets does not come from the
// app, however it spells it; nor does Authorization, when the token goes elsewhere.
func TestInjectOwnHeader(t *testing.T) {
	ij := mustInjector(t, []Injection{{Header: "x-api-token", Value: "{token}"}})
	req := received(t, "X-Api-Token: theirs", "X_API_TOKEN: theirs", "X-Api_Token: theirs", "Authorization: theirs", "X_Other: stays")
	out, err := injectCopy(ij, req, testToken(t, "ours"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := credentials(out.Header, "X-Api-Token"); !slices.Equal(got, []string{"ours"}) {
		t.Errorf("X-Api-Token: %q", got)
	}
	if got := credentials(out.Header, "Authorization"); len(got) != 0 {
		t.Errorf("Authorization: %q", got)
	}
	if out.Header.Get("X_other") != "stays" {
		t.Errorf("another header with _ was removed: %v", out.Header)
	}
}

// TestInjectLeavesTheRequestAlone: Caddy logs it afterwards, and sends it
// again.
func TestInjectLeavesTheRequestAlone(t *testing.T) {
	ij := mustInjector(t, []Injection{
		{Header: "X-Token", Value: "{token}"},
		{Query: "q", Value: "{token}"},
		{Cookie: "session", Value: "{token}"},
	})
	req := received(t, "Authorization: theirs", "X-Token: theirs", "X_Token: theirs", "Cookie: session=theirs; other=1")
	header, target := maps.Clone(req.Header), *req.URL
	out, err := injectCopy(ij, req, testToken(t, "ours"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(req.Header, header) || *req.URL != target {
		t.Errorf("changed to %v %v", req.URL, req.Header)
	}
	if strings.Contains(out.URL.RawQuery+out.Header.Get("Cookie")+out.Header.Get("X-Token"), "theirs") {
		t.Errorf("sent %v %v", out.URL, out.Header)
	}
}

// TestInjectQuery: the app's own parameters stay as they are, less those of
// the name, by any spelling.
func TestInjectQuery(t *testing.T) {
	ij := mustInjector(t, []Injection{{Query: "access_token", Value: "{token}"}})
	token := testToken(t, "a+b/c=&d")
	const ours = "access_token=a%2Bb%2Fc%3D%26d"
	for given, want := range map[string]string{
		"":                                   ours,
		"b=2&a=1":                            "b=2&a=1&" + ours,
		"access_token=theirs":                ours,
		"access_token=1&x=%20&access_token=": "x=%20&" + ours,
		"%61ccess_token=theirs":              ours,
		"access%5Ftoken=theirs":              ours,
		"access%5ftoken":                     ours,
		"%zz=1&&x":                           "%zz=1&&x&" + ours,
		"a=access_token":                     "a=access_token&" + ours,
	} {
		req := httptest.NewRequest(http.MethodGet, "http://localhost/", nil)
		req.URL.RawQuery = given
		out, err := injectCopy(ij, req, token, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := out.URL.RawQuery; got != want {
			t.Errorf("%q: got %q, want %q", given, got, want)
		}
	}
}

func TestInjectCookie(t *testing.T) {
	ij := mustInjector(t, []Injection{{Cookie: "session", Value: "{token}"}})
	token := testToken(t, "ours")
	for given, want := range map[string]string{
		"":                                "session=ours",
		"session=theirs":                  "session=ours",
		"a=1; session=theirs; b=2":        "a=1; b=2; session=ours",
		"a=1;session=x;session=y":         "a=1; session=ours",
		"session =theirs":                 "session=ours",
		"sessions=stays; a=1,,2":          "sessions=stays; a=1,,2; session=ours",
		"ids=1,2,":                        "ids=1,2,; session=ours",
		"a=\"x y\"; session=\"theirs\"; ": "a=\"x y\"; session=ours",
	} {
		req := httptest.NewRequest(http.MethodGet, "/", nil)
		if given != "" {
			req.Header.Set("Cookie", given)
		}
		out, err := injectCopy(ij, req, token, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := out.Header["Cookie"]; !slices.Equal(got, []string{want}) {
			t.Errorf("%q: got %q, want %q", given, got, want)
		}
	}
}

// TestAttack18Twins: no parameter or cookie reaches the API that a lenient server takes for ours.
func TestAttack18Twins(t *testing.T) {
	token := testToken(t, "ours")
	query := mustInjector(t, []Injection{{Query: "access_token", Value: "{token}"}})
	for given, want := range map[string]string{
		"a=1;access_token=theirs":              "a=1",
		"a=1;access_token=theirs;b=2&c":        "a=1;b=2&c",
		"a=1#access_token=theirs":              "a=1",
		"a=1#b":                                "a=1%23b",
		"Access_Token=theirs":                  "",
		"access_token[]=theirs&access_tokens":  "access_tokens",
		"access_token[0]=theirs":               "",
		"access_token%5B%5D=theirs":            "",
		"access.token=theirs&access.tokens=1":  "access.tokens=1",
		"access[token=theirs&a[b]=1":           "a[b]=1",
		"access%20token=theirs":                "",
		"access+token=theirs":                  "",
		"%20access_token=theirs":               "",
		"access_token%20=theirs":               "",
		"access_token%00x=theirs":              "",
		"%u0061ccess_token=theirs":             "",
		"a=access_token=theirs&b=%2561":        "a=access_token=theirs&b=%2561",
		"%zzaccess_token=1&%c3%a9=%u00e9&%u=1": "%zzaccess_token=1&%c3%a9=%u00e9&%u=1",
	} {
		req := httptest.NewRequest(http.MethodGet, "http://localhost/", nil)
		req.URL.RawQuery = given
		out, err := injectCopy(query, req, token, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.TrimSuffix(out.URL.RawQuery, "access_token=ours"); strings.TrimSuffix(got, "&") != want || got == out.URL.RawQuery {
			t.Errorf("%q: got %q, want %q", given, out.URL.RawQuery, want)
		}
	}
	cookie := mustInjector(t, []Injection{{Cookie: "session", Value: "{token}"}})
	for given, want := range map[string]string{
		"SESSION=theirs; a=1":          "a=1; session=ours",
		`"session"=theirs; a=1`:        "a=1; session=ours",
		"a=1, session=theirs":          "a=1; session=ours",
		"a=1,session=theirs,b=2; c=3":  "a=1,b=2; c=3; session=ours",
		"a=1; ses%73ion=theirs":        "a=1; session=ours",
		"session[x]=theirs; sessions=": "sessions=; session=ours",
	} {
		out, err := injectCopy(cookie, received(t, "Cookie: "+given, "Cookie_: session=theirs", "_cookie: session=theirs"), token, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := credentials(out.Header, "Cookie"); !slices.Equal(got, []string{want}) {
			t.Errorf("%q: got %q, want %q", given, got, want)
		}
	}
	trailer := http.Header{"Cookie": {"session=theirs"}, "X-Checksum": {"1"}}
	cookie.cleanTrailer(trailer)
	if len(trailer) != 1 {
		t.Errorf("sent the trailers %v", trailer)
	}
}

// TestAttack11Redirects: injected parameters do not come back in the API's URLs, in any spelling; the rest of them stays as
// it is.
func TestAttack11Redirects(t *testing.T) {
	ij := mustInjector(t, []Injection{{Query: "access_token", Value: "{token}"}})
	token := testToken(t, "a+b/c=d")
	for _, c := range []struct{ header, given, want string }{
		{"Location", "https://api.example/x?b=2&access_token=a%2Bb%2Fc%3Dd&a=1#f", "https://api.example/x?b=2&a=1#f"},
		{"Location", "/x?access_token=a+b/c=d", "/x"},
		{"Location", "/x?%61ccess_token=a%2bb%2Fc%3dd&y", "/x?y"},
		{"Location", "https://files.example/x?access_token=signed&y", "https://files.example/x?access_token=signed&y"},
		{"Location", "/login?back=a%2bb%2fc%3dd", "REDACTED"},
		{"Location", "/login?back=a+b%2fc=d", "REDACTED"},
		{"Location", "/x?access_token=a+b%2Fc=d&y", "/x?y"},
		{"Location", "/login?back=%2Fx%3Fa%252Bb%252Fc%253Dd", "REDACTED"},
		{"Location", "/x?next=a%2Bb%2Fc%3Dd", "/x?next=REDACTED"},
		{"Location", "/x?a=1;b=2", "/x?a=1;b=2"},
		{"Content-Location", "/x?access_token=a%2Bb/c%3Dd", "/x"},
		{"Link", `<https://api.example/?access_token=a%2Bb%2Fc%3Dd&page=2>; rel="next", </?page=9&access_token=a%2Bb%2Fc%3Dd>; rel=last`, `<https://api.example/?page=2>; rel="next", </?page=9>; rel=last`},
		{"Link", "<unclosed?access_token=1", "<unclosed?access_token=1"},
		{"Refresh", "5; URL=/x?access_token=a%2Bb%2Fc%3Dd&b", "5; URL=/x?b"},
		{"Refresh", "\xff\xff\xff\xff\xff\xffurl=", "\xff\xff\xff\xff\xff\xffurl="},
		{"Refresh", "5", "5"},
		{"X-Echo", "GET /?access_token=a%2Bb%2Fc%3Dd and a+b/c=d", "GET /?access_token=REDACTED and REDACTED"},
	} {
		res := &http.Response{StatusCode: 200, ProtoMajor: 1, Header: http.Header{c.header: {c.given}}, Body: http.NoBody}
		ij.cleanResponse(res, token)
		if got := res.Header.Get(c.header); got != c.want {
			t.Errorf("%s: %q became %q; want %q", c.header, c.given, got, c.want)
		}
	}
}

// TestInjectTemplates: {token}, members of its answer, the key.
func TestInjectTemplates(t *testing.T) {
	token := testToken(t, "ours", "instance", "eu-1", "id", "7")
	for value, want := range map[string][]string{
		"{token}":                         {"ours"},
		"Zoho-oauthtoken {token}":         {"Zoho-oauthtoken ours"},
		"{token.instance}":                {"eu-1"},
		"{token.id}/{key.user}":           {"7/alice"},
		"{token.missing}":                 nil,
		"{token.instance}{token.missing}": nil,
		"constant":                        {"constant"},
		`{"t": "{token}"}`:                {`{"t": "ours"}`},
	} {
		ij := mustInjector(t, []Injection{{Header: "X-Value", Value: value}}, "tenant", "user")
		out, err := injectCopy(ij, received(t, "X-Value: theirs"), token, []string{"acme", "alice"})
		if err != nil {
			t.Fatal(err)
		}
		if got := out.Header["X-Value"]; !slices.Equal(got, want) {
			t.Errorf("%s: got %q, want %q", value, got, want)
		}
		wantBearer := !strings.Contains(value, "{token}")
		if got := out.Header.Get("Authorization") == "Bearer ours"; got != wantBearer {
			t.Errorf("%s: Authorization %q", value, out.Header.Get("Authorization"))
		}
	}
}

// TestInjectNeverWithoutToken: when the one thing that holds the token is left
// out for a member that the answer lacks, the request is not sent.
func TestInjectNeverWithoutToken(t *testing.T) {
	ij := mustInjector(t, []Injection{{Header: "X-Auth", Value: "{token.instance}:{token}"}})
	out, err := injectCopy(ij, received(t), testToken(t, "ours"), nil)
	if err == nil {
		t.Errorf("sent without a token: %v", out.Header)
	}
}

// TestInjectRefusesLineBreaks is attack 7: nothing writes headers of its own.
func TestInjectRefusesLineBreaks(t *testing.T) {
	for _, value := range []string{"a\r\nX-Evil: 1", "a\nb", "a\rb", "a\x00b"} {
		token := testToken(t, "ours", "x", value)
		for _, in := range []Injection{
			{Header: "X-Value", Value: "{token.x}"},
			{Header: "X-Value", Value: "{key.user}"},
		} {
			out, err := injectCopy(mustInjector(t, []Injection{in}, "user"), received(t), token, []string{value})
			if err == nil {
				t.Errorf("%+v with %q: sent %q", in, value, out.Header)
			} else if strings.Contains(err.Error(), "a") && strings.Contains(err.Error(), value) {
				t.Errorf("the error holds the value: %v", err)
			}
		}
	}
}

// TestInjectCookieValues: nothing writes cookies of its own either.
func TestInjectCookieValues(t *testing.T) {
	for _, value := range []string{"me; admin=1", "a\r\nX-Evil: 1", "a\nb", "a\x00b"} {
		for _, template := range []string{"{token.x}", "{key.user}"} {
			ij := mustInjector(t, []Injection{{Cookie: "user", Value: template}}, "user")
			out, err := injectCopy(ij, received(t), testToken(t, "ours", "x", value), []string{value})
			if err == nil && strings.ContainsAny(out.Header.Get("Cookie"), ";\r\n\x00") {
				t.Errorf("%s with %q: sent the cookie %q", template, value, out.Header.Get("Cookie"))
			}
		}
	}
}

// TestTrailersAreCleaned: servers merge them into headers, also those that were not announced and are known when the
// body has been read.
func TestTrailersAreCleaned(t *testing.T) {
	ij := mustInjector(t, nil)
	trailer := http.Header{"X-Checksum": nil}
	req := &http.Request{Body: io.NopCloser(strings.NewReader("body")), Trailer: trailer}
	body := captureBody(req, 1<<10)
	ij.captureTrailer(req, body)
	trailer["Authorization"], trailer["Authorization_"], trailer["X-Checksum"] = []string{"Bearer evil"}, []string{"x"}, []string{"1"}
	if text, err := io.ReadAll(body.open()); err != nil || string(text) != "body" {
		t.Fatalf("read %q, %v", text, err)
	}
	if sent := body.trailer; len(sent) != 1 || sent.Get("X-Checksum") != "1" {
		t.Errorf("sent the trailers %v", sent)
	}
	if len(trailer) != 3 {
		t.Errorf("the request was changed: its trailers are %v", trailer)
	}
}

// TestInjectMembers: a transport has its source keep the members that its values
// are made of, however large the response is.
func TestInjectMembers(t *testing.T) {
	many := ""
	for i := range 30 {
		many += fmt.Sprintf(`"a%02d":1,`, i)
	}
	source := testSource(t, tokensource.Config{Grant: testGrant(func(*http.Request) (int, string) {
		return 200, `{` + many + `"access_token":"ours","id_token":"h.p.s","user":{"tenants":["T1"]},"session":"` + strings.Repeat("s", 2000) + `"}`
	})})
	var out *http.Request
	tr := &Transport{
		Source: source,
		Inject: []Injection{
			{Header: "X-Tenant", Value: "{token.user.tenants.0}"},
			{Query: "id", Value: "{token.id_token}"},
			{Cookie: "session", Value: "{token.session}"},
			{Header: "X-Nothing", Value: "{token.nothing}"},
		},
		Base: fakeEndpoint(func(req *http.Request) (int, string) {
			out = req
			return 200, ""
		}),
	}
	req := httptest.NewRequest(http.MethodGet, "https://api.example/x", nil)
	res, err := tr.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	if got := out.Header.Get("X-Tenant") + " " + out.URL.RawQuery + " " + out.Header.Get("Cookie"); got != "T1 id=h.p.s session="+strings.Repeat("s", 2000) {
		t.Errorf("got %s", got)
	}
	if got := out.Header.Values("X-Nothing"); len(got) != 0 {
		t.Errorf("X-Nothing: %q", got)
	}
}

// injectCopy puts the token into a copy of the request.
func injectCopy(ij *injector, req *http.Request, token *tokensource.Token, key []string) (*http.Request, error) {
	out := copyRequest(req)
	return out, ij.inject(out, token, key)
}
