package bearer

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/caddy-bearer/caddy-bearer/tokensource"
)

// FuzzInject: whatever an app sends, the API gets our token once, in its one place, and no other credential; the request
// goes where it went, and is itself unchanged. What the API gets is what it reads from the wire.
func FuzzInject(f *testing.F) {
	for _, raw := range []string{
		"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
		"GET /?access_token=theirs;access_token=x#access_token=y HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer theirs\r\nauthorization_: x\r\n\r\n",
		"GET http://evil/?a&b==&;&%61ccess_token=1&access.token[]=2 HTTP/1.1\r\nHost: a\r\nCookie: session=theirs; a=1\r\nCookie: \"session\"=x, session=y\r\n\r\n",
		"POST //a@b/../%2f HTTP/1.0\r\nProxy-Authorization: Basic eA==\r\nConnection: Authorization\r\nUpgrade: h2c\r\nCookie_: session=z\r\n\r\n",
		"OPTIONS * HTTP/1.1\r\nHost: a\r\nTrailer: Authorization, Cookie\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nAuthorization: x\r\n\r\n",
	} {
		f.Add(raw)
	}
	token := testToken(f, "ours-0123456789")
	injectors := map[string]*injector{
		"header": mustInjector(f, nil),
		"query":  mustInjector(f, []Injection{{Query: "access_token", Value: "{token}"}}),
		"cookie": mustInjector(f, []Injection{{Cookie: "session", Value: "{token}"}}),
	}
	f.Fuzz(func(t *testing.T, raw string) {
		req, err := http.ReadRequest(bufio.NewReader(strings.NewReader(raw)))
		if err != nil {
			return
		}
		before := fmt.Sprint(req.URL, req.Host, req.Header, req.Trailer)
		for place, ij := range injectors {
			out, err := injectCopy(ij, req, token, nil)
			if err != nil {
				t.Fatalf("%s: %v", place, err)
			}
			if out.URL.Host != req.URL.Host || out.URL.Path != req.URL.Path || out.Host != req.Host || out.Method != req.Method {
				t.Errorf("%s: to %s %s", place, out.Method, out.URL)
			}
			got, ok := arrived(out)
			if !ok {
				continue // not fit for the wire, whatever was injected
			}
			authorization, query, cookies := credentials(got.Header, "Authorization"), namedIn(got.URL.RawQuery, "&;#"), got.CookiesNamed("session")
			wantHeader, wantQuery, wantCookie := place == "header", place == "query", place == "cookie"
			if (len(authorization) == 1 && authorization[0] == "Bearer ours-0123456789") != wantHeader || (!wantHeader && len(authorization) > 0) {
				t.Errorf("%s: Authorization %q", place, authorization)
			}
			if len(credentials(got.Header, "Proxy-Authorization")) > 0 {
				t.Errorf("%s: %v", place, got.Header)
			}
			if wantQuery && (len(query) != 1 || query[0] != "ours-0123456789") {
				t.Errorf("access_token is %q in %q", query, got.URL.RawQuery)
			}
			if wantCookie && (len(cookies) != 1 || cookies[0].Value != "ours-0123456789" || len(credentials(got.Header, "Cookie")) != 1) {
				t.Errorf("session is %v in %q", cookies, credentials(got.Header, "Cookie"))
			}
		}
		if after := fmt.Sprint(req.URL, req.Host, req.Header, req.Trailer); after != before {
			t.Errorf("the request was changed from %s to %s", before, after)
		}
	})
}

// arrived is a request as it arrives; false if it cannot be sent.
func arrived(out *http.Request) (*http.Request, bool) {
	sent := out.Clone(context.Background())
	sent.Body, sent.ContentLength, sent.TransferEncoding, sent.Trailer, sent.RequestURI = nil, 0, nil, nil, ""
	sent.URL.Scheme = "http"
	if sent.URL.Host == "" {
		sent.URL.Host = "api.example"
	}
	var wire bytes.Buffer
	if sent.Write(&wire) != nil {
		return nil, false
	}
	got, err := http.ReadRequest(bufio.NewReader(&wire))
	return got, err == nil
}

