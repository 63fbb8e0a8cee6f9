package caddymodule

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io/fs"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenendpoint"
)

// resolver turns configured text into templates. It reads the environment and most
// files once, when the config is loaded. The templates keep only what each token
// call needs anew: the key's values, the time, and files that may be replaced. The
// values that were read go into a sum, so that a changed value counts as a changed
// setting.
type resolver struct {
	repl     *caddy.Replacer
	keyNames []string
	sum      hash.Hash
	files    fileList // the files that are read for each call
	// watches keep what was made of TLS files up to date. They run as long as the
	// source does; see liveTLS.
	watches []func(ctx context.Context, log *slog.Logger, replaced func())
}

// requestPlaceholderHelp names the one option that may read the request.
const requestPlaceholderHelp = "requests are read by `key` alone: write `key NAME {%s}` in the token_source, and {key.NAME} here"

// keeps says which placeholders, besides {key.NAME}, remain in a template for each
// token call to fill in. The others are resolved when the config is loaded.
type keeps uint8

const (
	keepsTime  keeps = 1 << iota // {time.now.*}
	keepsFiles                   // {file.*}

	keepsNone keeps = 0
	keepsAll        = keepsTime | keepsFiles
)

// template resolves {env.*}, {file.*} and Caddy's other global placeholders in text,
// but for those that it keeps. {key.NAME} remains, if there is such a key.
func (r *resolver) template(text string, keep keeps) (tokenendpoint.Template, error) {
	t, err := tokenendpoint.ParseTemplate(text)
	if err != nil {
		return t, err
	}
	return t.Resolve(func(name string) (string, bool, error) {
		switch {
		case keep&keepsFiles != 0 && strings.HasPrefix(name, "file."):
			return "", false, r.live(name)
		case keep&keepsTime != 0 && isTime(name):
			if times[name] == nil {
				return "", false, fmt.Errorf("unknown placeholder {%s}: expected one of {%s}", name, strings.Join(slices.Sorted(maps.Keys(times)), "}, {"))
			}
			return "", false, nil
		}
		return r.resolve(name)
	})
}

// live keeps a file's placeholder, so that each call reads the file. The file must be
// readable now. Only its name goes into the sum: a new content must not make another
// source, which would lose what this one has learned.
func (r *resolver) live(name string) error {
	path := strings.TrimPrefix(name, "file.")
	if _, err := readLiveFile(path); err != nil {
		return err
	}
	if r.files == nil {
		r.files = make(fileList)
	}
	r.files.add(path)
	if r.sum != nil {
		fmt.Fprintf(r.sum, "%d:%s", len(name), name)
	}
	return nil
}

// times are Caddy's placeholders for the time, in Caddy's formats. They are the only
// global placeholders whose value changes.
var times = map[string]func(now time.Time) string{
	"time.now":            func(now time.Time) string { return caddy.ToString(now) },
	"time.now.http":       func(now time.Time) string { return now.UTC().Format(http.TimeFormat) },
	"time.now.rfc3339":    func(now time.Time) string { return now.Format(time.RFC3339) },
	"time.now.common_log": func(now time.Time) string { return now.Format("02/Jan/2006:15:04:05 -0700") },
	"time.now.year":       func(now time.Time) string { return strconv.Itoa(now.Year()) },
	"time.now.unix":       func(now time.Time) string { return strconv.FormatInt(now.Unix(), 10) },
	"time.now.unix_ms":    func(now time.Time) string { return strconv.FormatInt(now.UnixMilli(), 10) },
}

func isTime(name string) bool {
	first, _, _ := strings.Cut(name, ".")
	return first == "time"
}

// callVars returns the variables of one token call: the contents of files, and the
// time. All placeholders in one call get the same time.
func callVars() tokenendpoint.Lookup {
	now := time.Now()
	return func(name string) (string, bool) {
		if path, ok := strings.CutPrefix(name, "file."); ok {
			text, err := readLiveFile(path)
			return text, err == nil
		}
		write, ok := times[name]
		if !ok {
			return "", false
		}
		return write(now), true
	}
}

