package caddymodule_test

import (
	"encoding/json"
	"strings"
	"testing"
)

// TestRejectKeys is about keys that tell nobody from anybody. They are refused
// when the config is loaded, whether a site uses the source or not: the first
// request would be too late.
func TestRejectKeys(t *testing.T) {
	const source = "{\n\ttoken_source api {\n\t\tgrant client_credentials {\n\t\t\ttoken_url https://idp.example/token\n\t\t}\n\t\tkey user KEY\n\t}\n}\n"
	const site = "http://127.0.0.1:9000 {\n\treverse_proxy https://api.example {\n\t\ttransport bearer api\n\t}\n}\n"
	for name, key := range map[string]string{
		"never closed":        `"{header.X-User"`,
		"of the environment":  `{env.GOOD}`,
		"unknown placeholder": `{heder.X-User}`,
	} {
		for where, text := range map[string]string{" in use": source + site, " not in use": source} {
			t.Run(name+where, func(t *testing.T) {
				config, err := adapt(strings.Replace(text, "KEY", key, 1))
				if err == nil {
					_, err = provision(t, contained(t, config))
				}
				if err == nil {
					t.Fatal("loaded")
				}
				for _, want := range []string{"Caddyfile:6", "user", "expected"} {
					if !strings.Contains(err.Error(), want) {
						t.Errorf("no %q in: %v", want, err)
					}
				}
			})
		}
	}
}

// inJSON is a config with a source, a site through it and a login, each with
// members of its own.
func inJSON(t *testing.T, name, source, grant, transport, login string) map[string]any {
	t.Helper()
	members := func(always, more string) string {
		if more != "" {
			always += ","
		}
		return "{" + always + more + "}"
	}
	g := members(`"type": "authorization_code", "token_url": "https://idp.example/token"`, grant)
	text := `{"apps": {"token_sources": {"sources": {` + name + `: ` + members(`"grant": `+g, source) + `}},
		"http": {"servers": {"srv0": {"listen": ["127.0.0.1:9000"], "routes": [
			{"handle": [` + members(`"handler": "token_login"`, login) + `]},
			{"handle": [{"handler": "reverse_proxy", "upstreams": [{"dial": "127.0.0.1:1"}],
				"transport": ` + members(`"protocol": "bearer"`, transport) + `}]}]}}}}}`
	if !json.Valid([]byte(text)) {
		t.Fatalf("not JSON: %s", text)
	}
	return contained(t, []byte(text))
}

const uses = `"source": "api"`

