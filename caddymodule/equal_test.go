package caddymodule_test

import (
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"maps"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-bearer/caddy-bearer/caddymodule"
)

// effective returns what the running sources of a config are told apart by, and
// what its transports and handlers do.
func effective(t *testing.T, config map[string]any) (all []string) {
	t.Helper()
	app, ctx, err := provisioned(t, config)
	if err != nil {
		t.Fatal(err)
	}
	for name, id := range app.SourceIDs() {
		all = append(all, name+" "+id)
	}
	sites, err := ctx.App("http")
	if err != nil {
		t.Fatal(err)
	}
	for _, server := range sites.(*caddyhttp.App).Servers {
		all = append(all, effectiveRoutes(server.Routes)...)
	}
	slices.Sort(all) // servers come in any order
	return all
}

func effectiveRoutes(routes caddyhttp.RouteList) (all []string) {
	for _, route := range routes {
		for _, handler := range route.Handlers {
			switch h := handler.(type) {
			case *caddyhttp.Subroute:
				all = append(all, effectiveRoutes(h.Routes)...)
			case *reverseproxy.Handler:
				if e, ok := h.Transport.(interface{ Effective() string }); ok {
					all = append(all, e.Effective())
				}
			case interface{ Effective() string }:
				all = append(all, h.Effective())
			}
		}
	}
	return all
}

