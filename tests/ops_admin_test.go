package tests

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-bearer/caddy-bearer/tests/provider"
)

// withAdminAt turns the admin API of a configuration on.
func withAdminAt(t *testing.T, address string, config []byte) []byte {
	t.Helper()
	var c map[string]any
	if err := json.Unmarshal(config, &c); err != nil {
		t.Fatal(err)
	}
	c["admin"] = map[string]any{"listen": address, "config": map[string]any{"persist": false}}
	config, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	return config
}

// TestReadinessOverAdmin: the admin API tells it too, of the config that runs, and nothing of keys.
func TestReadinessOverAdmin(t *testing.T) {
	p := provider.New(provider.Generic)
	s := watch(t, p, setup{source: "key user {header.X-User}"})
	admin := "127.0.0.1:" + freePort(t)
	withAdmin := func(config []byte) []byte { return withAdminAt(t, admin, config) }
	at := func(path string) (int, string) {
		status, body := s.look("http://" + admin + path)
		s.seen.WriteString(body)
		return status, body
	}
	s.load(t, withAdmin(s.config))
	s.searchAtEnd(t)
	s.call(t, http.MethodGet, "/", http.Header{"X-User": {"a-user-named-ann"}}, "").wantOK(t)
	status, body := at("/token_sources/readiness")
	if status != http.StatusOK || !strings.Contains(body, `"api":{"status":"ready","reasons":[],"tokens":1,`) || strings.Contains(body, "ann") {
		t.Errorf("got %d %s", status, body)
	}
	if _, other := s.look(s.probe); other != body {
		t.Errorf("the site says %s, the admin API %s", other, body)
	}
	if status, _ := at("/token_sources/keys"); status != http.StatusNotFound {
		t.Errorf("an unknown path: %d", status)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+admin+"/token_sources/readiness", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusMethodNotAllowed || resp.Header.Get("Allow") != "GET, HEAD" {
		t.Errorf("POST: %d, Allow %q", resp.StatusCode, resp.Header.Get("Allow"))
	}
	// a config that does not load changes nothing
	if err := caddy.Load([]byte(strings.Replace(string(withAdmin(s.config)), `"apps":{`, `"apps":{"no_such_app":{},`, 1)), true); err == nil {
		t.Fatal("loaded")
	}
	if status, again := at("/token_sources/readiness"); status != http.StatusOK || again != body {
		t.Errorf("after a config that does not load: %d %s", status, again)
	}
	// and one without sources has nothing to wait for
	s.load(t, withAdmin([]byte(`{"apps":{"http":{"servers":{"a":{"listen":["`+strings.TrimSuffix(strings.TrimPrefix(s.probe, "http://"), "/")+`"],"routes":[{"handle":[{"handler":"token_readiness"}]}]}}}}}`)))
	for _, url := range []string{s.probe, "http://" + admin + "/token_sources/readiness"} {
		if status, body := s.look(url); status != http.StatusOK || body != `{"status":"ready","sources":{}}`+"\n" {
			t.Errorf("without sources: %d %s", status, body)
		}
	}
	s.load(t, withAdmin(s.config)) // for the search
}
