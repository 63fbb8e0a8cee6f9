package tests

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestAttack9AdminSocket: the admin endpoint of a config like the examples' is a socket that nobody but Caddy's user can open,
// and Caddy's own commands find it.
func TestAttack9AdminSocket(t *testing.T) {
	s := newSidecar(t, setup{})
	socket := filepath.Join(s.dir, "admin.sock")
	var c map[string]any
	if err := json.Unmarshal(s.config, &c); err != nil {
		t.Fatal(err)
	}
	c["admin"] = map[string]any{"listen": "unix/" + socket + "|0600"}
	config, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	process := startProcess(t, config, secretsOf(s.p), s.address)
	info, err := os.Stat(socket)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("the socket: %v, %v", info.Mode(), err)
	}
	if text := readSocket(t, socket, "/config/"); !strings.Contains(text, "token_sources") {
		t.Errorf("the config: %s", text)
	}
	s.get(t).wantOK(t)
	if out, err := process.command(t, config, "reload", "--force"); err != nil {
		t.Errorf("caddy reload: %v: %s", err, out)
	}
	s.after.Reloaded()
	s.get(t).wantOK(t)
	if strings.Contains(process.output.String(), "admin endpoint listens on") {
		t.Errorf("a warning: %s", process.output.String())
	}
	if out, err := process.command(t, config, "stop"); err != nil {
		t.Errorf("caddy stop: %v: %s", err, out)
	}
	<-process.done
}

// TestAttack9Examples: so it is in everything that people copy.
func TestAttack9Examples(t *testing.T) {
	setenv(t, exampleVariables())
	readme := string(mustRead(t, "..", "README.md"))
	_, rest, _ := strings.Cut(readme, "## The smallest Caddyfile\n\n```caddyfile\n")
	smallest, _, _ := strings.Cut(rest, "```")
	texts := map[string]string{"README": smallest, "Caddyfile.example": string(mustRead(t, "..", "Caddyfile.example"))}
	examples, err := filepath.Glob(filepath.Join("..", "examples", "*.caddyfile"))
	if err != nil || len(examples) == 0 {
		t.Fatalf("no examples: %v", err)
	}
	for _, name := range examples {
		texts[name] = string(mustRead(t, name))
	}
	for name, text := range texts {
		var c struct {
			Admin struct {
				Listen   string
				Disabled bool
			}
		}
		if err := json.Unmarshal(adapt(t, name, []byte(text)), &c); err != nil {
			t.Fatal(err)
		}
		if a := c.Admin; !a.Disabled && !(strings.HasPrefix(a.Listen, "unix/") && strings.HasSuffix(a.Listen, "|0600")) {
			t.Errorf("%s: the admin endpoint is at %q", name, a.Listen)
		}
	}
}

// TestAttack9Warning: an admin endpoint on TCP is warned of, where there is a token to lose.
func TestAttack9Warning(t *testing.T) {
	for name, tt := range map[string]struct {
		admin  any
		vars   map[string]string
		listen string
	}{
		"default":            {nil, nil, "localhost:2019"},
		"environment":        {nil, map[string]string{"CADDY_ADMIN": "127.0.0.1:0"}, "127.0.0.1:0"},
		"named":              {map[string]any{"listen": "127.0.0.1:0"}, nil, "127.0.0.1:0"},
		"off":                {map[string]any{"disabled": true}, nil, ""},
		"a socket":           {map[string]any{"listen": "unix/SOCKET|0600"}, nil, ""},
		"socket by variable": {nil, map[string]string{"CADDY_ADMIN": "unix/SOCKET|0600"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSidecar(t, setup{})
			var c map[string]any
			if err := json.Unmarshal(s.config, &c); err != nil {
				t.Fatal(err)
			}
			delete(c, "admin")
			if tt.admin != nil {
				c["admin"] = tt.admin
			}
			config, err := json.Marshal(c)
			if err != nil {
				t.Fatal(err)
			}
			vars := secretsOf(s.p)
			for key, value := range tt.vars {
				vars[key] = strings.ReplaceAll(value, "SOCKET", filepath.Join(s.dir, "s"))
			}
			// validated and not run: the default's port is one for the whole machine
			validate(t, []byte(strings.ReplaceAll(string(config), "SOCKET", filepath.Join(s.dir, "s"))), vars)
			out := s.logged(t)
			if warned := strings.Contains(out, "admin endpoint listens on "+tt.listen); warned != (tt.listen != "") {
				t.Errorf("warned: %v: %s", warned, out)
			}
		})
	}
}

