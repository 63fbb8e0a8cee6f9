package tests

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/caddyconfig"
)

// TestFirstRun does what the README's first screen says, as a user would: one
// command builds Caddy and runs the demo, and a call to it shows that the API
// saw a token.
func TestFirstRun(t *testing.T) {
	alone(t)
	dir := t.TempDir()
	var output bytes.Buffer
	cmd := exec.Command("./xcaddy.sh", "run")
	cmd.Dir = ".."
	vars := environ(map[string]string{"XDG_DATA_HOME": filepath.Join(dir, "data"), "XDG_CONFIG_HOME": filepath.Join(dir, "config")})
	cmd.Env = slices.DeleteFunc(vars, func(v string) bool { return strings.HasPrefix(v, "PROVIDER=") })
	cmd.Stdout, cmd.Stderr = &output, &output
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	defer func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM)
		if err := <-done; err != nil {
			t.Errorf("Caddy did not end well on SIGTERM: %v\n%s", err, output.String())
		}
	}()

	var body string
	// it builds Caddy first, which takes as long as it takes: the end of the test's time is its only deadline
	for status := 0; status != http.StatusOK; {
		select {
		case err := <-done:
			done <- err
			t.Fatalf("./xcaddy.sh run ended: %v\n%s", err, output.String())
		case <-time.After(20 * time.Millisecond):
		}
		status, body = get("http://127.0.0.1:9000/hello")
	}
	if want := "The API saw a Bearer token"; !strings.Contains(body, want) {
		t.Errorf("the demo answered %q: expected it to say %q", body, want)
	}
	if status, _ := get("http://127.0.0.1:9099/hello"); status != http.StatusUnauthorized {
		t.Errorf("the demo's API answered %d to a call without a token: expected 401", status)
	}
	socket := filepath.Join("..", "caddy.sock")
	if info, err := os.Stat(socket); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the admin endpoint's socket: %v, %v", info, err)
	}
	if metrics := readSocket(t, socket, "/metrics"); !strings.Contains(metrics, `caddy_bearer_requests_total{result="ok",source="demo"} 1`) {
		t.Errorf("the metrics do not show the demo's request:\n%s", metrics)
	}
}

// alone waits for the same test of another checkout on this machine: the demo's ports are the same for all.
func alone(t *testing.T) {
	t.Helper()
	lock, err := os.OpenFile(filepath.Join(os.TempDir(), "caddy-bearer-first-run.lock"), os.O_CREATE|os.O_RDONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { lock.Close() })
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
}

// get returns status 0 when nobody answers.
func get(url string) (status int, body string) { return getBy(http.DefaultClient, url) }

// look is get for a Caddy in this process, which may have just been reloaded.
func (w *place) look(url string) (status int, body string) {
	return getBy(&http.Client{Transport: w.after}, url)
}

func getBy(client *http.Client, url string) (status int, body string) {
	res, err := client.Get(url)
	if err != nil {
		return 0, ""
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		return 0, ""
	}
	return res.StatusCode, string(b)
}

// TestReadmeCaddyfile loads the smallest Caddyfile as the README prints it.
func TestReadmeCaddyfile(t *testing.T) {
	readme := string(mustRead(t, "..", "README.md"))
	_, rest, ok := strings.Cut(readme, "## The smallest Caddyfile\n\n```caddyfile\n")
	if !ok {
		t.Fatal("the README has no smallest Caddyfile")
	}
	text, _, _ := strings.Cut(rest, "```")
	place := newPlace(t)
	t.Setenv("ACME_CLIENT_ID", "id")
	t.Setenv("ACME_CLIENT_SECRET", "secret")
	place.load(t, place.contain(t, adapt(t, "README", []byte(strings.ReplaceAll(text, ":9000", ":"+freePort(t))))))
}

// TestExampleIsTheContract: the example's four providers are set up as the
// contract's files have them, whose every line the contract's tests run. The
// example takes the handler, and the contract the transport.
func TestExampleIsTheContract(t *testing.T) {
	example := mustRead(t, "..", "Caddyfile.example")
	for _, c := range contracts {
		name := c.kind.String()
		t.Run(name, func(t *testing.T) {
			t.Setenv("PROVIDER", name)
			got := settingsOf(t, adapt(t, "Caddyfile.example", example))
			if want := settingsOf(t, throughHandlers(t, adapt(t, name, mustRead(t, "contract", name+".caddyfile")))); got != want {
				t.Errorf("the example has\n%s\nthe contract\n%s", got, want)
			}
		})
	}
}

