package bearer

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/caddy-bearer/caddy-bearer/internal/plainhttp"
	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenendpoint"
)

// Upstream says where requests go, where that depends on the token or the key. Some
// providers say it with the token (Salesforce's instance_url).
type Upstream struct {
	// URL is the API's base URL. In it, {token.NAME} is a member of the response that
	// brought the token, and {key.NAME} a value of the key. The request's own path is
	// appended to the base's path, and its query is kept. Required.
	URL tokenendpoint.Template
	// AllowHosts are the hosts that the URL may have: names, with a port unless it is
	// the scheme's own. A first label of * stands for any one label. A URL whose host
	// has no variable needs none. The token goes nowhere else, so a provider's
	// response, or a request's key, cannot send it to a stranger.
	AllowHosts []string
}

// target is an Upstream that was checked.
type target struct {
	url       tokenendpoint.Template
	fixedHost bool
	hosts     []string
	allowHTTP []string
}

// newTarget checks the settings. Its variables must exist.
func newTarget(u *Upstream, keyNames, allowHTTP []string) (*target, error) {
	t := &target{url: u.URL, hosts: u.AllowHosts, allowHTTP: allowHTTP}
	if err := checkVariables(t.url, keyNames); err != nil {
		return nil, err
	}
	if slices.Contains(t.url.Variables(), "token") {
		return nil, errors.New("{token} would be shown in the URL: expected {token.NAME}")
	}
	t.fixedHost = fixedHost(t.url.Text())
	if !t.fixedHost && len(t.hosts) == 0 {
		return nil, errors.New("its host depends on the token or the key, so a wrong value would send the token to a stranger: expected allow_hosts")
	}
	for _, host := range t.hosts {
		if err := CheckHostPattern(host); err != nil {
			return nil, fmt.Errorf("allow_hosts: %w", err)
		}
	}
	return t, nil
}

// fixedHost reports whether a URL with variables has none up to the end of its host.
func fixedHost(text string) bool {
	before, _, varies := strings.Cut(text, "{")
	_, rest, ok := strings.Cut(before, "://")
	return !varies || (ok && strings.Contains(rest, "/"))
}

// CheckHostPattern reports a pattern for hosts that is not a name, with a port or
// without, whose first label may be *.
func CheckHostPattern(pattern string) error {
	bad := func(why string) error {
		return fmt.Errorf("%q: %s: expected a host's name, such as api.acme.example or *.acme.example, with a port if it is not the scheme's own", pattern, why)
	}
	if strings.ContainsFunc(pattern, func(r rune) bool { return r > unicode.MaxASCII }) {
		return bad("not in ASCII, as names are sent (xn--...)")
	}
	name, port := splitPort(pattern)
	if n, err := strconv.ParseUint(port, 10, 16); strings.HasSuffix(pattern, ":") || port != "" && (err != nil || n == 0) {
		return bad("no such port")
	}
	if _, err := netip.ParseAddr(name); err == nil {
		return nil
	}
	if rest := strings.TrimPrefix(name, "*."); !HostName(rest) || pattern != name && pattern != name+":"+port {
		return bad("not a name")
	}
	return nil
}

// HostName reports whether text can be a host's name (RFC 1123), in ASCII and without a
// dot at its end. Underscores, which some hosts have, are taken.
func HostName(text string) bool {
	if text == "" || len(text) > 253 {
		return false
	}
	for label := range strings.SplitSeq(text, ".") {
		if label == "" || len(label) > 63 || strings.ContainsFunc(label, func(r rune) bool {
			return r != '-' && r != '_' && (r < '0' || r > '9') && (r|0x20 < 'a' || r|0x20 > 'z')
		}) {
			return false
		}
	}
	return true
}

// MatchHost reports whether a host matches a pattern, see [Upstream.AllowHosts]. port
// is empty where it is the scheme's own.
func MatchHost(pattern, host, port string) bool {
	name, wantPort := splitPort(pattern)
	host = strings.TrimSuffix(host, ".")
	if wantPort != port {
		return false
	}
	if suffix, ok := strings.CutPrefix(name, "*."); ok {
		label, rest, found := strings.Cut(host, ".")
		return found && label != "" && strings.EqualFold(rest, suffix)
	}
	return strings.EqualFold(name, host)
}

