package tests

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-bearer/caddy-bearer/tests/provider"
)

// TestContractFilesAreCopies compares the contract's files with their originals, which lie beside the project where
// the two are worked on together. Elsewhere there is nothing to compare with, and the copies are the contract.
func TestContractFilesAreCopies(t *testing.T) {
	originals := filepath.Join("..", "..", "shared", "contract")
	entries, err := os.ReadDir(originals)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !bytes.Equal(mustRead(t, originals, e.Name()), mustRead(t, "contract", e.Name())) {
			t.Errorf("contract/%s differs from the original", e.Name())
		}
	}
}

// TestContractFilesAdapt adapts every file of the contract with no environment at all: each has its defaults.
func TestContractFilesAdapt(t *testing.T) {
	files, err := filepath.Glob(filepath.Join("contract", "*.caddyfile"))
	if err != nil || len(files) != 5 {
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
