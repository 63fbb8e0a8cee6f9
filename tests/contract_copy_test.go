package tests

import (
	"bufio"
	"bytes"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-bearer/caddy-bearer/tests/provider"
)

// TestContractFilesAreCopies compares the contract's files with their originals, which lie beside the project where
// the two are worked on together. Elsewhere there is nothing to compare with, and the copies are the contract.
func TestContractFilesAreCopies(t *testing.T) {
	shared := filepath.Join("..", "..", "shared")
	for _, folder := range []string{"contract", "contract-next"} {
		originals, err := filepath.Glob(filepath.Join(shared, folder, "*.caddyfile"))
		if err != nil {
			t.Fatal(err)
		}
		for _, original := range originals {
			name := filepath.Base(original)
			if slices.Contains(notYet, name) {
				continue
			}
			if !bytes.Equal(mustRead(t, original), mustRead(t, "contract", name)) {
				t.Errorf("contract/%s differs from the original", name)
			}
		}
	}
}

// notYet are files of the contract whose options are still to be built.
var notYet = []string{"github-app.caddyfile", "google-service-account.caddyfile", "private-key-jwt.caddyfile"}

// TestContractFilesAdapt adapts every file of the contract with no environment at all: each has its defaults.
func TestContractFilesAdapt(t *testing.T) {
	files, err := filepath.Glob(filepath.Join("contract", "*.caddyfile"))
	if err != nil || len(files) != 7 {
		t.Fatalf("%d files: %v", len(files), err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			adapt(t, file, mustRead(t, file))
		})
	}
}

// TestContractFilesLoad runs the four setups with nobody calling: nothing may go to a provider before an app asks.
func TestContractFilesLoad(t *testing.T) {
	each(t, all, func(t *testing.T, c contract) {
		s := start(t, c)
		if n := s.p.TokenCount(); n != 0 {
			t.Errorf("%d token calls", n)
		}
	})
}

// TestFullFileValidatesAndLoads runs the file that has every setting once. Only what belongs to the host is another: the
// port, and the secret's file, which has to be there.
func TestFullFileValidatesAndLoads(t *testing.T) {
	w := newPlace(t)
	p := provider.New(provider.Generic)
	secret := filepath.Join(w.dir, "client")
	if err := os.WriteFile(secret, []byte(p.ClientSecret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	config := w.contain(t, adapt(t, "full.caddyfile", mustRead(t, "contract", "full.caddyfile")))
	for old, now := range map[string]string{
		"{file./run/secrets/client}": "{file." + secret + "}",
		"127.0.0.1:9000":             "127.0.0.1:" + freePort(t),
	} {
		if !bytes.Contains(config, []byte(old)) {
			t.Fatalf("%s is not in the configuration", old)
		}
		config = bytes.ReplaceAll(config, []byte(old), []byte(now))
	}
	var parsed caddy.Config
	if err := json.Unmarshal(config, &parsed); err != nil {
		t.Fatal(err)
	}
	if err := caddy.Validate(&parsed); err != nil {
		t.Fatalf("validating: %v", err)
	}
	w.load(t, config)
	w.searchCanaries(t, p, nil)
}

// TestWayOutFileRuns: the contract's file for the directive bearer, with an API and a token endpoint of the test's own.
func TestWayOutFileRuns(t *testing.T) {
	w := newPlace(t)
	p := provider.New(provider.Generic)
	var last http.Request
	api := recording(t, &last)
	port := freePort(t)
	setenv(t, map[string]string{
		"ACME_TOKEN_URL": serve(t, p, provider.Whole) + "/token", "ACME_URL": api, "ACME_PORT": port,
		"ACME_CLIENT_ID": p.ClientID, "ACME_CLIENT_SECRET": p.ClientSecret,
	})
	w.load(t, w.contain(t, adapt(t, "way-out.caddyfile", mustRead(t, "contract", "way-out.caddyfile"))))
	if status, body := w.look("http://127.0.0.1:" + port + "/things"); status != http.StatusOK {
		t.Fatalf("status %d: %s", status, body)
	}
	if last.RequestURI != "/v2/things" || last.Host != hostOf(t, api) || !strings.HasPrefix(last.Header.Get("Authorization"), "Bearer ") {
		t.Errorf("the API got %s with the Host %s", last.RequestURI, last.Host)
	}
	w.searchCanaries(t, p, nil)
}

// TestInterceptFileRuns: the contract's file for interception, for an API on this host.
func TestInterceptFileRuns(t *testing.T) {
	w := newPlace(t)
	p := provider.New(provider.Generic)
	port := freePort(t)
	setenv(t, map[string]string{
		"ACME_TOKEN_URL": serve(t, p, provider.Whole) + "/token", "ACME_HOST": "localhost", "ACME_PORT": port,
		"ACME_CLIENT_ID": p.ClientID, "ACME_CLIENT_SECRET": p.ClientSecret,
	})
	w.load(t, w.contain(t, adapt(t, "intercept.caddyfile", mustRead(t, "contract", "intercept.caddyfile"))))
	for target, want := range map[string]int{"localhost:443": http.StatusOK, "api.acme.example:443": http.StatusForbidden} {
		conn := dial(t, "127.0.0.1:"+port)
		write(t, conn, "CONNECT "+target+" HTTP/1.1\r\nHost: "+target+"\r\n\r\n")
		res, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: http.MethodConnect})
		if err != nil || res.StatusCode != want {
			t.Errorf("%s: %v, %v; want %d", target, res, err, want)
		}
	}
}