// TestRejectJSON holds for JSON what the parser holds for a Caddyfile.
func TestRejectJSON(t *testing.T) {
	for name, c := range map[string]struct{ source, grant, transport, login string }{
		"lifetime below zero":           {source: `"lifetime": {"default": -1}`},
		"lifetime's cap below zero":     {source: `"lifetime": {"max": -1}`},
		"refresh_ahead below zero":      {source: `"refresh_ahead": {"share": -0.1}`},
		"refresh_ahead above one":       {source: `"refresh_ahead": {"share": 1.5}`},
		"refresh_ahead's cap below":     {source: `"refresh_ahead": {"max": -1}`},
		"grace below zero":              {source: `"grace": -1`},
		"min_interval below zero":       {source: `"min_interval": -1`},
		"max_keys below zero":           {source: `"max_keys": -1`},
		"breaker below zero":            {source: `"breaker": {"trip_after": -1}`},
		"breaker open below zero":       {source: `"breaker": {"open_for": -1}`},
		"key without a name":            {source: `"keys": [{"name": "", "value": "{http.request.header.X-User}"}]`},
		"key without a value":           {source: `"keys": [{"name": "user", "value": ""}]`},
		"key twice":                     {source: `"keys": [{"name": "a", "value": "{http.request.header.A}"}, {"name": "a", "value": "{http.request.header.B}"}]`},
		"constant key":                  {source: `"keys": [{"name": "user", "value": "alice"}]`},
		"method":                        {grant: `"method": "PUT"`},
		"params_in":                     {grant: `"params_in": "body"`},
		"timeout below zero":            {grant: `"timeout": -1`},
		"client_auth":                   {grant: `"client_auth": ["basic"]`},
		"client_auth without words":     {grant: `"client_auth": ["header"]`},
		"param's place":                 {grant: `"params": [{"name": "a", "value": "b", "in": "header"}]`},
		"param's type":                  {grant: `"params": [{"name": "a", "value": "b", "type": "integer"}]`},
		"param without a name":          {grant: `"params": [{"name": "", "value": "b"}]`},
		"GET with a param in its body":  {grant: `"method": "GET", "params": [{"name": "a", "value": "b", "in": "body"}]`},
		"header's name":                 {grant: `"headers": [{"name": "X A", "value": "b"}]`},
		"format":                        {grant: `"response": {"format": "xml"}`},
		"expires_kind":                  {grant: `"response": {"expires_kind": "fortnights"}`},
		"permanent without a matcher":   {grant: `"response": {"permanent": [{}]}`},
		"throttled by two at once":      {grant: `"response": {"throttled": [{"status": [400], "json": "error"}]}`},
		"error_when without a path":     {grant: `"response": {"error_when": [{"values": ["1"]}]}`},
		"callers by name":               {transport: `"callers": ["localhost"]`},
		"callers' range":                {transport: `"callers": ["10.0.0.0/33"]`},
		"replay_body below zero":        {transport: `"replay_body": -1`},
		"nothing injected":              {transport: `"inject": [{"value": "{token}"}]`},
		"two places at once":            {transport: `"inject": [{"header": "A", "query": "a", "value": "{token}"}]`},
		"no value":                      {transport: `"inject": [{"header": "A"}]`},
		"auth_failure by two at once":   {transport: `"auth_failure": {"any": [{"status": [401], "header": "A"}]}`},
		"auth_failure by nothing":       {transport: `"auth_failure": {"except": [{}]}`},
		"API's breaker below zero":      {transport: `"breaker": {"trip_after": -1}`},
		"API's breaker open below zero": {transport: `"breaker": {"open_for": -1}`},
		"login's callers":               {login: `"callers": ["all"]`},
	} {
		t.Run(name, func(t *testing.T) {
			use := func(members string) string { return strings.TrimSuffix(uses+","+members, ",") }
			if _, err := provision(t, inJSON(t, `"api"`, c.source, c.grant, use(c.transport), use(c.login))); err == nil {
				t.Error("loaded")
			}
		})
	}
	for _, name := range []string{`""`, `"a b"`, `"a\n"`, `"` + strings.Repeat("a", 65) + `"`} {
		t.Run("name "+name, func(t *testing.T) {
			use := `"source": ` + name
			if _, err := provision(t, inJSON(t, name, "", "", use, use)); err == nil {
				t.Error("loaded")
			}
		})
	}
	for place, c := range map[string][2]string{"transport": {"", uses}, "token_login": {uses, ""}} {
		t.Run(place+" without a source", func(t *testing.T) {
			_, err := provision(t, inJSON(t, `"api"`, "", "", c[0], c[1]))
			if err == nil || !strings.Contains(err.Error(), "source is required") {
				t.Errorf("got %v: expected it to say that source is required", err)
			}
		})
	}
}

// TestRejectMigrateWithoutKeys: nothing could be sealed.
func TestRejectMigrateWithoutKeys(t *testing.T) {
	config := func(storage string) map[string]any {
		c := inJSON(t, `"api"`, "", "", uses, uses)
		var s any
		if err := json.Unmarshal([]byte(storage), &s); err != nil {
			t.Fatal(err)
		}
		c["apps"].(map[string]any)["token_storage"] = s
		return c
	}
	_, err := provision(t, config(`{"migrate": true}`))
	if err == nil || !strings.Contains(err.Error(), "migrate: there is no key to seal with: expected storage_keys beside it") {
		t.Errorf("got %v", err)
	}
	if _, err := provision(t, config(`{"migrate": true, "storage_keys": ["{env.STORAGE_KEY}"]}`)); err != nil {
		t.Errorf("with a key: %v", err)
	}
}

// TestRejectExceptedPorts: a port that is excepted from TLS is plain http.
func TestRejectExceptedPorts(t *testing.T) {
	const plain = `"tls": {"except_ports": ["8080"]}, "source": "api"`
	for dial, rejected := range map[string]bool{"10.0.0.7:8080": true, "127.0.0.1:8080": false, "10.0.0.7:8443": false} {
		config := inJSON(t, `"api"`, "", "", plain, uses)
		text := strings.Replace(string(mustMarshal(t, config)), "127.0.0.1:1", dial, 1)
		if _, err := provision(t, contained(t, []byte(text))); (err != nil) != rejected {
			t.Errorf("%s: %v", dial, err)
		}
	}
}
