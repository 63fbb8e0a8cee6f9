package tokenendpoint_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/oauth2"

	"github.com/caddy-bearer/caddy-bearer/tokensource/internal/wiretest"
	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenendpoint"
)

// shownIn is everything that a failure shows, in every way that programs print
// things.
func shownIn(t *testing.T, ee *tokenendpoint.Error) string {
	t.Helper()
	var re *oauth2.RetrieveError
	text := wiretest.Printed(t, ee) + ee.Error() + ee.ShownCode() + ee.Shape.String() + wiretest.Printed(t, ee.Code) + fmt.Sprint(ee.Code)
	if errors.As(ee, &re) {
		text += re.Error() + re.ErrorCode
	}
	return text
}

// TestAttack16Codes: a code is shown as it is listed, and "other" if it is not.
// What it means is judged by what it is.
func TestAttack16Codes(t *testing.T) {
	settings := tokenendpoint.ResponseOptions{
		UserRefused: []tokenendpoint.Matcher{{JSON: "error", Values: []string{"Locked_Out", "canary_*"}}},
		ErrorWhen:   []tokenendpoint.Matcher{{Header: "X-Error", Values: []string{"canary_header"}}, {Text: []string{"canary_text"}}},
	}
	for name, c := range map[string]struct {
		status      int
		body        string
		code, shown string
		text        string // in the error; "": nothing of a code
	}{
		"registered":              {400, `{"error":"invalid_grant"}`, "invalid_grant", "invalid_grant", ", error invalid_grant,"},
		"of an extension":         {400, `{"error":"use_dpop_nonce"}`, "use_dpop_nonce", "use_dpop_nonce", ", error use_dpop_nonce,"},
		"of a provider":           {400, `{"error":"invalid_client_secret"}`, "invalid_client_secret", "invalid_client_secret", ", error invalid_client_secret (not a registered code),"},
		"written otherwise":       {400, `{"error":"Invalid_Grant"}`, "Invalid_Grant", "invalid_grant", ", error invalid_grant (not a registered code),"},
		"in capitals by itself":   {400, `{"error":"insufficient_funds"}`, "insufficient_funds", "INSUFFICIENT_FUNDS", ", error INSUFFICIENT_FUNDS (not"},
		"another":                 {400, `{"error":"canary"}`, "canary", "other", ", error other,"},
		"elsewhere":               {400, `{"errorCode":"canary"}`, "canary", "other", ", error other,"},
		"nested":                  {400, `{"error":{"code":"canary"}}`, "canary", "other", ", error other,"},
		"of a form":               {400, `error=canary`, "canary", "other", ", error other,"},
		"a listed one and more":   {400, `{"error":"invalid_grant.canary"}`, "invalid_grant.canary", "other", ", error other,"},
		"as the settings have it": {400, `{"error":"LOCKED_OUT"}`, "LOCKED_OUT", "Locked_Out", ", error Locked_Out (not a registered code),"},
		"of a pattern":            {400, `{"error":"canary_1"}`, "canary_1", "other", ", error other,"},
		"of another matcher":      {400, `{"error":"canary_header"}`, "canary_header", "other", ", error other,"},
		"none":                    {400, `{"message":"canary"}`, "", "", ""},
		"a sentence":              {400, `{"error":"canary is gone"}`, "", "", ""},

		"success, OAuth's shape":     {200, `{"error":"bad_verification_code"}`, "bad_verification_code", "bad_verification_code", ", error bad_verification_code (not"},
		"success, another code":      {200, `{"error":"canary"}`, "canary", "other", ", error other,"},
		"success, OAuth's form":      {200, `error=slow_down`, "slow_down", "slow_down", ", error slow_down,"},
		"success, nested":            {200, `{"error":{"code":"invalid_grant"}}`, "invalid_grant", "", ""},
		"success, no string":         {200, `{"error":true}`, "true", "", ""},
		"success, a code besides":    {200, `{"code":"invalid_grant"}`, "", "", ""},
		"success, an array":          {200, `[{"error":"invalid_grant"}]`, "", "", ""},
		"a redirect, OAuth's shape":  {302, `{"error":"access_denied"}`, "access_denied", "access_denied", ", error access_denied,"},
		"a redirect, nested":         {302, `{"error":{"code":"canary"}}`, "canary", "", ""},
		"success, and JSON in text":  {200, `"{\"error\":\"invalid_grant\"}"`, "", "", ""},
		"success, the same nested":   {200, `{"result":{"error":"invalid_grant"}}`, "", "", ""},
		"success, named and nested":  {200, `{"error":{"code":"locked_out"}}`, "locked_out", "", ""},
		"success, named by settings": {200, `{"error":"locked_out"}`, "locked_out", "Locked_Out", ", error Locked_Out (not"},
	} {
		t.Run(name, func(t *testing.T) {
			ep := wiretest.Endpoint(wiretest.Responding(c.status, "application/json", c.body))
			ep.Response = settings
			ee := wiretest.MustFail(t, ep)
			if string(ee.Code) != c.code || ee.ShownCode() != c.shown {
				t.Errorf("code %q, shown as %q, want %q, %q", string(ee.Code), ee.ShownCode(), c.code, c.shown)
			}
			if text := ee.Error(); (c.text == "" && strings.Contains(text, ", error ")) || !strings.Contains(text, c.text) {
				t.Errorf("%s: want %q", text, c.text)
			}
			if text := shownIn(t, ee); strings.Contains(text, "canary") {
				t.Errorf("it prints:\n%s", text)
			}
			var re *oauth2.RetrieveError
			if !errors.As(ee, &re) || re.ErrorCode != c.shown {
				t.Errorf("RetrieveError %+v, want the code %q", re, c.shown)
			}
		})
	}
}