// TestHandWrittenJSON: what one writes by hand does what the Caddyfile does.
func TestHandWrittenJSON(t *testing.T) {
	const file = `{
	token_source api {
		grant authorization_code {
			token_url https://idp.example/token
			client_id id
			auth_url https://idp.example/authorize
			redirect_uri https://app.example/tokens/callback
		}
		key user {http.request.header.X-User}
	}
}

http://127.0.0.1:9000 {
	reverse_proxy http://127.0.0.1:1 {
		transport bearer api {
			header x-token "{token} {key.user}"
			query tenant {token.tenant}
			cookie session {token}
			replay_body 1KiB
			callers 10.1.2.3/16 ::1
			hosts sidecar.internal
			allow_http api.internal
			auth_failure {
				status 401 403
				json error expired
				except header X-Reason quota*
			}
			breaker {
				trip_after 3
				open_for 9s
			}
			dial_timeout 2s
		}
	}
	token_login api {
		callers 10.0.0.0/8
		hosts sidecar.internal
	}
	token_readiness {
		callers 10.42.0.0/16
	}
}
`
	const written = `{"apps": {
	"token_sources": {"sources": {"api": {
		"grant": {"type": "authorization_code", "token_url": "https://idp.example/token", "client_id": "id",
			"auth_url": "https://idp.example/authorize", "redirect_uri": "https://app.example/tokens/callback"},
		"keys": [{"name": "user", "value": "{http.request.header.X-User}"}]}}},
	"http": {"servers": {"any": {"listen": ["127.0.0.1:9000"], "routes": [
		{"handle": [{"handler": "token_login", "source": "api", "callers": ["10.0.0.0/8"], "hosts": ["sidecar.internal"]}]},
		{"handle": [{"handler": "token_readiness", "callers": ["10.42.0.0/16"]}]},
		{"handle": [{"handler": "reverse_proxy", "upstreams": [{"dial": "127.0.0.1:1"}], "transport": {
			"protocol": "bearer", "source": "api", "replay_body": 1024, "callers": ["10.1.2.3/16", "::1"], "hosts": ["sidecar.internal"],
			"allow_http": ["api.internal"], "dial_timeout": "2s", "breaker": {"trip_after": 3, "open_for": "9s"},
			"inject": [{"header": "x-token", "value": "{token} {key.user}"}, {"query": "tenant", "value": "{token.tenant}"},
				{"cookie": "session", "value": "{token}"}],
			"auth_failure": {"any": [{"status": [401, 403]}, {"json": "error", "values": ["expired"]}],
				"except": [{"header": "X-Reason", "values": ["quota*"]}]}}}]}]}}}}}`
	got, want := effective(t, contained(t, []byte(written))), effective(t, contained(t, mustAdapt(t, file)))
	if len(want) != 4 || !slices.Equal(got, want) {
		t.Errorf("by hand\n%s\nby Caddyfile\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// sourceIDs returns what tells the running sources of a Caddyfile apart.
func sourceIDs(t *testing.T, config map[string]any) map[string]string {
	t.Helper()
	app, err := provision(t, config)
	if err != nil {
		t.Fatal(err)
	}
	return app.SourceIDs()
}

func mustAdapt(t *testing.T, text string) []byte {
	t.Helper()
	config, err := adapt(text)
	if err != nil {
		t.Fatal(err)
	}
	return config
}

// TestJSONEqualsCaddyfile: what an adapted config means is all in its
// settings. Where they were written changes nothing.
func TestJSONEqualsCaddyfile(t *testing.T) {
	for _, name := range []string{
		"SECRET", "OTHER_SECRET", "API_KEY", "USER_NAME", "PASSWORD", "REFRESH_TOKEN",
		"MBANQ_CLIENT_ID", "MBANQ_CLIENT_SECRET", "MBANQ_USERNAME", "MBANQ_PASSWORD", "MBANQ_TENANT",
		"MONDIA_CLIENT_ID", "MONDIA_CLIENT_SECRET", "MONDIA_API_KEY",
		"MONDIAPAY_CLIENT_ID", "MONDIAPAY_CLIENT_SECRET", "MONPAY_CLIENT_ID", "MONPAY_CLIENT_SECRET",
	} {
		t.Setenv(name, "value-of-"+name)
	}
	secret := filepath.Join(t.TempDir(), "client")
	if err := os.WriteFile(secret, []byte("hidden"), 0o600); err != nil {
		t.Fatal(err)
	}
	storageKey := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(storageKey, []byte(strings.Repeat("ab", 32)), 0o600); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewTLSServer(nil)
	defer server.Close()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if err := os.WriteFile(ca, block, 0o600); err != nil {
		t.Fatal(err)
	}
	here := strings.NewReplacer(
		"/run/secrets/client", secret, "/run/secrets/key", storageKey, "/run/secrets/ca.pem", ca,
		"AAAA", base64.StdEncoding.EncodeToString(server.Certificate().Raw),
	)
	for _, g := range goldens(t, "adapt") {
		t.Run(g.name(), func(t *testing.T) {
			config := contained(t, []byte(here.Replace(g.want)))
			got := effective(t, config)
			withoutOrigins(config)
			if bare := effective(t, config); len(got) == 0 || !slices.Equal(got, bare) {
				t.Errorf("with origins %q, without %q", got, bare)
			}
		})
	}
}

// TestParserSetsNoDefaults: they live where JSON gets them too.
func TestParserSetsNoDefaults(t *testing.T) {
	config := mustAdapt(t, "{\n\ttoken_source a {\n\t\tgrant client_credentials {\n\t\t\ttoken_url https://idp.example/token\n\t\t}\n\t}\n}\n"+
		"http://127.0.0.1:9000 {\n\treverse_proxy https://api.example {\n\t\ttransport bearer a\n\t}\n}\n")
	var c struct {
		Apps struct {
			Sources caddymodule.App `json:"token_sources"`
		} `json:"apps"`
	}
	if err := json.Unmarshal(config, &c); err != nil {
		t.Fatal(err)
	}
	got := c.Apps.Sources.Sources["a"]
	got.Origin, got.GrantRaw = nil, nil
	if text := caddy.ToString(mustMarshal(t, got)); text != "{}" {
		t.Errorf("beside the grant the parser set %s", text)
	}
	if !strings.Contains(string(config), `"protocol":"bearer","source":"a","tls":{}}`) {
		t.Errorf("the parser set more of the transport than was written: %s", config)
	}
}

func mustMarshal(t *testing.T, v any) []byte {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

const identified = `{
	token_source outer {
		grant client_credentials {
			token_url https://idp.example/outer
		}
	}
	token_source api {
		key user {header.X-User}
		grant request {
			token_url https://idp.example/token
			client_id id
			client_secret {env.GOOD}
			client_auth client_secret_post
			scope read
			resource https://api.example/
			params_in json
			param user {key.user}
			rename scope scopes
			omit grant_type
			header X-Api-Key key
			bearer outer
			timeout 5s
			response {
				access_token token
			}
			transport {
				dial_timeout 2s
			}
			allow_http idp.internal
		}
		refresh {
			token_url https://idp.example/refresh
		}
		lifetime 1h
		refresh_ahead 10%
		grace 1s
		min_interval 1s
		max_keys 10
		breaker {
			trip_after 3
		}
	}
}
`

// TestIDIgnoresPlaces: a comment above a source does not cost its tokens.
func TestIDIgnoresPlaces(t *testing.T) {
	want := sourceIDs(t, contained(t, mustAdapt(t, identified)))
	moved := strings.Replace(identified, "\ttoken_source api", "\n\t# a comment\n\n\ttoken_source api", 1)
	moved = strings.Replace(moved, "\t\tlifetime 1h\n", "\n\n\t\tlifetime 1h\n", 1)
	if got := sourceIDs(t, contained(t, mustAdapt(t, moved))); !maps.Equal(got, want) {
		t.Errorf("moved down: got %v, want %v", got, want)
	}
	reordered := strings.Replace(identified, "\t\tgrace 1s\n", "", 1)
	reordered = strings.Replace(reordered, "\t\tkey user", "\t\tgrace 1s\n\t\tkey user", 1)
	if got := sourceIDs(t, contained(t, mustAdapt(t, reordered))); !maps.Equal(got, want) {
		t.Errorf("options in another order: got %v, want %v", got, want)
	}
}

// TestIDFollowsSettings: a changed setting takes effect with the reload, for
// the source that was running with the old one is not taken over.
func TestIDFollowsSettings(t *testing.T) {
	want := sourceIDs(t, contained(t, mustAdapt(t, identified)))
	for _, change := range [][2]string{
		{"https://idp.example/token", "https://idp.example/token2"},
		{"https://idp.example/outer", "https://idp.example/outer2"},
		{"client_id id", "client_id other"},
		{"client_secret {env.GOOD}", "client_secret other"},
		{"client_secret_post", "client_secret_basic"},
		{"scope read", "scope read write"},
		{"resource https://api.example/", "resource https://files.example/"},
		{"params_in json", "params_in form"},
		{"param user {key.user}", "param uid {key.user}"},
		{"rename scope scopes", "rename scope scopez"},
		{"omit grant_type", "omit resource"},
		{"rename scope scopes", "rename scope scopes\n\t\t\trename origin a"},
		{"X-Api-Key key", "X-Api-Key other"},
		{"timeout 5s", "timeout 6s"},
		{"access_token token", "access_token data.token"},
		{"dial_timeout 2s", "dial_timeout 3s"},
		{"https://idp.example/refresh", "https://idp.example/refresh2"},
		{"key user {header.X-User}", "key user {header.X-Other}"},
		{"lifetime 1h", "lifetime 2h"},
		{"refresh_ahead 10%", "refresh_ahead 20%"},
		{"grace 1s", "grace 2s"},
		{"min_interval 1s", "min_interval 2s"},
		{"max_keys 10", "max_keys 20"},
		{"trip_after 3", "trip_after 4"},
	} {
		t.Run(change[1], func(t *testing.T) {
			text := strings.Replace(identified, change[0], change[1], 1)
			if text == identified {
				t.Fatalf("no %q to change", change[0])
			}
			if got := sourceIDs(t, contained(t, mustAdapt(t, text))); got["api"] == want["api"] {
				t.Errorf("%q instead of %q: the source stays the same", change[1], change[0])
			}
		})
	}
	t.Run("what is called origin", func(t *testing.T) {
		for _, change := range [][2]string{
			{"rename origin a", "rename origin b"},
			{"param origin a", "param origin b"},
			{"header Origin https://a.example", "header Origin https://b.example"},
		} {
			one := strings.Replace(identified, "omit grant_type", "omit grant_type\n\t\t\t"+change[0], 1)
			other := strings.Replace(identified, "omit grant_type", "omit grant_type\n\t\t\t"+change[1], 1)
			a, b := sourceIDs(t, contained(t, mustAdapt(t, one))), sourceIDs(t, contained(t, mustAdapt(t, other)))
			if a["api"] == b["api"] || a["api"] == want["api"] {
				t.Errorf("%q, or %q, or none: the source stays the same", change[0], change[1])
			}
			refresh := strings.Replace(identified, "https://idp.example/refresh", "https://idp.example/refresh\n\t\t\t"+change[0], 1)
			if got := sourceIDs(t, contained(t, mustAdapt(t, refresh))); got["api"] == want["api"] {
				t.Errorf("%q in refresh: the source stays the same", change[0])
			}
		}
	})
	t.Run("storage keys", func(t *testing.T) {
		seen := map[string]string{want["api"]: "no key"}
		for _, keys := range []string{"{env.STORAGE_KEY}", "{env.OTHER_KEY}", "{env.STORAGE_KEY} {env.OTHER_KEY}", "{env.OTHER_KEY} {env.STORAGE_KEY}", "{env.STORAGE_KEY} {\n\t\tmigrate\n\t}"} {
			t.Setenv("OTHER_KEY", strings.Repeat("cd", 32))
			text := strings.Replace(identified, "{\n", "{\n\ttoken_sources {\n\t\tstorage_key "+keys+"\n\t}\n", 1)
			id := sourceIDs(t, contained(t, mustAdapt(t, text)))["api"]
			if other, twice := seen[id]; twice {
				t.Errorf("with %s and with %s the source is the same", keys, other)
			}
			seen[id] = keys
		}
	})
	t.Run("the secret itself", func(t *testing.T) {
		t.Setenv("GOOD", "another")
		if got := sourceIDs(t, contained(t, mustAdapt(t, identified))); got["api"] == want["api"] {
			t.Error("another secret in the same variable: the source stays the same")
		}
	})
}
