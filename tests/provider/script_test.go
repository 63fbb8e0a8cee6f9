package provider_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-bearer/caddy-bearer/tests/provider"
)

// post sends a Generic provider's token request over whatever the client has, and reads the answer.
func post(ctx context.Context, p *provider.Provider, client *http.Client, base string) (int, []byte, error) {
	c := good(p)
	r, err := http.NewRequestWithContext(ctx, "POST", base+c.url, strings.NewReader(c.form.Encode()))
	if err != nil {
		return 0, nil, err
	}
	r.Header = c.header
	resp, err := client.Do(r)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, body, err
}

func TestScriptedFaultsOverASocket(t *testing.T) {
	p := provider.New(provider.Generic)
	server := httptest.NewServer(p)
	defer server.Close()
	defer p.Close()
	send := func() (int, []byte, error) { return post(t.Context(), p, server.Client(), server.URL) }

	p.ScriptToken(provider.Reset())
	if _, _, err := send(); !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("reset: %v", err)
	}
	p.ScriptToken(provider.CutBody())
	if _, _, err := send(); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("cut body: %v", err)
	}
	p.ScriptToken(provider.GzipBomb(10 << 20))
	if _, body, err := send(); err != nil || len(body) < 10<<20 {
		t.Errorf("bomb: %d bytes, %v", len(body), err)
	}
	p.ScriptToken(provider.Malformed(), provider.HTML200(), provider.WrongContentType("text/html"))
	if status, body, err := send(); status != 200 || err != nil || json.Valid(body) {
		t.Errorf("malformed: status %d, %v", status, err)
	}
	if status, body, _ := send(); status != 200 || !strings.HasPrefix(string(body), "<!doctype") {
		t.Errorf("html: status %d", status)
	}
	if status, body, _ := send(); status != 200 || !json.Valid(body) {
		t.Errorf("wrong content type: status %d", status)
	}
	p.ScriptToken(provider.Always(provider.Status(503, http.Header{"Retry-After": {"7"}}, "")))
	for range 2 {
		if status, _, _ := send(); status != 503 {
			t.Errorf("always: status %d", status)
		}
	}
	p.ClearScripts()
	if status, _, _ := send(); status != 200 {
		t.Errorf("after the script: status %d", status)
	}
	if v := p.Violations(); len(v) != 0 {
		t.Errorf("violations: %v", v)
	}
}

func TestScriptedFaultsInMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := provider.New(provider.Generic)
		client := &http.Client{Transport: p}
		p.ScriptToken(provider.Hang(), provider.Drop(), provider.CutBody(), provider.SlowBody(10))

		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, _, err := post(ctx, p, client, "http://provider.test"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("hang: %v", err)
		}
		send := func() (int, []byte, error) { return post(t.Context(), p, client, "http://provider.test") }
		if _, _, err := send(); err == nil {
			t.Error("drop: an answer")
		}
		if _, _, err := send(); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("cut body: %v", err)
		}
		start := time.Now()
		_, body, err := send()
		if want := time.Duration(len(body)) * 100 * time.Millisecond; err != nil || time.Since(start) < want {
			t.Errorf("slow body: %d bytes in %v, %v", len(body), time.Since(start), err)
		}
	})
}

func TestDelayComesAfterTheGrant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := provider.New(provider.Generic)
		p.SetTokenDelay(3 * time.Second)
		go func() { _, _, _ = post(t.Context(), p, &http.Client{Transport: p}, "http://provider.test") }()
		synctest.Wait()
		if calls := p.TokenCalls(); len(calls) != 1 || calls[0].Serial != 1 || calls[0].Status != 0 {
			t.Errorf("while the answer is held back: %+v", calls)
		}
		advance(3 * time.Second)
		synctest.Wait()
		if calls := p.TokenCalls(); calls[0].Status != 200 {
			t.Errorf("afterwards: status %d", calls[0].Status)
		}
	})
}

func TestCommittedDoesTheGrant(t *testing.T) {
	p := provider.New(provider.Generic)
	p.SetRotate(true)
	_, first := passwordGrant(p).send(t, p)
	p.ScriptToken(provider.Committed(provider.Status(502, nil, `{}`)))
	if status, _ := refreshWith(p, first["refresh_token"]).send(t, p); status != 502 {
		t.Errorf("status %d", status)
	}
	if refreshWith(p, first["refresh_token"]).send(t, p); p.ReuseAlarms() != 1 {
		t.Error("the refresh token was not spent")
	}
}

func TestExpiresInMayBeAnything(t *testing.T) {
	for _, tt := range []struct {
		value any
		want  string
	}{
		{nil, `"expires_in":null`},
		{"1h", `"expires_in":"1h"`},
		{3600.5, `"expires_in":3600.5`},
		{[]any{1}, `"expires_in":[1]`},
		{provider.Raw("NaN"), `"expires_in":NaN`},
		{provider.Raw("1e18"), `"expires_in":1e18`},
		{provider.Absent, ``},
	} {
		p := provider.New(provider.Generic)
		p.SetExpiresIn(tt.value)
		_, body, err := post(t.Context(), p, &http.Client{Transport: p}, "http://provider.test")
		if err != nil || !strings.Contains(string(body), tt.want) ||
			tt.want == "" && strings.Contains(string(body), "expires_in") {
			t.Errorf("%v: %s, %v", tt.value, body, err)
		}
	}
}

func TestEarlyAnswerLeavesTheBody(t *testing.T) {
	p := provider.New(provider.Generic)
	token := tokenFor(t, p)
	p.ScriptAPI(provider.EarlyAnswer(401))
	body := &watched{Reader: strings.NewReader("unread")}
	r := httptest.NewRequestWithContext(t.Context(), "POST", "http://provider.test/things", body)
	r.Header.Set("Authorization", "Bearer "+token)
	resp, err := p.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 401 || body.read {
		t.Errorf("status %d, body read: %v", resp.StatusCode, body.read)
	}
}

// watched tells whether it was read.
type watched struct {
	io.Reader
	read bool
}

func (w *watched) Read(b []byte) (int, error) {
	w.read = true
	return w.Reader.Read(b)
}

func TestEchoShowsTheBodyButNoSecret(t *testing.T) {
	p := provider.New(provider.MonPay)
	c := goodAPI(p, tokenFor(t, p))
	c.method, c.json = "POST", strings.Repeat("x", 64<<10)
	c.header.Set("X-Leak", "a "+p.ClientSecret)
	_, fields := c.send(t, p)
	text, _ := json.Marshal(fields)
	result, _ := fields["result"].(map[string]any)
	if result["length"] != float64(64<<10) || result["holder"] != "42" || result["serial"] != 1.0 {
		t.Errorf("echo: %s", text)
	}
	if strings.Contains(string(text), p.Canary()) {
		t.Error("a secret came back")
	}
}
