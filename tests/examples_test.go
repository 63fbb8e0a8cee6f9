package tests

import (
	"encoding/base64"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddy-bearer/caddy-bearer/tests/provider"
)

// exampleVariables stand in for what the examples take from the environment.
func exampleVariables() map[string]string {
	return map[string]string{
		"ACME_CLIENT_ID": "id", "ACME_CLIENT_SECRET": "secret", "ACME_REFRESH_TOKEN": "first",
		"STORAGE_KEY": base64.StdEncoding.EncodeToString(make([]byte, 32)), "REDIS_PASSWORD": "password",
	}
}

// TestExamples loads every example as it stands, but for its ports.
func TestExamples(t *testing.T) {
	files, err := filepath.Glob(filepath.Join("..", "examples", "*.caddyfile"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no examples: %v", err)
	}
	setenv(t, exampleVariables())
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			loadExample(t, file)
		})
	}
}

// loadExample gives the new addresses of its sites, by their ports.
func loadExample(t *testing.T, file string) map[string]string {
	t.Helper()
	w := newPlace(t)
	text, addresses := string(mustRead(t, file)), map[string]string{}
	for _, port := range []string{"9000", "9001"} {
		free := freePort(t)
		addresses[port] = "127.0.0.1:" + free
		text = strings.ReplaceAll(text, "http://:"+port+" ", "http://:"+free+" ")
	}
	w.load(t, w.contain(t, adapt(t, file, []byte(text))))
	return addresses
}

// TestFleetExample does what its comments say: with no Redis to be had the one refresh token is not sent, and the probe
// says why nothing is served.
func TestFleetExample(t *testing.T) {
	p := provider.New(provider.Generic)
	vars := exampleVariables()
	vars["ACME_URL"] = serve(t, p, provider.Whole)
	vars["ACME_API"] = vars["ACME_URL"]
	vars["REDIS_ADDRESS"] = "127.0.0.1:" + freePort(t)
	setenv(t, vars)
	sites := loadExample(t, filepath.Join("..", "examples", "fleet.caddyfile"))
	if status, body := get("http://" + sites["9000"] + "/"); status != http.StatusServiceUnavailable || !strings.Contains(body, "token-unavailable") {
		t.Errorf("got %d %s", status, body)
	}
	eventually(t, "it is not ready, and says why", func() bool {
		status, body := get("http://" + sites["9001"] + "/")
		return status == http.StatusServiceUnavailable && strings.Contains(body, "store_down")
	})
	if n := p.TokenCount(); n != 0 {
		t.Errorf("%d token calls without a store", n)
	}
}

// TestOperationsPage: what the page for operators names is there, and what is there it names.
func TestOperationsPage(t *testing.T) {
	page := string(mustRead(t, "..", "docs", "operations.md"))
	for _, name := range []string{
		"caddy_token_source_usable", "caddy_token_source_tokens", "caddy_token_source_expiry_timestamp_seconds",
		"caddy_token_source_last_success_timestamp_seconds", "caddy_token_source_renewals_total", "caddy_token_source_renewal_duration_seconds",
		"caddy_token_source_failures_total", "caddy_token_source_expiry_unreadable_total", "caddy_token_source_needs_person",
		"caddy_token_source_unstored_tokens", "caddy_token_source_store_up", "caddy_bearer_requests_total", "caddy_bearer_replays_total",
		"caddy_bearer_breaker_state", "token_source.lost", "token_source.store_down", "token_source.store_up",
	} {
		if !strings.Contains(page, name) {
			t.Errorf("docs/operations.md does not name %s", name)
		}
	}
	for _, reason := range []string{"store_down", "unstored", "endpoint_down", "client_refused", "consent_lost", "user_refused", "api_refuses"} {
		if !strings.Contains(page, "`"+reason+"`") {
			t.Errorf("docs/operations.md does not explain %s", reason)
		}
	}
	// its log lines are quoted from the code
	var code strings.Builder
	for _, dir := range []string{"tokensource", "bearer", "caddymodule"} {
		files, err := filepath.Glob(filepath.Join("..", dir, "*.go"))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			code.Write(text)
		}
	}
	_, lines, ok := strings.Cut(page, "## Log lines")
	if !ok {
		t.Fatal("no log lines")
	}
	lines, _, _ = strings.Cut(lines, "\n## ")
	n := 0
	for line := range strings.Lines(lines) {
		cell, ok := strings.CutPrefix(line, "| `")
		if !ok {
			continue
		}
		n++
		message, _, _ := strings.Cut(cell, "`")
		if !strings.Contains(code.String(), `"`+message) {
			t.Errorf("no log line begins with %q", message)
		}
	}
	if n == 0 {
		t.Error("no log lines in the table")
	}
}