// A code that another program has put into an error is shown in the same way.
func TestAttack16CodeOfAGrant(t *testing.T) {
	ee := &tokenendpoint.Error{Call: "x", Host: "idp", Status: 400, Code: canary, Class: tokenendpoint.Permanent}
	if text := shownIn(t, ee); strings.Contains(text, canary) || strings.Contains(text, hex.EncodeToString([]byte(canary))) || ee.ShownCode() != "other" {
		t.Errorf("it prints:\n%s", text)
	}
}

// disguised are forms in which a secret may come back.
func disguised(secret string) map[string]string {
	letters := strings.Map(func(r rune) rune {
		if r < 'a' || r > 'z' {
			return -1
		}
		return r
	}, secret)
	backwards := []byte(secret)
	slices.Reverse(backwards)
	return map[string]string{
		"as it is": secret, "with more": "x_" + secret, "the beginning": secret[:9], "the end": secret[5:], "in capitals": strings.ToUpper(secret),
		"letters": letters, "in hex": hex.EncodeToString([]byte(secret)), "base64": base64.RawURLEncoding.EncodeToString([]byte(secret)),
		"backwards": string(backwards), "among words": "access_" + letters + "_token", "behind a word": "token" + letters, "in camel case": "access" + strings.ToUpper(letters[:1]) + letters[1:],
	}
}

