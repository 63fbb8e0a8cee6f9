//go:build redis

package tests

import (
	"encoding/json"
	"net/http"
	"testing"

	"github.com/caddy-bearer/caddy-bearer/tests/redistest"
)

// TestTokensInRedis: a token that one process obtained serves another, and is
// nowhere but in Redis. While it is valid Redis may be away.
func TestTokensInRedis(t *testing.T) {
	server := redistest.Start(t)
	s := newStack(t, mbanq)
	var config map[string]any
	if err := json.Unmarshal(s.config, &config); err != nil {
		t.Fatal(err)
	}
	config["apps"].(map[string]any)["token_storage"] = map[string]any{
		"store": map[string]any{"module": "redis", "addresses": []string{server.Addr}},
	}
	var err error
	if s.config, err = json.Marshal(config); err != nil {
		t.Fatal(err)
	}

	first := startProcess(t, s.config, s.vars, s.address)
	if got := s.get(t); got.status != http.StatusOK {
		t.Fatalf("status %d: %s", got.status, got.body)
	}
	s.printed += first.kill(t)
	if got := server.Do(t, "DBSIZE"); got != ":1" {
		t.Errorf("the number of records is %s", got)
	}

	second := startProcess(t, s.config, s.vars, s.address)
	defer func() { s.printed += second.kill(t) }()
	if got := s.get(t); got.status != http.StatusOK {
		t.Fatalf("status %d: %s", got.status, got.body)
	}
	if n := s.p.TokenCount(); n != 1 {
		t.Errorf("%d token calls: want 1", n)
	}
	server.Kill()
	if got := s.get(t); got.status != http.StatusOK {
		t.Errorf("without Redis: status %d: %s", got.status, got.body)
	}
}
