//go:build redis

package tests

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/caddy-bearer/caddy-bearer/tests/provider"
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

// TestFault58RedisTLSFilesReplaced: Redis is given a certificate of another authority. What it takes now is put into the
// files, and is used without a reload.
func TestFault58RedisTLSFilesReplaced(t *testing.T) {
	before, after := newAuthority(t), newAuthority(t)
	files, servers := &projected{dir: t.TempDir()}, &projected{dir: t.TempDir()}
	files.put(t, func(dir string) { before.write(t, dir) })
	servers.put(t, func(dir string) { before.write(t, dir) })
	port := redistest.FreePort(t)
	server := redistest.Start(t, "--tls-port", port, "--tls-cert-file", servers.file("tls.crt"),
		"--tls-key-file", servers.file("tls.key"), "--tls-ca-cert-file", servers.file("ca.pem"))
	s := newSidecarOf(t, provider.New(provider.Generic), setup{})
	s.config = []byte(strings.Replace(string(s.config), `"apps":{`, fmt.Sprintf(`"apps":{"token_storage":{"store":{
		"module": "redis", "addresses": ["127.0.0.1:%s"], "timeout": "1s", "tls": {
			"ca": {"provider": "file", "pem_files": [%q]}, "client_certificate_file": %q, "client_certificate_key_file": %q
		}
	}},`, port, files.file("ca.pem"), files.file("tls.crt"), files.file("tls.key")), 1))
	s.start(t)
	s.get(t).wantOK(t)
	if got := server.Do(t, "DBSIZE"); got != ":1" {
		t.Fatalf("the number of records is %s", got)
	}

	servers.put(t, func(dir string) { after.write(t, dir) })
	server.Do(t, "CONFIG SET tls-ca-cert-file "+servers.file("ca.pem")+" tls-cert-file "+servers.file("tls.crt")+" tls-key-file "+servers.file("tls.key"))
	server.Do(t, "CLIENT KILL TYPE normal SKIPME yes")
	server.Do(t, "FLUSHALL")
	s.p.RevokeEverything()
	_ = s.get(t) // the token is another, and cannot be stored
	s.wantLogged(t, "certificate signed by unknown authority")
	files.put(t, func(dir string) { after.write(t, dir) })
	eventually(t, "the token is stored", func() bool { return server.Do(t, "DBSIZE") != ":0" })
	s.get(t).wantOK(t)
}