// TestAttack16WhatWasSentIsNotShown: nothing that was sent, and nothing that an
// endpoint makes of it, comes back in a code, a member's name or a media type.
func TestAttack16WhatWasSentIsNotShown(t *testing.T) {
	secrets := map[string]string{
		"secret": "qzsecret-4711-xyv", "refresh token": "qzrefresh.0815.xyv", "code": "qzcode-0042-xyvw", "key": "qztenant-77-xyvw",
		"header": "qzheader-1-xyvwq", "parameter": "qzparam-22-xyvwq", "its own token": "qztoken-993-xyvw",
	}
	for whose, secret := range secrets {
		for how, text := range disguised(secret) {
			for where, response := range map[string][2]string{
				"the code":               {"application/json", fmt.Sprintf(`{"error":%q}`, text)},
				"the code, nested":       {"application/json", fmt.Sprintf(`{"error":{"code":%q},"code":%q}`, text, text)},
				"a name":                 {"application/json", fmt.Sprintf(`{%q:{"access_token":"x"},"data":1}`, text)},
				"a name of a form":       {"application/x-www-form-urlencoded", text + "=1&error_description=x"},
				"many names":             {"application/json", fmt.Sprintf(`{"a%s":1,"b-%s":1,"%s.c":1,"%s":1}`, text, text, text, text)},
				"a media type":           {"application/" + text, `{}`},
				"a media type's first":   {text + "/json", `{}`},
				"a media type's suffix":  {"application/" + strings.ToLower(text) + "+json", `{}`},
				"a media type's charset": {"application/json; charset=" + text, `{}`},
			} {
				for _, status := range []int{200, 400, 503} {
					ep := wiretest.Endpoint(wiretest.Responding(status, response[0], response[1]))
					ep.URL = wiretest.Template(t, "https://{key.tenant}.idp.example/{key.tenant}/token")
					ep.Client = tokenendpoint.Client{ID: wiretest.Literal("id"), Secret: wiretest.Literal(secrets["secret"])}
					ep.Header = []tokenendpoint.HeaderField{{Name: "X-Api-Key", Value: wiretest.Literal(secrets["header"])}}
					_, err := ep.Call(t.Context(), "x", []tokenendpoint.Param{
						{Name: "code", Value: wiretest.Literal(secrets["code"]), Secret: true},
						wiretest.Param("more", secrets["parameter"]),
						{Name: "refresh_token", Value: wiretest.Literal(secrets["refresh token"]), Secret: true},
					}, func(name string) (string, bool) { return secrets["key"], name == "key.tenant" })
					var ee *tokenendpoint.Error
					if !errors.As(err, &ee) {
						t.Fatal(err)
					}
					if shown := strings.ToLower(shownIn(t, ee)); strings.Contains(shown, strings.ToLower(text)) || strings.Contains(shown, "qz") || strings.Contains(shown, "xyv") {
						t.Fatalf("the %s %s in %s, status %d: it prints:\n%s", whose, how, where, status, shown)
					}
				}
			}
		}
	}
}

// TestAttack16Shape: of a response's members those are named that say what it is,
// for whoever has set a wrong path.
func TestAttack16Shape(t *testing.T) {
	settings := tokenendpoint.ResponseOptions{AccessToken: []string{"wm_svc.token", `x\.y`}, ErrorWhen: []tokenendpoint.Matcher{{JSON: "rückgabe.0"}}}
	for body, want := range map[string]string{
		`{"accessToken":1,"expires_in":2,"token_type":3}`: "application/json with accessToken, expires_in, token_type",
		`{"result":{},"intCode":0,"info":""}`:             "application/json with info, intCode, result",
		`{"data":1,"alice":2}`:                            "application/json with data and 1 other member",
		`{"alice":1,"bob":2}`:                             "application/json with 2 other members",
		`{"wm_svc":1,"x.y":2,"x":3}`:                      "application/json with wm_svc, x.y and 1 other member",
		`{"rückgabe":[]}`:                                 "application/json with rückgabe",
		`{}`:                                              "application/json, no members",
		`[{"alice":1}]`:                                   "application/json, no members",
		`"alice"`:                                         "application/json, no members",
		`alice`:                                           "application/json, not JSON",
		`{"data":1,"data":2,"a\u0064":3}`:                 "application/json with data and 1 other member",
		`{"_links":1,"error-code":2,"errors":3,"JWTToken":4,"oauth2Token":5,"OAuth.id":6,"userID":7}`:                                                "application/json with JWTToken, OAuth.id, _links, error-code, errors, oauth2Token, userID",
		`{"":1,"_":2,"-":3,"1":4,"token22":5,"2token":6,"token_x":7,"to ken":8,"tokén":9}`:                                                           "application/json with 9 other members",
		`{"` + strings.Repeat("token_", 7) + `":1}`:                                                                                                  "application/json with 1 other member",
		`{"access":1,"account":1,"api":1,"app":1,"auth":1,"body":1,"client":1,"code":1,"data":1,"date":1,"email":1,"error":1,"errors":1,"expiry":1}`: "application/json with access, account, api, app, auth, body, client, code, data, date, email, error and 2 other members",
	} {
		ep := wiretest.Endpoint(wiretest.Responding(400, "application/json", body))
		ep.Response = settings
		ee := wiretest.MustFail(t, ep)
		if got := ee.Shape.String(); got != want {
			t.Errorf("%s: %s\nwant %s", body, got, want)
		}
	}
	for contentType, want := range map[string]string{
		"text/html; charset=utf-8": "text/html, not JSON", "TEXT/HTML": "text/html, not JSON", "": "no content type, not JSON", "text": "another content type, not JSON",
		"application/x-alice": "another content type, not JSON", "/": "no content type, not JSON", strings.Repeat("x", 300) + "/y": "no content type, not JSON",
	} {
		if got := wiretest.MustFail(t, wiretest.Endpoint(wiretest.Responding(502, contentType, "<p>"))).Shape.String(); got != want {
			t.Errorf("%s: %s, want %s", contentType, got, want)
		}
	}
}

