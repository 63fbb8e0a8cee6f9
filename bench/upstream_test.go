package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func listening(t *testing.T, lanes int, conf *tls.Config) (*upstream, announcement) {
	t.Helper()
	u, err := newUpstream()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(u.Close)
	where, err := u.listen(lanes, conf)
	if err != nil {
		t.Fatal(err)
	}
	return u, where
}

// testUpstream is an upstream in this process, with its control port.
func testUpstream(t *testing.T, set settings) *provider {
	t.Helper()
	_, where := listening(t, 2, nil)
	p := &provider{announcement: where}
	if err := p.apply(t.Context(), set); err != nil {
		t.Fatal(err)
	}
	return p
}

func fetchToken(t *testing.T, p *provider) (token string, expiresIn int, status int) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, p.TokenURL, strings.NewReader("grant_type=client_credentials"))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.SetBasicAuth(p.ClientID, p.ClientSecret)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", 0, 0
	}
	defer resp.Body.Close()
	var answer struct {
		AccessToken string `json:"access_token"`
		ExpiresIn   int    `json:"expires_in"`
	}
	if resp.StatusCode == http.StatusOK {
		if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
			t.Fatal(err)
		}
	}
	return answer.AccessToken, answer.ExpiresIn, resp.StatusCode
}

func callAPI(t *testing.T, addr, token string) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+addr+"/payments/1", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	return resp.StatusCode
}

func TestUpstreamRevokes(t *testing.T) {
	p := testUpstream(t, settings{Lifetime: time.Hour})
	token, expiresIn, status := fetchToken(t, p)
	if status != http.StatusOK || expiresIn != 3600 {
		t.Fatalf("token endpoint: %d, expires in %d s", status, expiresIn)
	}
	if got := callAPI(t, p.Lanes[1], token); got != http.StatusOK {
		t.Errorf("live token: %d", got)
	}
	if err := p.revoke(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := callAPI(t, p.Lanes[1], token); got != http.StatusUnauthorized {
		t.Errorf("revoked token: %d", got)
	}
	if got := callAPI(t, p.Lanes[0], p.StaticToken); got != http.StatusOK {
		t.Errorf("static token: %d", got)
	}
	s, err := p.stats(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if s.TokenCalls != 1 || s.TokenIssued != 1 || s.APICalls != 3 || s.APIRefused != 1 || s.LastIssued.IsZero() {
		t.Errorf("stats: %+v", s)
	}
	if len(s.Lanes) != 2 || s.Lanes[0].Conns != 1 || s.Lanes[1].Conns == 0 {
		t.Errorf("connections by lane: %+v", s.Lanes)
	}
}

func TestUpstreamTokensExpire(t *testing.T) {
	p := testUpstream(t, settings{Lifetime: time.Nanosecond})
	token, _, _ := fetchToken(t, p)
	if got := callAPI(t, p.Lanes[0], token); got != http.StatusUnauthorized {
		t.Errorf("expired token: %d", got)
	}
}

func TestUpstreamOutage(t *testing.T) {
	p := testUpstream(t, settings{Lifetime: time.Hour})
	for _, step := range []struct {
		outage string
		status int // 0 when there is no answer
	}{{"", 200}, {outage503, 503}, {outageRefuse, 0}, {outageRefuse, 0}, {"", 200}} {
		if err := p.apply(t.Context(), settings{Lifetime: time.Hour, Outage: step.outage}); err != nil {
			t.Fatal(err)
		}
		if _, _, got := fetchToken(t, p); got != step.status {
			t.Errorf("outage %q: %d, want %d", step.outage, got, step.status)
		}
	}
	if got := callAPI(t, p.Lanes[0], p.StaticToken); got != http.StatusOK {
		t.Errorf("the API after an outage of the token endpoint: %d", got)
	}
}

func TestTLSUpstreamCountsHandshakes(t *testing.T) {
	cert, err := selfSigned(filepath.Join(t.TempDir(), "ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	u, where := listening(t, 1, serverTLS(cert, false))
	tr := &http.Transport{TLSClientConfig: trusting(t, cert), DisableKeepAlives: true}
	for range 3 {
		resp, err := (&http.Client{Transport: tr}).Get("https://" + where.Lanes[0])
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
	}
	if got := u.stats().Lanes; !slices.Equal(got, []lane{{Conns: 3, Handshakes: 3}}) {
		t.Errorf("lanes: %+v", got)
	}
}

func trusting(t *testing.T, cert tls.Certificate) *tls.Config {
	t.Helper()
	parsed, err := x509.ParseCertificate(cert.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(parsed)
	return &tls.Config{RootCAs: pool}
}

// The provider refuses a client that it does not know: the credentials must
// get from its announcement to the proxies.
func TestPeerGetsAToken(t *testing.T) {
	p := testUpstream(t, settings{Lifetime: time.Hour})
	addr, err := freeAddr()
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- servePeer(ctx, peerArgs(addr, p, 0)) }()
	c := &contender{name: peer, addr: addr, process: new(process)}
	err = c.answers(ctx)
	stop()
	if ended := <-done; !errors.Is(ended, http.ErrServerClosed) {
		t.Error(ended)
	}
	if err != nil {
		t.Error(err)
	}
}

func TestCaddyfileHasTheCredentials(t *testing.T) {
	p := &provider{announcement: announcement{
		TokenURL: "http://the-endpoint", ClientID: "the-id", ClientSecret: "the-secret", StaticToken: "the-token",
		Lanes: []string{"127.0.0.1:1"},
	}}
	for kind, wants := range map[string][]string{
		bearer: {"token_url http://the-endpoint\n", "client_id the-id\n", "client_secret the-secret\n"},
		plain:  {`header_up Authorization "Bearer the-token"`},
	} {
		text := caddyfile(kind, "127.0.0.1:2", "off", p, 0)
		for _, want := range wants {
			if !strings.Contains(text, want) {
				t.Errorf("%s: no %q in\n%s", kind, want, text)
			}
		}
	}
}
