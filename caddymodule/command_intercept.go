package caddymodule

import (
	"cmp"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/spf13/cobra"
)

// environmentFlags are the flags of `caddy token env` and `caddy token run`.
type environmentFlags struct {
	adminFlags
	proxy, user, ca, caFile, roots, dir string
}

func (f *environmentFlags) register(cmd *cobra.Command) {
	f.adminFlags.register(cmd)
	cmd.Flags().StringVar(&f.proxy, "proxy", "", "The proxy's URL [of the running Caddy's first bearer_intercept]")
	cmd.Flags().StringVar(&f.user, "user", "", "A user for the proxy's URL: {http.bearer.proxy_user}")
	cmd.Flags().StringVar(&f.ca, "ca", "local", "The certificate authority of Caddy's pki app")
	cmd.Flags().StringVar(&f.caFile, "ca-file", "", "A file with the CA's certificate [asked of the running Caddy]")
	cmd.Flags().StringVar(&f.roots, "roots", "", "A file with the system's roots [looked for]")
	cmd.Flags().StringVar(&f.dir, "dir", "", "The folder for ca.pem and bundle.pem [caddy-bearer in the user's cache folder]")
}

func envCommand() *cobra.Command {
	var f environmentFlags
	cmd := &cobra.Command{
		Use:   "env",
		Short: "Prints the environment variables that lead an app's calls through bearer_intercept",
		Long: `Prints the variables for a POSIX shell: eval "$(caddy token env)".

It writes two files: ca.pem has the certificate of Caddy's CA, and bundle.pem has it
and the system's roots, because many variables replace the system's roots.

Some clients obey none of the variables, and call the provider directly, without a
token. caddy token intercepted shows whose calls come.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			variables, err := f.variables()
			if err != nil {
				return err
			}
			for _, v := range variables {
				fmt.Fprintf(cmd.OutOrStdout(), "export %s=%s\n", v.name, shellQuoted(v.value))
			}
			for _, hint := range environmentHints(variables) {
				fmt.Fprintln(cmd.OutOrStdout(), "# "+hint)
			}
			return nil
		},
	}
	f.register(cmd)
	return cmd
}

func runCommand() *cobra.Command {
	var f environmentFlags
	cmd := &cobra.Command{
		Use:   "run -- COMMAND...",
		Short: "Runs a command whose calls go through bearer_intercept",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			variables, err := f.variables()
			if err != nil {
				return err
			}
			for _, v := range variables {
				if err := os.Setenv(v.name, v.value); err != nil {
					return err
				}
			}
			path, err := exec.LookPath(args[0])
			if err != nil {
				return err
			}
			// The command takes this process's place, and with it its signals.
			if err := syscall.Exec(path, args, os.Environ()); !errors.Is(err, errors.ErrUnsupported) {
				return fmt.Errorf("running %s: %w", path, err)
			}
			child := exec.CommandContext(cmd.Context(), path, args[1:]...) // Windows cannot replace a process
			child.Stdin, child.Stdout, child.Stderr = os.Stdin, os.Stdout, os.Stderr
			err = child.Run()
			if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
				os.Exit(exit.ExitCode())
			}
			return err
		},
	}
	f.register(cmd)
	return cmd
}

type variable struct{ name, value string }

// variables makes the two files, and returns what leads clients to the proxy and the
// files. Measured with the clients that the names belong to; see docs/interception.md.
func (f *environmentFlags) variables() ([]variable, error) {
	proxy, err := f.proxyURL()
	if err != nil {
		return nil, err
	}
	ca, bundle, err := f.files()
	if err != nil {
		return nil, err
	}
	var list []variable
	add := func(value string, names ...string) {
		for _, name := range names {
			list = append(list, variable{name, value})
		}
	}
	add(proxy, "HTTPS_PROXY", "https_proxy", "http_proxy")
	add(noProxy(), "NO_PROXY", "no_proxy")
	add("1", "NODE_USE_ENV_PROXY", "PERL_LWP_ENV_PROXY")
	add("basic", "GIT_HTTP_PROXY_AUTHMETHOD") // or git tells its user only if it is asked to
	add(ca, "NODE_EXTRA_CA_CERTS", "DENO_CERT")
	add(bundle, "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "AWS_CA_BUNDLE", "GIT_SSL_CAINFO",
		"GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", "PERL_LWP_SSL_CA_FILE", "WEBSOCKET_CLIENT_CA_BUNDLE")
	return list, nil
}

// noProxy is for this host, and for the hosts that the environment excepts already.
func noProxy() string {
	hosts := []string{"localhost", "127.0.0.1", "::1"}
	for _, text := range []string{os.Getenv("NO_PROXY"), os.Getenv("no_proxy")} {
		for host := range strings.SplitSeq(text, ",") {
			if host = strings.TrimSpace(host); host != "" && !slices.Contains(hosts, host) {
				hosts = append(hosts, host)
			}
		}
	}
	return strings.Join(hosts, ",")
}

// environmentHints are what no variable can say.
func environmentHints(variables []variable) []string {
	bundle, proxy := "", ""
	for _, v := range variables {
		switch v.name {
		case "SSL_CERT_FILE":
			bundle = v.value
		case "HTTPS_PROXY":
			proxy = v.value
		}
	}
	u, err := url.Parse(proxy)
	if err != nil {
		u = new(url.URL)
	}
	return []string{
		"PHP:  php -d curl.cainfo=" + shellQuoted(bundle),
		"wget: wget --ca-certificate=" + shellQuoted(bundle),
		fmt.Sprintf("Java: import ca.pem into a trust store, and -Dhttps.proxyHost=%s -Dhttps.proxyPort=%s -Djavax.net.ssl.trustStore=FILE -Djavax.net.ssl.trustStorePassword=PASSWORD", u.Hostname(), u.Port()),
		"Node before 22, stripe-node, aws-sdk for JavaScript, twilio-node, aiohttp, stripe-python: they obey none of these; set their base URL",
	}
}

// proxyURL returns the proxy's URL, with the user in it.
func (f *environmentFlags) proxyURL() (string, error) {
	text := f.proxy
	if text == "" {
		var servers map[string]struct {
			Listen []string          `json:"listen"`
			Routes []json.RawMessage `json:"routes"`
		}
		if err := f.get("/config/apps/http/servers", &servers); err != nil {
			return "", err
		}
		for _, name := range slices.Sorted(maps.Keys(servers)) {
			server := servers[name]
			if slices.ContainsFunc(server.Routes, func(r json.RawMessage) bool { return strings.Contains(string(r), `"handler":"bearer_intercept"`) }) && len(server.Listen) > 0 {
				text = listenURL(server.Listen[0])
				break
			}
		}
		if text == "" {
			return "", errNoIntercept
		}
	}
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" || u.Port() == "" {
		return "", fmt.Errorf("--proxy %q: expected a URL with a port, such as http://127.0.0.1:3128", text)
	}
	if f.user != "" {
		// bearer_intercept does not look at the password, but clients want one: without it
		// git asks for it, and wget, urllib, requests and boto3 leave the user out
		u.User = url.UserPassword(f.user, "any")
	}
	return u.String(), nil
}

// listenURL returns the URL of a listen address, for clients on this host.
func listenURL(listen string) string {
	addr, err := caddy.ParseNetworkAddress(listen)
	if err != nil || addr.IsUnixNetwork() {
		return ""
	}
	host := addr.Host
	if host == "" || host == "0.0.0.0" || host == "::" {
		host = "127.0.0.1"
	}
	return "http://" + net.JoinHostPort(host, fmt.Sprint(addr.StartPort))
}

// systemBundles are where systems keep their roots in one file, as in package
// crypto/x509.
var systemBundles = []string{
	"/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem",
	"/etc/pki/tls/cacert.pem", "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", "/etc/ssl/cert.pem",
}

// files writes ca.pem and bundle.pem, and returns their names.
func (f *environmentFlags) files() (ca, bundle string, err error) {
	root, err := f.root()
	if err != nil {
		return "", "", err
	}
	roots, err := f.systemRoots()
	if err != nil {
		return "", "", err
	}
	dir := f.dir
	if dir == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			return "", "", fmt.Errorf("%w: expected --dir", err)
		}
		dir = filepath.Join(cache, "caddy-bearer")
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return "", "", err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // apps of other users read it
		return "", "", err
	}
	ca, bundle = filepath.Join(dir, "ca.pem"), filepath.Join(dir, "bundle.pem")
	if err := replaceFile(ca, root); err != nil {
		return "", "", err
	}
	return ca, bundle, replaceFile(bundle, slices.Concat(roots, []byte("\n"), root))
}

// replaceFile writes a file for everyone to read, at one go: an app may be reading it.
func replaceFile(name string, text []byte) error {
	temp, err := os.CreateTemp(filepath.Dir(name), ".*")
	if err != nil {
		return err
	}
	_, err = temp.Write(text)
	err = cmp.Or(err, temp.Chmod(0o644), temp.Close())
	if err == nil {
		err = os.Rename(temp.Name(), name)
	}
	if err != nil {
		_ = os.Remove(temp.Name())
	}
	return err
}

// root returns the certificate of Caddy's CA.
func (f *environmentFlags) root() ([]byte, error) {
	var text []byte
	from := f.caFile
	if f.caFile != "" {
		var err error
		if text, err = os.ReadFile(f.caFile); err != nil {
			return nil, err
		}
	} else {
		var info struct {
			Root string `json:"root_certificate"`
		}
		from = "Caddy's CA " + f.ca
		if err := f.get("/pki/ca/"+url.PathEscape(f.ca), &info); err != nil {
			return nil, err
		}
		text = []byte(info.Root)
	}
	if block, _ := pem.Decode(text); block == nil || block.Type != "CERTIFICATE" {
		return nil, fmt.Errorf("%s: no certificate: expected one in PEM", from)
	}
	return text, nil
}

func (f *environmentFlags) systemRoots() ([]byte, error) {
	if f.roots != "" {
		return os.ReadFile(f.roots)
	}
	for _, name := range systemBundles {
		if text, err := os.ReadFile(name); err == nil {
			return text, nil
		}
	}
	return nil, errors.New("the system's roots are not in a known place: expected --roots with a PEM file")
}

func shellQuoted(text string) string { return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'" }

func interceptedCommand() *cobra.Command {
	var f adminFlags
	asJSON := false
	cmd := &cobra.Command{
		Use:   "intercepted",
		Short: "Shows whose calls come through bearer_intercept",
		Long: `Shows, for each caller and host, what has come since Caddy started.

Clients that do not obey the proxy variables call the provider directly: then there is
no line for them. A line whose requests stay 0 is a client that does not trust the CA.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var answer interceptedAnswer
			if err := f.get(adminPath+"intercepted", &answer); err != nil {
				return err
			}
			if asJSON {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(answer)
			}
			return printIntercepted(cmd.OutOrStdout(), answer.Intercepted, time.Now())
		},
	}
	f.register(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "Print JSON")
	return cmd
}