// hosts are templates of a token endpoint's URL with a key's value in the host, and
// how that is shown.
var hosts = map[string]string{
	"https://{key.tenant}.idp.example/token":      "{key.tenant}.idp.example",
	"https://{key.tenant}.idp.example:8443/token": "{key.tenant}.idp.example:8443",
	"https://idp.{key.tenant}/token":              "idp.{key.tenant}",
	"https://{key.tenant}/token":                  "{key.tenant}",
	"https://a.{key.tenant}?b=c":                  "a.{key.tenant}",
	"{env.BASE}/{key.tenant}":                     "{env.BASE}",
	"https://{env.HOST}/token":                    "{env.HOST}",
}

// TestAttack16Hosts: a key's value in a host is shown by the key's name, whatever
// goes wrong there.
func TestAttack16Hosts(t *testing.T) {
	leaf := &x509.Certificate{DNSNames: []string{"canary.idp.example"}}
	leaf.Subject.CommonName = "canary"
	dial := func(err error) error {
		return &net.OpError{Op: "dial", Net: "tcp", Addr: &net.TCPAddr{IP: net.IPv4(192, 0, 2, 77), Port: 443}, Err: err}
	}
	untrusted := func(err error) error {
		return &tls.CertificateVerificationError{UnverifiedCertificates: []*x509.Certificate{leaf}, Err: err}
	}
	for name, c := range map[string]struct {
		err  error
		want string
		sent bool
	}{
		"no such host":      {dial(&net.DNSError{Err: "no such host", Name: "canary.idp.example", Server: "192.0.2.77:53", IsNotFound: true}), "lookup HOST: no such host", false},
		"no answer":         {dial(&net.DNSError{Err: "read udp 192.0.2.77:1->192.0.2.77:53: i/o timeout", Name: "canary", Server: "192.0.2.77", IsTimeout: true}), "lookup HOST: i/o timeout", false},
		"a broken resolver": {&net.DNSError{Err: "server misbehaving canary", Name: "canary", IsTemporary: true}, "lookup HOST: failed", false},
		"refused":           {dial(os.NewSyscallError("connect", syscall.ECONNREFUSED)), "dial tcp: connection refused", false},
		"unreachable":       {dial(syscall.EHOSTUNREACH), "dial tcp: no route to host", false},
		"a slow dial":       {dial(os.ErrDeadlineExceeded), "dial tcp: i/o timeout", false},
		"text alone":        {dial(errors.New("dial tcp 192.0.2.77:443: connect: connection refused")), "dial tcp: connection refused", false},
		"a name as text":    {dial(errors.New("dial tcp: lookup canary.idp.example: no such host")), "dial tcp: no such host", false},
		"another text":      {dial(errors.New("no way to canary.idp.example")), "dial tcp: failed", false},
		"reset":             {&net.OpError{Op: "read", Net: "tcp", Source: &net.TCPAddr{IP: net.IPv4(192, 0, 2, 77)}, Err: syscall.ECONNRESET}, "read tcp: connection reset by peer", true},
		"another name":      {untrusted(x509.HostnameError{Certificate: leaf, Host: "canary.idp.example"}), "tls: failed to verify certificate: x509: certificate is not valid for HOST", false},
		"unknown CA":        {untrusted(x509.UnknownAuthorityError{Cert: leaf}), "tls: failed to verify certificate: x509: certificate signed by unknown authority", false},
		"expired":           {untrusted(x509.CertificateInvalidError{Cert: leaf, Reason: x509.Expired, Detail: "times"}), "tls: failed to verify certificate: x509: certificate has expired or is not yet valid: times", false},
		"not for servers":   {untrusted(x509.CertificateInvalidError{Cert: leaf, Reason: x509.IncompatibleUsage, Detail: "canary"}), "tls: failed to verify certificate: x509: certificate specifies an incompatible key usage", false},
		"an alert":          {&net.OpError{Op: "remote error", Err: tls.AlertError(40)}, "TLS: tls: handshake failure", true},
		"canceled":          {context.Canceled, "context canceled", true},
		"anything else":     {errors.New("canary"), "not of the expected kind (*errors.errorString)", true},
	} {
		t.Run(name, func(t *testing.T) {
			for url, host := range hosts {
				ep := wiretest.Endpoint(wiretest.Failing(c.err))
				ep.URL = resolved(t, url)
				ee := callFor(t, ep)
				want := strings.ReplaceAll(c.want, "HOST", host)
				if ee.Host != host || ee.Sent != c.sent || !strings.Contains(ee.Error(), " call to "+host) || !strings.HasSuffix(ee.Error(), want) {
					t.Errorf("%s: %v, host %q, sent %v, want %q, %q, %v", url, ee, ee.Host, ee.Sent, want, host, c.sent)
				}
				if text := shownIn(t, ee); strings.Contains(text, "canary") || strings.Contains(text, "192.0.2") {
					t.Errorf("%s: it prints:\n%s", url, text)
				}
			}
			// where nothing was put into the host, it is told
			ep := wiretest.Endpoint(wiretest.Failing(c.err))
			if ee := callFor(t, ep); ee.Host != "idp.example" || !strings.Contains(ee.Error(), "idp.example/token") {
				t.Errorf("without a variable: %v", ee)
			}
		})
	}
	for url, host := range hosts { // a response says nothing of the host either
		ep := wiretest.Endpoint(wiretest.Responding(404, "text/html", "canary"))
		ep.URL = resolved(t, url)
		if ee := callFor(t, ep); ee.Host != host || strings.Contains(shownIn(t, ee), "canary") {
			t.Errorf("%s: %v", url, ee)
		}
	}
}

