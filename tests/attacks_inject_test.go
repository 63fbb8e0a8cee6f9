package tests

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
)

// TestAttack1OtherPlaces: where the token does not go into Authorization, the app's own must not go there either; and what
// the app writes into the place of the token is replaced, in every spelling.
func TestAttack1OtherPlaces(t *testing.T) {
	var last atomic.Pointer[http.Request]
	api := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { last.Store(r) }))
	t.Cleanup(api.Close)
	s := launch(t, setup{
		upstream: api.URL,
		transport: `header X-Api-Token "{token}"
			query access_token {token}
			cookie session {token}`,
	})
	c := s.raw(t)
	c.send(t, "GET /things?a=1&access_token=mine&acc%%65ss_token=mine&b=%%20 HTTP/1.1\r\nHost: %s\r\n%s\r\n\r\n", s.address, strings.Join([]string{
		"Authorization: Bearer mine", "authorization_: Bearer mine", "AUTHORIZATION: Bearer mine", "Proxy-Authorization: Basic bWluZQ==",
		"X-Api-Token: mine", "x_api_token: mine", "X_API-Token: mine", "X-Api_Token_: mine",
		"Connection: X-Api-Token, Cookie", "Cookie: session=mine; theme=dark", "Cookie: session=mine",
	}, "\r\n"))
	if got := c.answer(t); got.status != http.StatusOK {
		t.Fatalf("status %d: %s", got.status, got.body)
	}
	r := last.Load()
	for name, values := range r.Header {
		if text := strings.Join(values, " "); strings.Contains(text, "mine") || strings.Contains(strings.ToLower(name), "authorization") {
			t.Errorf("%s arrived: %s", name, text)
		}
	}
	if n := len(r.Header["X-Api-Token"]); n != 1 || !strings.Contains(r.Header.Get("X-Api-Token"), s.p.Canary()) {
		t.Errorf("%d tokens in the header", n)
	}
	if strings.Contains(r.URL.RawQuery, "mine") || len(r.URL.Query()["access_token"]) != 1 || !strings.HasPrefix(r.URL.RawQuery, "a=1&b=%20&") {
		t.Error("the query is not the app's with the token")
	}
	if sessions := r.CookiesNamed("session"); len(sessions) != 1 || !strings.Contains(sessions[0].Value, s.p.Canary()) {
		t.Errorf("%d session cookies", len(sessions))
	}
}

// TestAttack1Trailers: servers were seen to merge trailers into headers, whether they were announced or not.
func TestAttack1Trailers(t *testing.T) {
	var last atomic.Pointer[http.Header]
	api := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		announced := r.Trailer.Clone()
		_, _ = io.Copy(io.Discard, r.Body)
		for name, values := range r.Trailer {
			announced[name] = append(announced[name], values...)
		}
		last.Store(&announced)
	}))
	t.Cleanup(api.Close)
	s := launch(t, setup{upstream: api.URL})
	for _, announced := range []string{"X-Mine", "X-Mine, Authorization", "X-Mine, Authorization_, Proxy-Authorization"} {
		c := s.raw(t)
		c.send(t, "POST / HTTP/1.1\r\nHost: %s\r\nTransfer-Encoding: chunked\r\nTrailer: %s\r\n\r\n2\r\nhi\r\n0\r\n"+
			"Authorization: Bearer mine\r\nAuthorization_: Bearer mine\r\nProxy-Authorization: mine\r\nX-Mine: 1\r\n\r\n", s.address, announced)
		if got := c.answer(t); got.status != http.StatusOK {
			t.Fatalf("status %d: %s", got.status, got.body)
		}
		if got := *last.Load(); len(got) != 1 || got.Get("X-Mine") != "1" {
			t.Errorf("announced %s: the trailers %v arrived", announced, got)
		}
	}
}