// plain is template for text that must be complete when the config is loaded.
func (r *resolver) plain(text string) (string, error) {
	t, err := r.template(text, keepsNone)
	if err != nil {
		return "", err
	}
	plain, err := t.Expand(func(string) (string, bool) { return "", false })
	if err != nil {
		return "", fmt.Errorf("%w when the config is loaded: expected text without {key.*}", err)
	}
	return plain, nil
}

func (r *resolver) resolve(name string) (value string, known bool, err error) {
	if key, ok := strings.CutPrefix(name, "key."); ok {
		if slices.Contains(r.keyNames, key) {
			return "", false, nil
		}
		if len(r.keyNames) == 0 {
			return "", false, fmt.Errorf("{%s}: the token_source has no `key`: expected one named %q", name, key)
		}
		return "", false, fmt.Errorf("{%s}: no such key: expected one of %s", name, strings.Join(r.keyNames, ", "))
	}
	value, err = lookupGlobal(r.repl, name)
	if err != nil {
		return "", false, err
	}
	if r.sum != nil {
		fmt.Fprintf(r.sum, "%d:%s%d:%s", len(name), name, len(value), value)
	}
	return value, true, nil
}

// lookupGlobal returns the value of a placeholder that needs no request. An empty
// value is an error: with an empty secret, Caddy would start and the token calls
// would fail later.
func lookupGlobal(repl *caddy.Replacer, name string) (string, error) {
	switch {
	case strings.HasPrefix(name, "env."):
		if value := os.Getenv(strings.TrimPrefix(name, "env.")); value != "" {
			return value, nil
		}
		return "", fmt.Errorf("{%s}: the environment variable is empty or not set: expected a value", name)
	case strings.HasPrefix(name, "file."):
		return readSecretFile(strings.TrimPrefix(name, "file."))
	case isTime(name):
		return "", fmt.Errorf("{%s} changes from call to call: expected it in a grant's token_url, param or header", name)
	case isRequestPlaceholder(name):
		return "", fmt.Errorf("{%s} is a request placeholder: "+requestPlaceholderHelp, name, name)
	}
	value, ok := repl.Get(name)
	text := caddy.ToString(value)
	if !ok || text == "" {
		return "", fmt.Errorf("unknown placeholder {%s}: expected {env.NAME}, {file.PATH} or {key.NAME}; a brace that is meant is written \\{", name)
	}
	return text, nil
}

const maxSecretFile = 1 << 20

func readSecretFile(name string) (string, error) {
	b, err := os.ReadFile(filepath.Clean(name))
	var pe *fs.PathError
	switch {
	case errors.As(err, &pe):
		return "", fmt.Errorf("{file.%s}: the file cannot be read: %w", name, pe.Err)
	case err != nil:
		return "", fmt.Errorf("{file.%s}: the file cannot be read: %w", name, err)
	case len(b) > maxSecretFile:
		return "", fmt.Errorf("{file.%s}: the file is too long: expected at most 1 MiB", name)
	}
	text := strings.TrimSuffix(strings.TrimSuffix(string(b), "\n"), "\r")
	if text == "" {
		return "", fmt.Errorf("{file.%s}: the file is empty: expected a value", name)
	}
	return text, nil
}

// isRequestPlaceholder recognizes Caddy's request placeholders and their short forms
// in a Caddyfile.
func isRequestPlaceholder(name string) bool {
	first, _, _ := strings.Cut(name, ".")
	return slices.Contains([]string{
		"http", "header", "cookie", "labels", "path", "query", "re", "vars", "rp", "resp", "err", "file_match",
		"host", "hostport", "port", "method", "dir", "remote", "remote_host", "remote_port", "scheme", "uri", "uuid",
		"client_ip", "orig_method", "orig_uri", "orig_path", "tls_cipher", "tls_version", "upstream_hostport", "matched_path",
	}, first) || strings.HasPrefix(name, "tls_client")
}

func (r *resolver) digest() string { return hex.EncodeToString(r.sum.Sum(nil)) }