// resolved is a template in which settings have been resolved, as they are when a
// config is loaded.
func resolved(t *testing.T, text string) tokenendpoint.Template {
	t.Helper()
	parsed, err := wiretest.Template(t, text).Resolve(func(name string) (string, bool, error) {
		value, ok := map[string]string{"env.BASE": "https://canary.idp.example", "env.HOST": "canary.idp.example"}[name]
		return value, ok, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}

// callFor makes a call that must fail, for a key.
func callFor(t *testing.T, ep *tokenendpoint.Endpoint) *tokenendpoint.Error {
	t.Helper()
	_, err := ep.Call(t.Context(), "x", nil, func(name string) (string, bool) {
		return "canary", name == "key.tenant"
	})
	var ee *tokenendpoint.Error
	if !errors.As(err, &ee) {
		t.Fatal(err)
	}
	return ee
}

// TestAttack16RealHosts: real errors of net, net/http and crypto/tls, too.
func TestAttack16RealHosts(t *testing.T) {
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) }))
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // handshakes are to fail
	server.StartTLS()
	defer server.Close()
	_, port, err := net.SplitHostPort(server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	trusting := tokenendpoint.NewTransport()
	trusting.TLSClientConfig = &tls.Config{RootCAs: server.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs, MinVersion: tls.VersionTLS12}
	trusting.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, server.Listener.Addr().String())
	}
	for name, c := range map[string]struct {
		url, value string
		transport  http.RoundTripper
		want       string
	}{
		"an unknown CA":        {"https://{key.tenant}:" + port + "/token", "127.0.0.1", tokenendpoint.NewTransport(), "certificate signed by unknown authority"},
		"another name":         {"https://{key.tenant}.idp.test:" + port + "/token", "canary", trusting, "certificate is not valid for {key.tenant}.idp.test"},
		"nobody listens":       {"http://{key.tenant}:1/token", "127.0.0.1", tokenendpoint.NewTransport(), "dial tcp: connection refused"},
		"http to a TLS server": {"http://{key.tenant}:" + port + "/token", "127.0.0.1", tokenendpoint.NewTransport(), "status 400"},
	} {
		ep := &tokenendpoint.Endpoint{URL: wiretest.Template(t, c.url), Transport: c.transport}
		_, err := ep.Call(t.Context(), "x", nil, func(name string) (string, bool) { return c.value, name == "key.tenant" })
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), c.value+".") || strings.Contains(err.Error(), "127.0.0.1") {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}
