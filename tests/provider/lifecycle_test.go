package provider_test

import (
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-bearer/caddy-bearer/tests/provider"
)

// refreshWith makes a refresh request of a kind that has one.
func refreshWith(p *provider.Provider, token any) call {
	c := good(p)
	text, _ := token.(string)
	c.form = values("client_id", p.ClientID, "client_secret", p.ClientSecret,
		"grant_type", "refresh_token", "refresh_token", text)
	return c
}

func passwordGrant(p *provider.Provider) call {
	c := good(p)
	c.form = values("client_id", p.ClientID, "client_secret", p.ClientSecret,
		"grant_type", "password", "username", p.Username, "password", p.Password)
	return c
}

func TestTokensExpire(t *testing.T) {
	for _, kind := range kinds {
		t.Run(kind.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := provider.New(kind)
				p.SetLifetime(10 * time.Second)
				token := tokenFor(t, p)
				advance(9 * time.Second)
				if status, _ := goodAPI(p, token).send(t, p); status != http.StatusOK {
					t.Errorf("after 9 s: status %d", status)
				}
				advance(time.Second)
				if status, _ := goodAPI(p, token).send(t, p); status != http.StatusUnauthorized {
					t.Errorf("after 10 s: status %d", status)
				}
			})
		})
	}
}

func TestRotationDetectsReuse(t *testing.T) {
	for _, kind := range []provider.Kind{provider.Generic, provider.Mbanq} {
		t.Run(kind.String(), func(t *testing.T) {
			p := provider.New(kind)
			p.SetRotate(true)
			_, first := passwordGrant(p).send(t, p)
			status, second := refreshWith(p, first["refresh_token"]).send(t, p)
			if status != http.StatusOK || second["refresh_token"] == first["refresh_token"] {
				t.Fatalf("status %d, rotated %v", status, second["refresh_token"] != first["refresh_token"])
			}
			token, _ := second["access_token"].(string)
			if status, _ := refreshWith(p, first["refresh_token"]).send(t, p); status == http.StatusOK {
				t.Error("the spent refresh token was taken")
			}
			if p.ReuseAlarms() != 1 || len(p.Violations()) != 1 {
				t.Errorf("%d alarms, %v", p.ReuseAlarms(), p.Violations())
			}
			if status, _ := refreshWith(p, second["refresh_token"]).send(t, p); status == http.StatusOK {
				t.Error("the family's newest refresh token lives on")
			}
			if status, _ := goodAPI(p, token).send(t, p); status != http.StatusUnauthorized {
				t.Errorf("the family's access token lives on: status %d", status)
			}
		})
	}
}

func TestNoRotationKeepsTheRefreshToken(t *testing.T) {
	p := provider.New(provider.Generic)
	_, first := passwordGrant(p).send(t, p)
	for range 2 {
		status, fields := refreshWith(p, first["refresh_token"]).send(t, p)
		if status != http.StatusOK || fields["refresh_token"] != nil {
			t.Errorf("status %d, refresh token given: %v", status, fields["refresh_token"] != nil)
		}
	}
	if v := p.Violations(); len(v) != 0 {
		t.Errorf("violations: %v", v)
	}
}

func TestAuthorizationCodeWithPKCE(t *testing.T) {
	p := provider.New(provider.Generic)
	sum := sha256.Sum256([]byte("verifier"))
	code := func() string {
		query := values("response_type", "code", "client_id", p.ClientID, "redirect_uri", p.RedirectURI,
			"state", "s", "code_challenge_method", "S256",
			"code_challenge", base64.RawURLEncoding.EncodeToString(sum[:]))
		r := httptest.NewRequestWithContext(t.Context(), "GET", "/authorize?"+query.Encode(), nil)
		w := httptest.NewRecorder()
		p.ServeHTTP(w, r)
		to, err := url.Parse(w.Header().Get("Location"))
		if err != nil || w.Code != http.StatusFound || to.Query().Get("state") != "s" {
			t.Fatalf("status %d, to %v: %v", w.Code, to, p.Violations())
		}
		return to.Query().Get("code")
	}
	exchange := func(verifier string) int {
		c := good(p)
		c.form = values("client_id", p.ClientID, "client_secret", p.ClientSecret, "code", code(),
			"redirect_uri", p.RedirectURI, "grant_type", "authorization_code", "code_verifier", verifier)
		status, _ := c.send(t, p)
		return status
	}
	if status := exchange("verifier"); status != http.StatusOK {
		t.Errorf("status %d: %v", status, p.Violations())
	}
	if status := exchange("another"); status != http.StatusBadRequest || len(p.TakeViolations()) != 1 {
		t.Errorf("wrong verifier: status %d", status)
	}
	w := httptest.NewRecorder()
	p.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "GET", "/authorize?response_type=code", nil))
	if w.Code != http.StatusBadRequest || len(p.Violations()) == 0 {
		t.Errorf("malformed authorization request: status %d", w.Code)
	}
}

func TestReissueGivesTheSameToken(t *testing.T) {
	p := provider.New(provider.Mbanq)
	first := tokenFor(t, p)
	p.SetReissue(true)
	if tokenFor(t, p) != first {
		t.Error("another token")
	}
}

func TestSecretsHoldTheCanary(t *testing.T) {
	p := provider.New(provider.Mbanq)
	token := tokenFor(t, p)
	code := p.NewCode("42")
	found := map[string]bool{}
	for _, s := range p.Secrets() {
		found[s] = true
	}
	for _, s := range []string{token, code, p.ClientSecret, p.Password, p.APIKey} {
		if !found[s] {
			t.Error("a secret is not in the list")
		}
	}
}

// advance lets the time of a synctest bubble pass.
func advance(d time.Duration) { <-time.After(d) }

// TestManyAtOnce is for the race detector, and for the one rule that is hardest to keep: one refresh token, one winner.
func TestManyAtOnce(t *testing.T) {
	p := provider.New(provider.Generic)
	p.SetRotate(true)
	_, first := passwordGrant(p).send(t, p)
	token, _ := first["access_token"].(string)
	var winners atomic.Int32
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() {
			if status, _ := refreshWith(p, first["refresh_token"]).send(t, p); status == http.StatusOK {
				winners.Add(1)
			}
			goodAPI(p, token).send(t, p)
			p.SetLifetime(time.Hour)
			_, _, _ = p.APICalls(), p.Violations(), p.Secrets()
		})
	}
	all.Wait()
	if winners.Load() != 1 || p.ReuseAlarms() != 49 || p.APICount() != 50 || p.TokenCount() != 51 {
		t.Errorf("%d winners, %d alarms, %d API calls, %d token calls",
			winners.Load(), p.ReuseAlarms(), p.APICount(), p.TokenCount())
	}
}
