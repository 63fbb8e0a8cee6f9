//go:build redis

package caddymodule_test

import (
	"strings"
	"testing"
	"time"

	"github.com/caddy-bearer/caddy-bearer/tests/redistest"
)

const inRedis = "{\n\ttoken_sources {\n\t\tstore redis {\n\t\t\taddress ADDRESS\n\t\t}\n\t}\n" +
	"\ttoken_source api {\n\t\tgrant client_credentials {\n\t\t\ttoken_url http://127.0.0.1:1/token\n\t\t}\n\t}\n}\n"

// TestRedisIsNotDialed: a config loads while its Redis is away.
func TestRedisIsNotDialed(t *testing.T) {
	server := redistest.Start(t)
	for name, prepare := range map[string]func(){"paused": server.Pause, "down": server.Kill} {
		prepare()
		started := time.Now()
		config := contained(t, mustAdapt(t, strings.Replace(inRedis, "ADDRESS", server.Addr, 1)))
		if _, err := provision(t, config); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if took := time.Since(started); took > time.Second {
			t.Errorf("%s: took %v", name, took)
		}
	}
}