// TestWarnings: what is allowed and seldom meant is told at each load, with its place; what is in order is not.
func TestWarnings(t *testing.T) {
	for name, tt := range map[string]struct {
		c    setup
		want []string
	}{
		"in order": {setup{}, nil},
		"a literal": {
			setup{tokenURL: "https://idp.example/token", grant: "param api_key x\nheader X-Api-Key y\nparam harmless z"},
			[]string{"param api_key: the value stands in the config", "header X-Api-Key: the value stands in the config"},
		},
		"everyone":        {setup{transport: "callers 0.0.0.0/0 ::/0"}, []string{"callers: 0.0.0.0/0 is everyone", "callers: ::/0 is everyone"}},
		"not verified":    {setup{upstream: "https://api.example", transport: "tls_insecure_skip_verify"}, []string{"tls_insecure_skip_verify: certificates are not verified"}},
		"not verified II": {setup{grant: "transport {\ntls_insecure_skip_verify\n}"}, []string{"transport: certificates are not verified"}},
		"plain redirect": {
			setup{grantType: "authorization_code", grant: "redirect_uri http://app.example/cb"}, []string{"redirect_uri: codes come back over plain http"},
		},
		"redirect to this host": {setup{grantType: "authorization_code", grant: "redirect_uri http://127.0.0.1:9000/cb"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSidecar(t, tt.c)
			s.load(t, s.config)
			stop(t)
			var got []string
			for line := range strings.Lines(s.logged(t)) {
				if strings.Contains(line, `"level":"warn"`) && strings.Contains(line, "expected") {
					got = append(got, line)
				}
			}
			if len(got) != len(tt.want) {
				t.Errorf("%d warnings: %s", len(got), strings.Join(got, ""))
			}
			for _, want := range tt.want {
				if !strings.Contains(strings.Join(got, ""), want) {
					t.Errorf("no warning %q in %s", want, strings.Join(got, ""))
				}
			}
			for _, line := range got {
				if !strings.Contains(line, "sidecar.caddyfile:") {
					t.Errorf("no place in %s", line)
				}
			}
		})
	}
}

// TestAttack20UpgradeH2C: an upgrade to HTTP/2 is not passed on; one to another protocol is.
func TestAttack20UpgradeH2C(t *testing.T) {
	s := launch(t, setup{})
	for _, upgrade := range []string{"h2c", "H2C", "websocket, h2c", "HTTP/2.0"} {
		s.p.Forget()
		c := s.raw(t)
		c.send(t, "GET /things HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: %s\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n", s.address, upgrade)
		c.answer(t).wantOK(t)
		for _, call := range s.p.APICalls() {
			for _, name := range []string{"Upgrade", "Http2-Settings"} {
				if _, there := call.Header[name]; there {
					t.Errorf("%s: the API gets %s", upgrade, name)
				}
			}
		}
	}
	s.p.Forget()
	s.call(t, http.MethodGet, "/things", http.Header{"Connection": {"Upgrade"}, "Upgrade": {"websocket"}}, "").wantOK(t)
	if calls := s.p.APICalls(); len(calls) != 1 || calls[0].Header.Get("Upgrade") != "websocket" {
		t.Errorf("%v", calls)
	}
}
