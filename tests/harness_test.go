// Package tests holds the black-box tests: the module in a real Caddy, on real sockets, against a provider that is as
// strict as the real ones.
package tests

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	_ "github.com/caddyserver/caddy/v2/modules/standard"
	"github.com/caddyserver/certmagic"

	_ "github.com/caddy-bearer/caddy-bearer/caddymodule"
	"github.com/caddy-bearer/caddy-bearer/internal/reloadtest"
	"github.com/caddy-bearer/caddy-bearer/tests/provider"
)

// place is where a Caddy under test keeps what it writes.
type place struct {
	dir     string
	log     string             // everything that Caddy logs, at DEBUG, access logs included
	metrics string             // address of an extra site that serves the metrics
	after   *reloadtest.Client // for who calls this Caddy
	loaded  bool
	configs strings.Builder      // what was loaded, as /config/ would show it
	search  []*provider.Provider // whose secrets are looked for in the spans, which are complete when Caddy has stopped
}

// newPlace makes a place of its own for a test. It points the XDG variables there and so sets the environment, which
// also keeps the test from being run in parallel with another: Caddy's state is global.
func newPlace(t *testing.T) *place {
	t.Helper()
	dir := t.TempDir()
	t.Setenv("XDG_DATA_HOME", filepath.Join(dir, "data"))
	t.Setenv("XDG_CONFIG_HOME", filepath.Join(dir, "config"))
	t.Setenv("OTEL_TRACES_EXPORTER", exporterName)
	takeSpans()
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	return &place{
		after:   &reloadtest.Client{Transport: transport},
		dir:     dir,
		log:     filepath.Join(dir, "caddy.log"),
		metrics: "127.0.0.1:" + freePort(t),
	}
}

// storage is where Caddy's default storage is.
func (w *place) storage() string { return filepath.Join(w.dir, "data", "caddy") }

// adapt turns a Caddyfile into JSON, with the same adapter that `caddy run` uses.
func adapt(t *testing.T, name string, text []byte) []byte {
	t.Helper()
	adapter := caddyconfig.GetAdapter("caddyfile")
	if adapter == nil {
		t.Fatal("there is no caddyfile adapter")
	}
	config, warnings, err := adapter.Adapt(text, map[string]any{"filename": name})
	if err != nil {
		t.Fatalf("adapting %s: %v", name, err)
	}
	for _, w := range warnings {
		// a missing final newline or the like is of no interest here
		t.Logf("adapting %s: %s", name, w)
	}
	return config
}

// contain keeps a configuration within a place: no admin endpoint, no autosave, logs to a file, and the metrics and
// readiness where the test can read them. The sites themselves stay as they were adapted, but for access logs and tracing,
// which are turned on so that a canary search sees them.
func (w *place) contain(t *testing.T, config []byte) []byte {
	t.Helper()
	var c map[string]any
	if err := json.Unmarshal(config, &c); err != nil {
		t.Fatalf("reading the adapted configuration: %v", err)
	}
	c["admin"] = map[string]any{"disabled": true, "config": map[string]any{"persist": false}}
	c["logging"] = map[string]any{"logs": map[string]any{"default": map[string]any{
		"level":   "DEBUG",
		"encoder": map[string]any{"format": "json"},
		"writer":  map[string]any{"output": "file", "filename": w.log, "roll": false},
	}}}
	apps, _ := c["apps"].(map[string]any)
	site, _ := apps["http"].(map[string]any)
	servers, _ := site["servers"].(map[string]any)
	for _, s := range servers {
		server, ok := s.(map[string]any)
		if !ok {
			continue
		}
		if server["logs"] == nil {
			server["logs"] = map[string]any{}
		}
		routes, _ := server["routes"].([]any)
		traced := map[string]any{"handle": []any{map[string]any{"handler": "tracing", "span": "traced-by-the-test"}}}
		server["routes"] = append([]any{traced}, routes...)
	}
	if servers != nil {
		servers["test_metrics"] = map[string]any{
			"listen":          []string{w.metrics},
			"automatic_https": map[string]any{"disable": true},
			"routes": []any{
				map[string]any{
					"match":  []any{map[string]any{"path": []string{"/readiness"}}},
					"handle": []any{map[string]any{"handler": "token_readiness"}},
				},
				map[string]any{"handle": []any{map[string]any{"handler": "metrics"}}},
			},
		}
	}
	out, err := json.Marshal(c)
	if err != nil {
		t.Fatalf("writing the configuration: %v", err)
	}
	return out
}

// load starts Caddy in this process, or reloads it, and sees to it that it is stopped in the end.
func (w *place) load(t *testing.T, config []byte) {
	t.Helper()
	// Caddy reads XDG_DATA_HOME once, when the process starts
	caddy.DefaultStorage = &certmagic.FileStorage{Path: caddy.AppDataDir()}
	if w.loaded {
		w.after.Reloaded() // or stopped before
	}
	if err := caddy.Load(config, true); err != nil {
		t.Fatalf("loading: %v", err)
	}
	w.configs.Write(config)
	w.configs.WriteByte('\n')
	if !w.loaded {
		// once, so that what is to happen at the end with Caddy still running can be registered after the first load
		w.loaded = true
		t.Cleanup(func() {
			stop(t)
			spans := takeSpans()
			for _, p := range w.search {
				searchText(t, p, "spans", spans)
			}
		})
	}
}

// stop stops Caddy. Stopping twice does no harm.
func stop(t *testing.T) {
	t.Helper()
	if err := caddy.Stop(); err != nil {
		t.Errorf("stopping: %v", err)
	}
}

// nextPort is where freePort goes on looking. It starts anywhere, for other test runs on the same host.
var nextPort = 20000 + rand.IntN(10000)

// freePort finds a port that nobody listens on and gives each only once. It stays below the ports that systems hand out
// for outgoing connections: one of those may be taken by the time that Caddy listens.
func freePort(t *testing.T) string {
	t.Helper()
	for range 1000 {
		nextPort++
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", nextPort))
		if err == nil {
			l.Close()
			return strconv.Itoa(nextPort)
		}
	}
	t.Fatal("there is no free port")
	return ""
}

// hang is for how long something is waited for until it is taken for something that never comes. It says nothing of how
// long a thing may take: a busy machine is slow, and that is no failure. No test waits for it but one that fails.
const hang = 2 * time.Minute

// eventually waits until a condition holds. It is asked again every few milliseconds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline := time.After(hang)
	for !holds() {
		select {
		case <-deadline:
			t.Fatalf("not within %v: %s", hang, what)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// mustRead reads a file that has to be there.
func mustRead(t *testing.T, parts ...string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(parts...))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// setenv sets many variables at once, for the test's duration.
func setenv(t *testing.T, vars map[string]string) {
	t.Helper()
	for name, value := range vars {
		t.Setenv(name, value)
	}
}

// environ gives variables in the form that a process wants.
func environ(vars map[string]string) []string {
	out := append(os.Environ(), "OTEL_TRACES_EXPORTER=none") // this process's own is unknown elsewhere
	for name, value := range vars {
		out = append(out, fmt.Sprintf("%s=%s", name, value))
	}
	return out
}
