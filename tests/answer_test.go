package tests

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/caddy-bearer/caddy-bearer/tests/provider"
)

// answer is what an app gets.
type answer struct {
	status int
	header http.Header
	body   string
}

// app calls the sidecar and keeps what the sidecar itself said, for a canary search.
type app struct {
	base     string
	client   *http.Client
	problems strings.Builder
}

func newApp(t *testing.T, base string) *app {
	t.Helper()
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	return &app{base: base, client: &http.Client{Transport: transport, Timeout: hang}}
}

// call makes one request.
func (a *app) call(t *testing.T, method, target string, header http.Header, body string) answer {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, a.base+target, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if header != nil {
		req.Header = header.Clone()
	}
	resp, err := a.client.Do(req)
	if err != nil {
		t.Fatalf("%s %s: %v", method, target, err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%s %s: reading the answer: %v", method, target, err)
	}
	got := answer{status: resp.StatusCode, header: resp.Header, body: string(text)}
	if got.problem() != "" {
		head, _ := json.Marshal(got.header)
		a.problems.WriteString(string(head) + " " + got.body + "\n")
	}
	return got
}

// problem is the name of a problem answer, "" for any other.
func (got answer) problem() string {
	if got.header.Get("Content-Type") != "application/problem+json" {
		return ""
	}
	var p struct {
		Type string `json:"type"`
	}
	if json.Unmarshal([]byte(got.body), &p) != nil || p.Type == "" {
		return "malformed"
	}
	return p.Type[strings.LastIndexAny(p.Type, "/#")+1:]
}

// wantOK fails the test unless the API answered, and gives what it said.
func (got answer) wantOK(t *testing.T) provider.Echo {
	t.Helper()
	if got.status != http.StatusOK {
		t.Fatalf("status %d: %s (Proxy-Status: %s)", got.status, got.body, got.header.Get("Proxy-Status"))
	}
	e, err := provider.ReadEcho([]byte(got.body))
	if err != nil {
		t.Fatalf("%v: %s", err, got.body)
	}
	return e
}

// wantProblem fails the test unless the sidecar answered with this problem, in the form that all of them have.
func (got answer) wantProblem(t *testing.T, status int, name string) {
	t.Helper()
	if got.status != status || got.problem() != name {
		t.Fatalf("status %d, problem %q; want %d, %q: %s", got.status, got.problem(), status, name, got.body)
	}
	if got.header.Get("Proxy-Status") == "" {
		t.Errorf("%s: no Proxy-Status", name)
	}
	if got.header.Get("Cache-Control") != "no-store" {
		t.Errorf("%s: Cache-Control is %q", name, got.header.Get("Cache-Control"))
	}
	if status == http.StatusServiceUnavailable && got.header.Get("Retry-After") == "" {
		t.Errorf("%s: no Retry-After", name)
	}
}

// sum is the SHA-256 of a body, as the provider tells it.
func sum(body string) string {
	s := sha256.Sum256([]byte(body))
	return hex.EncodeToString(s[:])
}

// readEcho reads an answer of the API.
func readEcho(resp *http.Response) (provider.Echo, error) {
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return provider.Echo{}, err
	}
	return provider.ReadEcho(text)
}
