package caddymodule_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-bearer/caddy-bearer/caddymodule"
)

// contained keeps a config to itself: no admin endpoint, no autosave, its own
// storage, a quiet log.
func contained(t *testing.T, config []byte) map[string]any {
	t.Helper()
	var c map[string]any
	if err := json.Unmarshal(config, &c); err != nil {
		t.Fatalf("%v in %s", err, config)
	}
	c["admin"] = map[string]any{"disabled": true, "config": map[string]any{"persist": false}}
	c["storage"] = map[string]any{"module": "file_system", "root": t.TempDir()}
	c["logging"] = map[string]any{"logs": map[string]any{"default": map[string]any{
		"writer": map[string]any{"output": "discard"},
	}}}
	return c
}

func decoded(t *testing.T, config map[string]any) *caddy.Config {
	t.Helper()
	text, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	var c caddy.Config
	if err := caddy.StrictUnmarshalJSON(text, &c); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	return &c
}

// provision does what caddy validate does, and returns the app for a look.
func provision(t *testing.T, config map[string]any) (*caddymodule.App, error) {
	t.Helper()
	app, _, err := provisioned(t, config)
	return app, err
}

// provisioned is provision, with the context for a look at other apps.
func provisioned(t *testing.T, config map[string]any) (_ *caddymodule.App, ctx caddy.Context, err error) {
	t.Helper()
	if ctx, err = caddy.ProvisionContext(decoded(t, config)); err != nil {
		return nil, ctx, err
	}
	app, err := ctx.App("token_sources")
	if err != nil {
		return nil, ctx, err
	}
	a := app.(*caddymodule.App)
	t.Cleanup(func() { _ = a.Cleanup() })
	return a, ctx, nil
}

// withoutOrigins makes a config as one would write it by hand.
func withoutOrigins(v any) {
	switch v := v.(type) {
	case map[string]any:
		delete(v, "origin")
		for _, member := range v {
			withoutOrigins(member)
		}
	case []any:
		for _, member := range v {
			withoutOrigins(member)
		}
	}
}

func TestMain(m *testing.M) {
	for name, value := range map[string]string{
		"GOOD": "good", "EMPTY": "",
		"STORAGE_KEY": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=", "STORAGE_KEY_HEX": "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f",
	} {
		if err := os.Setenv(name, value); err != nil {
			panic(err)
		}
	}
	os.Exit(m.Run())
}

// place is where an error says that something was written.
var place = regexp.MustCompile(`Caddyfile:\d+: `)

// TestRejectAtLoad is about what the parser cannot know. The same is found in
// JSON that knows of no Caddyfile.
func TestRejectAtLoad(t *testing.T) {
	for _, g := range goldens(t, "load") {
		t.Run(g.name(), func(t *testing.T) {
			config, err := adapt(g.caddyfile)
			if err != nil {
				t.Fatalf("refused by the parser: %v", err)
			}
			c := contained(t, config)
			_, err = provision(t, c)
			if err == nil {
				t.Fatal("loaded")
			}
			if *update {
				g.update(t, err.Error())
				return
			}
			if err.Error() != g.want {
				t.Errorf("got\n%s\nwant\n%s", err, g.want)
			}
			if !place.MatchString(err.Error()) {
				t.Errorf("neither file nor line in: %v", err)
			}
			withoutOrigins(c)
			_, bare := provision(t, c)
			if want := place.ReplaceAllString(g.want, ""); bare == nil || bare.Error() != want {
				t.Errorf("without origins: got\n%v\nwant\n%s", bare, want)
			}
		})
	}
}

// TestLoad holds what must not be refused.
func TestLoad(t *testing.T) {
	const site = "\nhttp://127.0.0.1:9000 {\n\treverse_proxy UPSTREAM {\n\t\ttransport bearer api OPTIONS\n\t}\n}\n"
	source := func(url, options string) string {
		return "{\n\ttoken_source api {\n\t\tgrant client_credentials {\n\t\t\ttoken_url " + url + "\n" + options + "\n\t\t}\n\t}\n}\n"
	}
	proxy := func(upstream, options string) string {
		return source("https://idp.example/token", "") + strings.NewReplacer("UPSTREAM", upstream, "OPTIONS", options).Replace(site)
	}
	keyed := func(options string) string {
		return strings.Replace(source("https://idp.example/token", options), "\t\tgrant", "\t\tkey api {header.X-Api}\n\t\tgrant", 1)
	}
	code := func(options string) string {
		return strings.Replace(source("https://idp.example/token", options), "client_credentials", "authorization_code", 1)
	}
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("hidden\r\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"http to 127.0.0.1":            source("http://127.0.0.1:1/token", ""),
		"http to 127.8.8.8":            source("http://127.8.8.8/token", ""),
		"http to ::1":                  source("http://[::1]:1/token", ""),
		"http to localhost":            source("http://localhost:1/token", ""),
		"http to localhost.":           source("http://LocalHost.:1/token", ""),
		"http to an allowed localhost": source("http://idp.localhost:1/token", "allow_http idp.localhost"),
		"http to an allowed host":      source("http://IDP.internal/token", "allow_http idp.internal"),
		"a secret's file":              source("https://idp.example/token", "client_id id\nclient_secret {file."+secret+"}"),
		"a secret's variable":          source("https://idp.example/token", "client_id id\nclient_secret {env.GOOD}"),
		"GET with its query":           source("https://idp.example/token", "method GET\nparams_in query"),
		"a resource's port and query":  source("https://idp.example/token", "resource https://api.example:8443/v1?x=1"),
		"a resource that is a URN":     source("https://idp.example/token", "resource urn:example:api"),
		"a resource of a variable":     source("https://idp.example/token", "resource https://api.example/{env.GOOD}"),
		"a resource of a key":          keyed("resource {key.api}\nresource https://{key.api}.example/"),
		"an app's own redirect_uri":    code("redirect_uri com.example.app:/callback?x=1"),
		"issuer with a path":           code("redirect_uri https://app.example/cb\nclient_id id\nauth_url https://idp.example/a\nissuer https://idp.example/tenant/"),
		"issuer on loopback":           code("issuer http://127.0.0.1:8080"),
		"upstream on loopback":         proxy("http://127.0.0.1:1", ""),
		"upstream on localhost":        proxy("http://localhost:1", ""),
		"upstream on a unix socket":    proxy("unix//run/api.sock", ""),
		"upstream under localhost":     proxy("http://api.localhost:1", "{\nallow_http api.localhost\n}"),
		"upstream allowed":             proxy("http://api.internal", "{\nallow_http api.internal\n}"),
		"upstream by TLS":              proxy("https://api.example", ""),
		"upstream that a request says": proxy("{http.request.header.X-Upstream}", ""),
		"JSON in a header":             proxy("https://api.example", "{\nheader X-Auth `{\"token\": \"{token}\"}`\n}"),
		"braces that are meant":        proxy("https://api.example", "{\nheader X-Auth `\\{token\\} {token}`\n}"),
	} {
		t.Run(name, func(t *testing.T) {
			config, err := adapt(text)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := provision(t, contained(t, config)); err != nil {
				t.Error(err)
			}
		})
	}
}