// interceptedAnswer is what the admin API answers.
type interceptedAnswer struct {
	Intercepted []seenRow `json:"intercepted"`
}

// printable is text that cannot move what stands beside it, nor speak to the terminal.
func printable(text string) string {
	if quoted := strconv.QuoteToASCII(text); quoted != `"`+text+`"` || strings.Contains(text, " ") {
		return quoted
	}
	return text
}

func printIntercepted(w io.Writer, rows []seenRow, now time.Time) error {
	if len(rows) == 0 {
		_, err := fmt.Fprintln(w, "Nothing has come to bearer_intercept. Does the app obey HTTPS_PROXY?")
		return err
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "HOST\tROUTE\tCALLER\tPROXY USER\tCONNECTS\tREQUESTS\tTUNNELS\tREFUSED\tNOT TRUSTED\tLAST")
	for _, r := range rows {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%d\t%d\t%d\t%d\t%d\t%v ago\n", r.Host, cmp.Or(r.Route, "-"), r.Caller, cmp.Or(printable(r.ProxyUser), "-"),
			r.Seen[seenConnect], r.Seen[seenRequest], r.Seen[seenTunnel], r.Seen[seenRefused], r.Seen[seenDistrusted], now.Sub(r.Last).Round(time.Second))
	}
	return t.Flush()
}
