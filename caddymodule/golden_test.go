package caddymodule_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/caddy-bearer/caddy-bearer/caddymodule"
)

var update = flag.Bool("update", false, "write what comes out into testdata; then read it: is it what the Caddyfile means?")

// golden is a file of two parts: a Caddyfile, and what its adaptation gives.
type golden struct{ path, caddyfile, want string }

const goldenDivider = "----------\n"

func goldens(t *testing.T, dir string) []golden {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join("testdata", dir, "*.caddyfiletest"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("no golden files in %s: %v", dir, err)
	}
	var all []golden
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		file, want, ok := strings.Cut(string(text), goldenDivider)
		if !ok {
			t.Fatalf("%s has no line %q", path, strings.TrimSpace(goldenDivider))
		}
		all = append(all, golden{path, file, strings.TrimSpace(want)})
	}
	return all
}

func (g golden) name() string { return strings.TrimSuffix(filepath.Base(g.path), ".caddyfiletest") }

func (g golden) update(t *testing.T, got string) {
	t.Helper()
	if err := os.WriteFile(g.path, []byte(g.caddyfile+goldenDivider+got+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
}

// adapt is what caddy adapt does.
func adapt(text string) ([]byte, error) {
	config, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(text), map[string]any{"filename": "Caddyfile"})
	return config, err
}

func TestAdapt(t *testing.T) {
	for _, g := range goldens(t, "adapt") {
		t.Run(g.name(), func(t *testing.T) {
			config, err := adapt(g.caddyfile)
			if err != nil {
				t.Fatal(err)
			}
			var got bytes.Buffer
			if err := json.Indent(&got, config, "", "\t"); err != nil {
				t.Fatal(err)
			}
			if *update {
				g.update(t, got.String())
				return
			}
			if got.String() != g.want {
				t.Errorf("got\n%s\nwant\n%s", got.String(), g.want)
			}
		})
	}
}

// TestReject holds the words of every rejection: file and line, the word in
// question, and what was expected in its place.
func TestReject(t *testing.T) {
	for _, g := range goldens(t, "reject") {
		t.Run(g.name(), func(t *testing.T) {
			config, err := adapt(g.caddyfile)
			if err == nil {
				t.Fatalf("accepted:\n%s", config)
			}
			if *update {
				g.update(t, err.Error())
				return
			}
			if err.Error() != g.want {
				t.Errorf("got\n%s\nwant\n%s", err, g.want)
			}
		})
	}
}