// namedIn are the values of access_token, for a server that takes any of the separators, and ignores case.
func namedIn(query, separators string) []string {
	var values []string
	for _, pair := range strings.FieldsFunc(query, func(r rune) bool { return strings.ContainsRune(separators, r) }) {
		if name, value, _ := strings.Cut(pair, "="); strings.EqualFold(name, "access_token") {
			values = append(values, value)
		}
	}
	return values
}

// FuzzResponse: whatever an API answers, neither the app nor an error gets the token from it.
func FuzzResponse(f *testing.F) {
	for _, raw := range []string{
		"HTTP/1.1 200 OK\r\nX-Echo: SECRET\r\nContent-Length: 2\r\n\r\nok",
		"HTTP/1.1 200 SECRET\r\nSECRET: 1\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n2;SECRET\r\nok\r\n0\r\nX: SECRET\r\nSECRET\r\n\r\n",
		"HTTP/1.1 302 Found\r\nLocation: /?a=1&access_token=SECRET#b\r\nLink: <?access_token=SECRET>; rel=next, <\r\nRefresh: 0; url=?access_token=SECRET\r\n\r\n",
		"HTTP/1.1 103 x\r\nRefresh: \xff\xff\xff\xff\xff\xffurl=\r\n\r\nHTTP/1.1 200 x\r\nX: %53ECRET\r\n\r\n",
		"HTTP/1.1 103 Early Hints\r\nLink: </?access_token=SECRET>\r\n\r\nHTTP/1.1 401 SECRET\r\nWWW-Authenticate: Bearer error=\"SECRET\"\r\n\r\n",
		"SECRET\r\n\r\n", "HTTP/1.1 SECRET\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: SECRET\r\n\r\n", "HTTP/1.1 101 x\r\nUpgrade: SECRET\r\nConnection: upgrade\r\n\r\nSECRET",
	} {
		f.Add(raw)
	}
	const access = "ours-0123456789+/="
	source := testSource(f, tokensource.Config{Grant: testGrant(func(*http.Request) (int, string) { return 200, `{"access_token":"` + access + `","expires_in":3600}` }), MinInterval: time.Hour})
	f.Fuzz(func(t *testing.T, raw string) {
		base := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
			client, server := net.Pipe()
			go func() {
				defer server.Close()
				if req, err := http.ReadRequest(bufio.NewReader(server)); err == nil {
					_, _ = io.Copy(io.Discard, req.Body)
					_, _ = io.WriteString(server, strings.ReplaceAll(raw, "SECRET", access))
				}
			}()
			return client, nil
		}}
		defer base.CloseIdleConnections()
		tr := &Transport{Source: source, Base: base, Settle: -1, Inject: []Injection{{Query: "access_token", Value: "{token}"}, {Header: "Authorization", Value: "Bearer {token}"}}}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://localhost/", nil)
		if err != nil {
			t.Fatal(err)
		}
		clean := func(what, text string) {
			t.Helper()
			for _, spelling := range []string{access, "ours-0123456789%2B%2F%3D"} {
				if strings.Contains(strings.ToLower(text), strings.ToLower(spelling)) {
					t.Errorf("the token in %s: %s", what, text)
				}
			}
		}
		res, err := tr.RoundTrip(req)
		if err != nil {
			clean("the error", err.Error())
			return
		}
		defer res.Body.Close()
		clean("the headers", fmt.Sprint(res.Status, res.Header))
		if _, err := io.Copy(io.Discard, io.LimitReader(res.Body, 1<<20)); err != nil {
			clean("the body's error", err.Error())
		}
		clean("the trailers", fmt.Sprint(res.Trailer))
	})
}
