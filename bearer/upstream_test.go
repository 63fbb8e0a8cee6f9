package bearer

import (
	"net/url"
	"strings"
	"testing"

	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenendpoint"
)

func mustTarget(t *testing.T, text string, hosts ...string) *target {
	t.Helper()
	tmpl, err := tokenendpoint.ParseTemplate(text)
	if err != nil {
		t.Fatal(err)
	}
	to, err := newTarget(&Upstream{URL: tmpl, AllowHosts: hosts}, []string{"shop"}, []string{"plain.example"})
	if err != nil {
		t.Fatal(err)
	}
	return to
}

// TestTarget: what a provider or a request says never leads the token to a host that is
// not allowed, nor out of the base path, nor over plain http.
func TestTarget(t *testing.T) {
	instance := mustTarget(t, "{token.instance_url}/services", "*.my.example", "sandbox.example:8443", "plain.example")
	shop := mustTarget(t, "https://{key.shop}.shops.example/admin", "*.shops.example")
	path := mustTarget(t, "https://api.example/accounts/{key.shop}")
	for _, c := range []struct {
		target      *target
		value, want string // want is empty: refused
	}{
		{instance, "https://acme.my.example", "https://acme.my.example/services/x?q=1"},
		{instance, "https://ACME.My.Example/", "https://ACME.My.Example//services/x?q=1"},
		{instance, "https://acme.my.example:443", "https://acme.my.example:443/services/x?q=1"},
		{instance, "https://sandbox.example:8443", "https://sandbox.example:8443/services/x?q=1"},
		{instance, "http://plain.example", "http://plain.example/services/x?q=1"},
		{instance, "https://sandbox.example", ""},
		{instance, "https://acme.my.example:8443", ""},
		{instance, "https://a.b.my.example", ""},
		{instance, "https://my.example", ""},
		{instance, "https://.my.example", ""},
		{instance, "http://acme.my.example", ""},
		{instance, "https://evil.example", ""},
		{instance, "https://acme.my.example@evil.example", ""},
		{instance, "https://evil.example/.my.example", ""},
		{instance, "https://evil.example#.my.example", ""},
		{instance, "https://evil.example?.my.example", ""},
		{instance, "//acme.my.example", ""},
		{instance, "ftp://acme.my.example", ""},
		{instance, "https:acme.my.example", ""},
		{instance, "https://acme.my.example/..", ""},
		{instance, "https://acme.my.example/%2e%2e", ""},
		{instance, "acme.my.example", ""},
		{instance, "", ""},
		{shop, "acme", "https://acme.shops.example/admin/x?q=1"},
		{shop, "evil.example/", ""},
		{shop, "evil.example#", ""},
		{shop, "evil.example?", ""},
		{shop, "evil.example:443/", ""},
		{shop, "me@evil", ""},
		{shop, "a.b", ""},
		{shop, "", ""},
		{path, "acme", "https://api.example/accounts/acme/x?q=1"},
		{path, "a/b?c#d", "https://api.example/accounts/a%2Fb%3Fc%23d/x?q=1"},
		{path, "..", ""},
		{path, "../admin", ""},
		{path, "%2e%2e", ""},
	} {
		req := received(t)
		req.URL = &url.URL{Path: "/x", RawQuery: "q=1"}
		err := c.target.direct(req, func(string) (string, bool) { return c.value, true })
		switch {
		case c.want == "" && err == nil:
			t.Errorf("%q: sent to %s", c.value, req.URL)
		case c.want != "" && err != nil:
			t.Errorf("%q: %v", c.value, err)
		case c.want != "" && req.URL.String() != c.want:
			t.Errorf("%q: sent to %s, want %s", c.value, req.URL, c.want)
		case err != nil && len(c.value) > 3 && strings.Contains(err.Error(), c.value):
			t.Errorf("the error holds the value: %v", err)
		}
	}
}

func TestTargetSettings(t *testing.T) {
	for text, hosts := range map[string][]string{
		"{token.instance_url}":            nil,
		"https://{key.shop}.example":      nil,
		"https://{key.other}.example":     {"*.example"},
		"https://{token}.example":         {"*.example"},
		"https://{key.shop}.example/v1":   {"*.*.example"},
		"https://{key.shop}.example/v1/":  {"https://a.example"},
		"https://{key.shop}.example/v1//": {"a.example/path"},
		"https://{key.shop}.example/v2":   {""},
		"https://{key.shop}.example/v3":   {"a*.example"},
	} {
		tmpl, err := tokenendpoint.ParseTemplate(text)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := newTarget(&Upstream{URL: tmpl, AllowHosts: hosts}, []string{"shop"}, nil); err == nil {
			t.Errorf("%s with %q: no error", text, hosts)
		}
	}
}

func TestJoinURL(t *testing.T) {
	for _, c := range []struct{ base, request, want string }{
		{"https://api.example", "/x", "https://api.example/x"},
		{"https://api.example/", "/x", "https://api.example/x"},
		{"https://api.example/v2", "/x", "https://api.example/v2/x"},
		{"https://api.example/v2/", "/x", "https://api.example/v2/x"},
		{"https://api.example/v2", "", "https://api.example/v2"},
		{"https://api.example/v2", "/", "https://api.example/v2/"},
		{"https://api.example/v2", "/a%2Fb?q=%zz&;", "https://api.example/v2/a%2Fb?q=%zz&;"},
		{"https://api.example/a%2Fb", "/c", "https://api.example/a%2Fb/c"},
		{"https://api.example/v2", "//evil.example/x", "https://api.example/v2//evil.example/x"},
		{"https://api.example", "/../x", "https://api.example/../x"},
		{"https://api.example/v2", "/a..b/...", "https://api.example/v2/a..b/..."},
		{"https://api.example/v2", "/../x", ""},
		{"https://api.example/v2", "/a/..", ""},
		{"https://api.example/v2", "/./x", ""},
		{"https://api.example/v2", "/%2e%2E/x", ""},
		{"https://api.example/v2", "/%252e%252e/x", ""},
		{"https://api.example/v2", "/..%2fx", ""},
		{"https://api.example/v2", `/..\x`, ""},
		{"https://api.example/v2", "/..;a=b/x", ""},
	} {
		base, err := url.Parse(c.base)
		if err != nil {
			t.Fatal(err)
		}
		path, query, _ := strings.Cut(c.request, "?")
		request := &url.URL{RawQuery: query}
		if path != "" {
			if request.Path, err = url.PathUnescape(path); err != nil {
				t.Fatal(err)
			}
			request.RawPath = path
		}
		got, err := JoinURL(base, request)
		switch {
		case c.want == "" && err == nil:
			t.Errorf("%s and %s: %s, want an error", c.base, c.request, got)
		case c.want != "" && err != nil:
			t.Errorf("%s and %s: %v", c.base, c.request, err)
		case c.want != "" && got.String() != c.want:
			t.Errorf("%s and %s: %s, want %s", c.base, c.request, got, c.want)
		}
	}
}
