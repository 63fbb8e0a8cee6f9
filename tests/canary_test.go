package tests

import (
	"context"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddy-bearer/caddy-bearer/tests/provider"
)

// searchCanaries looks for secrets where none may be: in all that Caddy logged, in its metrics, in what
// readiness says, in the configuration as it was loaded and as it was autosaved, once Caddy has stopped in the spans, and in further texts that a test gathered, by name. Stored records are not searched: tokens are what
// they are for.
func (w *place) searchCanaries(t *testing.T, p *provider.Provider, more map[string]string) {
	t.Helper()
	w.search = append(w.search, p)
	_, ready := w.look("http://" + w.metrics + "/readiness")
	texts := map[string]string{"metrics": w.scrape(t), "configuration": w.configs.String(), "readiness": ready}
	if texts["metrics"] == "" {
		t.Error("no metrics to search")
	}
	for name, text := range more {
		texts[name] = text
	}
	log, err := os.ReadFile(w.log)
	if err != nil {
		t.Errorf("reading the log: %v", err)
	}
	if !strings.Contains(string(log), `"level":"debug"`) {
		t.Error("nothing was logged at DEBUG: the search would prove nothing")
	}
	texts["log"] = string(log)
	err = filepath.WalkDir(filepath.Join(w.dir, "config"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		texts[path] = string(text)
		return err
	})
	if err != nil && !os.IsNotExist(err) {
		t.Errorf("looking for an autosaved configuration: %v", err)
	}
	for name, text := range texts {
		searchText(t, p, name, text)
	}
}

// searchText fails the test for every line in which a secret stands.
func searchText(t *testing.T, p *provider.Provider, name, text string) {
	t.Helper()
	for _, line := range leaks(p, text) {
		t.Errorf("a secret in the %s: %.2000s", name, line)
	}
}

// leaks gives the lines in which a secret stands.
func leaks(p *provider.Provider, text string) []string {
	wanted := append(p.Secrets(), p.Canary())
	var lines []string
	for line := range strings.Lines(text) {
		// net/http changes the case of header names
		if slices.ContainsFunc(wanted, func(secret string) bool { return strings.Contains(line, secret) }) || strings.Contains(strings.ToLower(line), p.Canary()) {
			lines = append(lines, line)
		}
	}
	return lines
}

// TestLeaksAreFound shows that the search is not blind: neither to a secret, nor to the credentials of a Basic header,
// in which the canary cannot be seen.
func TestLeaksAreFound(t *testing.T) {
	p := provider.New(provider.Mbanq)
	r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", nil)
	r.SetBasicAuth(p.ClientID, p.ClientSecret)
	text := "nothing\n" + p.NewCode("42") + "\nclient " + p.ClientID + "\n" + r.Header.Get("Authorization") + "\n"
	if n := len(leaks(p, text)); n != 2 {
		t.Errorf("%d leaks found, want 2", n)
	}
}

// TestSearchSeesAll shows that spans, configuration and readiness are there to be searched.
func TestSearchSeesAll(t *testing.T) {
	s := launch(t, setup{})
	s.get(t).wantOK(t)
	if _, ready := s.look("http://" + s.metrics + "/readiness"); !strings.Contains(ready, `"api":{"status":"ready"`) {
		t.Errorf("readiness: %s", ready)
	}
	if !strings.Contains(s.configs.String(), "{env.TEST_CLIENT_SECRET}") {
		t.Errorf("configuration: %s", s.configs.String())
	}
	stop(t)
	if spans := takeSpans(); !strings.Contains(spans, "traced-by-the-test") || !strings.Contains(spans, "token_source.name=api") {
		t.Errorf("spans: %s", spans)
	}
	s.load(t, s.config) // for the search
}

// scrape reads the metrics: nothing, where Caddy does not run.
func (w *place) scrape(t *testing.T) string {
	t.Helper()
	// the test's own context is over by the time its cleanup runs
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+w.metrics+"/", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Close = true
	resp, err := (&http.Client{Transport: w.after}).Do(req)
	if err != nil {
		return ""
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Errorf("reading the metrics: %v", err)
	}
	return string(text)
}