// splitPort splits a port off a pattern, if it has one. Brackets of an IPv6 address are
// removed.
func splitPort(pattern string) (name, port string) {
	u := url.URL{Host: pattern}
	return u.Hostname(), u.Port()
}

// ParseBaseURL reads an API's base URL: a scheme, a host and a path. Tokens go to
// allowHTTP's hosts over plain http, besides loopback. The error does not quote the URL,
// which may have a password or a value of a key in it.
func ParseBaseURL(text string, allowHTTP []string) (*url.URL, error) {
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Host == "" || u.Opaque != "" || (u.Scheme != "https" && u.Scheme != "http"):
		return nil, errors.New("expected a URL, such as https://api.acme.example/v2")
	case u.User != nil:
		return nil, errors.New("a user before the host: expected scheme, host and path")
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return nil, errors.New("a query or a fragment: expected scheme, host and path")
	case HasDotSegment(u.EscapedPath()):
		return nil, errors.New("a . or .. segment in the path")
	case u.Scheme == "http" && !plainhttp.Allowed(u.Hostname(), allowHTTP):
		return nil, errors.New("http would send tokens in the clear: expected https, a loopback address, or the host's name in allow_http")
	}
	return u, nil
}

// resolve returns the base URL for a token and a key. The error quotes no value: they
// are the provider's or a person's.
func (t *target) resolve(lookup func(name string) (string, bool)) (*url.URL, error) {
	text, err := t.url.Expand(func(name string) (string, bool) {
		value, ok := lookup(name)
		if t.fixedHost {
			value = url.PathEscape(value)
		}
		return value, ok && value != ""
	})
	if err != nil {
		return nil, err
	}
	u, err := ParseBaseURL(text, t.allowHTTP)
	if err != nil {
		return nil, fmt.Errorf("upstream: %w", err)
	}
	port := u.Port()
	if (u.Scheme == "https" && port == "443") || (u.Scheme == "http" && port == "80") {
		port = ""
	}
	if !t.fixedHost && !slices.ContainsFunc(t.hosts, func(p string) bool { return MatchHost(p, u.Hostname(), port) }) {
		return nil, errors.New("the upstream's host is not among allow_hosts")
	}
	return u, nil
}

// direct sends a request to the base URL: JoinURL, with the base's host in Host.
func (t *target) direct(out *http.Request, lookup func(name string) (string, bool)) error {
	base, err := t.resolve(lookup)
	if err != nil {
		return err
	}
	u, err := JoinURL(base, out.URL)
	if err != nil {
		return err
	}
	out.URL, out.Host = u, ""
	return nil
}

// ErrPath says that a request's path could leave the base path.
var ErrPath = errors.New("the path has a . or .. segment, and could leave the upstream's path")

// JoinURL returns the URL of a request under a base URL: the base's scheme and host,
// the base's path and then the request's, and the request's query as it is. A request's
// path with a . or .. segment could leave the base's path, so under one it is [ErrPath].
func JoinURL(base, request *url.URL) (*url.URL, error) {
	u := new(url.URL)
	*u = *request
	u.Scheme, u.Host, u.User, u.Opaque = base.Scheme, base.Host, nil, ""
	if base.Path == "" || base.Path == "/" {
		return u, nil
	}
	if HasDotSegment(request.EscapedPath()) {
		return nil, ErrPath
	}
	path, raw := strings.TrimSuffix(base.Path, "/"), strings.TrimSuffix(base.EscapedPath(), "/")
	if u.Path != "" && !strings.HasPrefix(u.Path, "/") {
		path, raw = path+"/", raw+"/"
	}
	u.Path, u.RawPath = path+request.Path, raw+request.EscapedPath()
	if request.RawPath == "" && base.RawPath == "" {
		u.RawPath = ""
	}
	return u, nil
}

// HasDotSegment reports whether an escaped path has a segment . or .., in a spelling
// that some server may read so.
func HasDotSegment(escaped string) bool {
	if !strings.Contains(escaped, ".") && !strings.Contains(escaped, "%") {
		return false
	}
	path := escaped
	for range 2 { // some servers unescape twice
		path = unescape(path)
	}
	return slices.ContainsFunc(strings.FieldsFunc(path, func(r rune) bool { return r == '/' || r == '\\' }), func(segment string) bool {
		segment, _, _ = strings.Cut(segment, ";")
		return segment == "." || segment == ".."
	})
}