// throughHandlers replaces each reverse_proxy with transport bearer by the handler
// that does the same.
func throughHandlers(t *testing.T, config []byte) []byte {
	t.Helper()
	var c any
	if err := json.Unmarshal(config, &c); err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(handlersIn(t, c))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func handlersIn(t *testing.T, v any) any {
	switch v := v.(type) {
	case []any:
		for i := range v {
			v[i] = handlersIn(t, v[i])
		}
	case map[string]any:
		if transport, _ := v["transport"].(map[string]any); v["handler"] == "reverse_proxy" && transport["protocol"] == "bearer" {
			return handlerOf(t, v, transport)
		}
		for name := range v {
			v[name] = handlersIn(t, v[name])
		}
	}
	return v
}

func handlerOf(t *testing.T, proxy, transport map[string]any) map[string]any {
	t.Helper()
	var p struct {
		Upstreams []struct{ Dial string }
		Headers   struct {
			Request struct{ Set map[string][]string }
		}
	}
	text, err := json.Marshal(proxy)
	if err == nil {
		err = json.Unmarshal(text, &p)
	}
	host, https := strings.CutSuffix(p.Upstreams[0].Dial, ":443")
	if err != nil || len(p.Upstreams) != 1 || !https {
		t.Fatalf("%v: expected one upstream, over https: %s", err, text)
	}
	delete(transport, "protocol")
	delete(transport, "tls")
	transport["handler"], transport["upstream"] = "bearer", "https://"+host
	var inject []any
	for name, values := range p.Headers.Request.Set {
		inject = append(inject, map[string]any{"header": map[string]string{"Tenantid": "tenantId"}[name], "value": values[0]})
	}
	if inject != nil {
		transport["inject"] = inject
	}
	return transport
}

// settingsOf is what a configuration says of sources and sites, without the
// lines where it stands and without what the example has besides.
func settingsOf(t *testing.T, config []byte) string {
	t.Helper()
	var c map[string]any
	if err := json.Unmarshal(config, &c); err != nil {
		t.Fatal(err)
	}
	apps, _ := c["apps"].(map[string]any)
	site, _ := apps["http"].(map[string]any)
	delete(site, "metrics")
	text, err := json.MarshalIndent(withoutOrigins(apps), "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func withoutOrigins(v any) any {
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
	return v
}

// TestReadmeOptions holds the README's grammar against the parsers' tables:
// every option that a misspelt word is answered with stands there, in the
// block that it belongs to.
func TestReadmeOptions(t *testing.T) {
	readme := string(mustRead(t, "..", "README.md"))
	_, grammar, _ := strings.Cut(readme, "## The grammar")
	_, sites, _ := strings.Cut(grammar, "\n<site> {\n") // where bearer is the directive, and no option of a grant
	grant := func(name string) string { return "{\n token_source a {\n grant " + name + " {\n zzz\n }\n }\n}\n" }
	for name, block := range map[string]struct{ opening, caddyfile string }{
		"token_source":             {"token_source <name>", "{\n token_source a {\n zzz\n }\n}\n"},
		"client_credentials":       {"grant", grant("client_credentials")},
		"password":                 {"grant", grant("password")},
		"authorization_code":       {"grant", grant("authorization_code")},
		"refresh_token":            {"grant", grant("refresh_token")},
		"request":                  {"grant", grant("request")},
		"refresh":                  {"grant", "{\n token_source a {\n refresh {\n zzz\n }\n }\n}\n"}, // "with the grant's options"
		"response":                 {"response", "{\n token_source a {\n grant request {\n response {\n zzz\n }\n }\n }\n}\n"},
		"token endpoint's breaker": {"breaker", "{\n token_source a {\n breaker {\n zzz\n }\n }\n}\n"},
		"bearer":                   {"bearer", ":80 {\n bearer a https://a.example {\n zzz\n }\n}\n"},
		"transport":                {"bearer", ":80 {\n reverse_proxy localhost:81 {\n transport bearer a {\n zzz\n }\n }\n}\n"}, // "options of bearer"
		"bearer_intercept":         {"bearer_intercept", ":80 {\n bearer_intercept {\n zzz\n }\n}\n"},
		"auth_failure":             {"auth_failure", ":80 {\n reverse_proxy localhost:81 {\n transport bearer a {\n auth_failure {\n zzz\n }\n }\n }\n}\n"},
		"token_sources":            {"token_sources", "{\n token_sources {\n zzz\n }\n}\n"},
		"store redis":              {"store redis", "{\n token_sources {\n store redis {\n zzz\n }\n }\n}\n"},
		"token_login":              {"token_login", ":80 {\n token_login a {\n zzz\n }\n}\n"},
		"token_readiness":          {"token_readiness", ":80 {\n token_readiness {\n zzz\n }\n}\n"},
	} {
		there := optionsOf(map[bool]string{false: grammar, true: sites}[block.opening == "bearer"], block.opening)
		message := adaptError(t, block.caddyfile)
		match := regexp.MustCompile(`one of ([a-z_, ]+)`).FindStringSubmatch(message)
		if match == nil {
			t.Errorf("%s: the error names no options: %s", name, message)
			continue
		}
		list, _, _ := strings.Cut(match[1], ", or an option")
		for _, option := range strings.Split(strings.TrimSuffix(list, ", at "), ", ") {
			if !slices.Contains(there, option) {
				t.Errorf("%s: the README's grammar has %v in its block, and lacks %q", name, there, option)
			}
		}
	}
}

// optionsOf gives the words that the lines of a block begin with: of the first
// block in a text that opens with something, without the blocks in it.
func optionsOf(text, opening string) (words []string) {
	depth := 0
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(strings.TrimSpace(line), " #")
		line = strings.TrimSpace(line)
		word, _, _ := strings.Cut(line, " ")
		switch {
		case depth == 0 && !strings.HasPrefix(line, opening+" "):
			continue
		case depth == 1 && line == "}":
			return words
		case depth == 1 && word != "":
			words = append(words, word)
		}
		if strings.HasSuffix(line, "{") {
			depth++
		} else if line == "}" {
			depth--
		}
	}
	return nil
}

// TestProblemsAreListed: the README's table has every answer that is explained
// behind the address in its type.
func TestProblemsAreListed(t *testing.T) {
	explained := regexp.MustCompile(`(?m)^## (\S+)\n\n(\d+)`).FindAllStringSubmatch(string(mustRead(t, "..", "docs", "problems.md")), -1)
	if len(explained) < 8 {
		t.Fatalf("docs/problems.md explains %v", explained)
	}
	readme := string(mustRead(t, "..", "README.md"))
	for _, problem := range explained {
		row := regexp.MustCompile(`(?m)^\| .* \| ` + problem[2] + `\b.* \| ` + "`" + problem[1] + "`" + ` \|$`)
		if !row.MatchString(readme) {
			t.Errorf("the README's table has no row for %s with status %s", problem[1], problem[2])
		}
	}
}

// TestLayers holds the direction of the imports:
// tests -> caddymodule -> bearer -> tokensource -> tokenendpoint, tokenstore.
// The library knows nothing of Caddy, and does not import the tests. The fake
// provider imports only the standard library: it cannot share a mistake with
// what it tests, and adds little to the bench's process.
func TestLayers(t *testing.T) {
	const module = "github.com/caddy-bearer/caddy-bearer/"
	adapter := []string{"github.com/caddyserver/", "go.uber.org/zap", module + "caddymodule", module + "tests", module + "bench"}
	for pkg, banned := range map[string][]string{
		"tokensource/tokenendpoint": append(slices.Clip(adapter), module+"bearer", module+"tokensource"),
		"tokensource/tokenstore":    append(slices.Clip(adapter), module+"bearer", module+"tokensource"),
		"tokensource":               append(slices.Clip(adapter), module+"bearer", "github.com/redis/"),
		"bearer":                    append(slices.Clip(adapter), "github.com/redis/"),
		"caddymodule":               {module + "tests", module + "bench"},
		"tests/provider":            {"github.com/", "golang.org/", "go.uber.org/"},
	} {
		cmd := exec.Command("go", "list", "-deps", "./"+pkg)
		cmd.Dir = ".."
		cmd.Stderr = os.Stderr
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		for _, dep := range strings.Fields(string(out)) {
			for _, b := range banned {
				if dep != module+pkg && strings.HasPrefix(dep, b) {
					t.Errorf("%s depends on %s", pkg, dep)
				}
			}
		}
	}
}

// adaptError adapts a Caddyfile that is wrong, and returns what is said of it.
func adaptError(t *testing.T, text string) string {
	t.Helper()
	_, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(text), map[string]any{"filename": "Caddyfile"})
	if err == nil {
		t.Fatalf("adapted, though it is wrong:\n%s", text)
	}
	return err.Error()
}
