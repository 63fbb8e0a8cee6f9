package bearer

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/textproto"
	"net/url"
	"slices"
	"strings"

	"golang.org/x/net/http/httpguts"

	"github.com/caddy-bearer/caddy-bearer/tokensource"

	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenendpoint"
)

// Injection is one thing that is put into a request. Exactly one of Header,
// Query and Cookie is set.
type Injection struct {
	// The name of a header. It must not be one of the connection's, such as Host.
	Header string
	// The name of a query parameter.
	Query string
	// The name of a cookie.
	Cookie string
	// What goes there: {token} is the token, {token.NAME} a member of the answer
	// that it came in, by its path (user.tenant, tenants.0, id_token; left out if the
	// answer had none, see [tokensource.Source.Keep]), {key.NAME} a value of the
	// key. Required.
	Value string
	// Template is Value as a program has resolved it: with secrets in it, which
	// are never read as a template. Default: Value, parsed.
	Template tokenendpoint.Template
}

func (in *Injection) name() string { return in.Header + in.Query + in.Cookie }

// kind names it in errors.
func (in *Injection) kind() string {
	switch {
	case in.Query != "":
		return "query " + in.Query
	case in.Cookie != "":
		return "cookie " + in.Cookie
	}
	return "header " + in.Header
}

// Check reports what is wrong with the name, or that there is no value. Which
// variables the value may have depends on the source; [Transport.Init] looks at
// them.
func (in *Injection) Check() error {
	set := 0
	for _, name := range []string{in.Header, in.Query, in.Cookie} {
		if name != "" {
			set++
		}
	}
	if set != 1 || in.Value == "" {
		return errors.New("expected a name of a header, a query parameter or a cookie, and a value")
	}
	if (in.Header != "" || in.Cookie != "") && !httpguts.ValidHeaderFieldName(in.name()) {
		return fmt.Errorf("%q: expected a header name", in.name())
	}
	if slices.Contains([]string{"Host", "Content-Length", "Transfer-Encoding", "Connection", "Upgrade", "Trailer", "Te"},
		textproto.CanonicalMIMEHeaderKey(in.Header)) {
		return fmt.Errorf("%s belongs to the connection: expected another header", in.Header)
	}
	return nil
}

// template returns what goes there.
func (in *Injection) template(keyNames []string) (tokenendpoint.Template, error) {
	t := in.Template
	if t.IsZero() {
		var err error
		if t, err = tokenendpoint.ParseTemplate(in.Value); err != nil {
			return t, err
		}
	}
	for _, name := range t.Variables() {
		key, isKey := strings.CutPrefix(name, "key.")
		switch {
		case name == "token", strings.HasPrefix(name, "token."), isKey && slices.Contains(keyNames, key):
		case isKey:
			return t, fmt.Errorf("{%s}: the source has no such key", name)
		default:
			return t, fmt.Errorf("{%s}: expected {token}, {token.NAME} or {key.NAME}; a brace that is meant is written \\{", name)
		}
	}
	return t, nil
}

// injector puts tokens into requests.
type injector struct {
	// plain: the token goes into Authorization as a Bearer, which is prepared
	// with the token.
	plain    bool
	items    []injected
	keyNames []string
	usesKey  bool // a value of the key goes into the request
	// remove are the names of headers that must not come from the app.
	remove []string
	// members are those of the token's response that values are made of.
	members []string
}

type injected struct {
	Injection
	value tokenendpoint.Template
}

const headerAuthorization = "Authorization"

func newInjector(list []Injection, keyNames, remove []string) (injector, error) {
	ij := injector{keyNames: keyNames, remove: []string{headerAuthorization, "Proxy-Authorization"}}
	hasToken := false
	for _, in := range list {
		if err := in.Check(); err != nil {
			return ij, fmt.Errorf("%s: %w", in.kind(), err)
		}
		value, err := in.template(keyNames)
		if err != nil {
			return ij, fmt.Errorf("%s: %w", in.kind(), err)
		}
		item := injected{in, value}
		variables := value.Variables()
		hasToken = hasToken || slices.Contains(variables, "token")
		for _, name := range variables {
			if member, ok := strings.CutPrefix(name, "token."); ok {
				ij.members = append(ij.members, member)
			}
		}
		ij.usesKey = ij.usesKey || slices.ContainsFunc(variables, func(v string) bool { return strings.HasPrefix(v, "key.") })
		if item.Header != "" {
			item.Header = textproto.CanonicalMIMEHeaderKey(item.Header)
			ij.remove = append(ij.remove, item.Header)
		}
		if item.Header == headerAuthorization && in.Value == "Bearer {token}" {
			ij.plain = true
			continue
		}
		ij.items = append(ij.items, item)
	}
	for _, name := range remove {
		ij.remove = append(ij.remove, textproto.CanonicalMIMEHeaderKey(name))
	}
	ij.plain = ij.plain || !hasToken
	return ij, nil
}

// inject returns the request with the token in it. The request itself is not
// changed: its sender may look at it afterwards, and use it again.
func (ij *injector) inject(req *http.Request, token *tokensource.Token, key []string) (*http.Request, error) {
	out := new(http.Request)
	*out = *req
	if out.Header = maps.Clone(req.Header); out.Header == nil {
		out.Header = make(http.Header, 1)
	}
	for _, name := range ij.remove {
		delete(out.Header, name)
	}
	ij.removeSpellings(out.Header)
	if ij.plain {
		token.SetAuthHeader(out)
	}
	for i := range ij.items {
		if err := ij.put(out, &ij.items[i], token, key); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// removeSpellings removes what a server behind CGI-like rules would take for
// one of the removed headers. Most names need no closer look.
func (ij *injector) removeSpellings(h http.Header) {
	for name := range h {
		if strings.Contains(name, "_") || strings.HasSuffix(name, "-") || strings.HasPrefix(name, "-") {
			if ij.removes(name) {
				delete(h, name)
			}
		}
	}
}

// removes reports whether a header of this name must not come from the app.
// '_' counts as '-', as in CGI; net/http has made the case uniform already.
func (ij *injector) removes(name string) bool {
	plain := strings.Trim(strings.ReplaceAll(name, "_", "-"), "-")
	return slices.ContainsFunc(ij.remove, func(r string) bool { return strings.EqualFold(r, plain) })
}

// captureTrailer has trailers go out of a map of the body's own: the request's
// must not be changed, and may hold what must not be sent. A server's request
// gets its trailers when the body has been read.
func (ij *injector) captureTrailer(req *http.Request, body *capturedBody) {
	if body == nil || req.Trailer == nil {
		return
	}
	trailer := maps.Clone(req.Trailer)
	ij.cleanTrailer(trailer) // announced
	body.trailer = trailer
	body.atEnd = func() {
		maps.Copy(trailer, req.Trailer)
		ij.cleanTrailer(trailer)
	}
}

// cleanTrailer removes what is in trailers under a removed header's name:
// servers were seen to merge trailers into headers. Trailers are known when
// the body has been read; declared ones are announced before that, by name.
func (ij *injector) cleanTrailer(trailer http.Header) {
	for name := range trailer {
		if ij.removes(name) {
			delete(trailer, name)
		}
	}
}

func (ij *injector) put(out *http.Request, item *injected, token *tokensource.Token, key []string) error {
	missing := false
	value, err := item.value.Expand(func(name string) (string, bool) {
		switch {
		case name == "token":
			return token.AccessToken(), true
		case strings.HasPrefix(name, "token."):
			v, ok := token.Field(strings.TrimPrefix(name, "token."))
			missing = missing || !ok
			return v, true
		}
		if i := slices.Index(ij.keyNames, strings.TrimPrefix(name, "key.")); i >= 0 && i < len(key) {
			return key[i], true
		}
		return "", false
	})
	switch {
	case err != nil:
		return err
	case missing && slices.Contains(item.value.Variables(), "token"):
		return fmt.Errorf("%s: the token's answer lacks a member that it is made of", item.kind())
	case missing:
		return nil
	}
	switch {
	case item.Header != "":
		if !httpguts.ValidHeaderFieldValue(value) {
			return fmt.Errorf("the value for header %s has characters that must not go there", item.Header)
		}
		out.Header[item.Header] = []string{value}
	case item.Query != "":
		setQuery(out, item.Query, value)
	default:
		if !cookieValue(value) {
			return fmt.Errorf("the value for cookie %s has characters that must not go there", item.Cookie)
		}
		setCookie(out, item.Cookie, value)
	}
	return nil
}

// cookieValue reports whether a value is one (RFC 6265, section 4.1.1).
func cookieValue(value string) bool {
	return !strings.ContainsFunc(value, func(r rune) bool {
		return r <= ' ' || r > '~' || strings.ContainsRune("\",;\\", r)
	})
}

// setQuery puts a parameter behind the app's own, whose order and spelling it
// leaves alone, less those of that name.
func setQuery(out *http.Request, name, value string) {
	u := *out.URL
	var kept []string
	for _, pair := range strings.Split(u.RawQuery, "&") {
		raw, _, _ := strings.Cut(pair, "=")
		if decoded, err := url.QueryUnescape(raw); pair != "" && (err != nil || decoded != name) {
			kept = append(kept, pair)
		}
	}
	u.RawQuery = strings.Join(append(kept, url.QueryEscape(name)+"="+url.QueryEscape(value)), "&")
	out.URL = &u
}

// setCookie puts a cookie behind the app's own, less those of that name.
func setCookie(out *http.Request, name, value string) {
	var kept []string
	for _, line := range out.Header["Cookie"] {
		for _, pair := range strings.Split(line, ";") {
			pair = strings.TrimSpace(pair)
			if n, _, _ := strings.Cut(pair, "="); pair != "" && strings.TrimSpace(n) != name {
				kept = append(kept, pair)
			}
		}
	}
	out.Header["Cookie"] = []string{strings.Join(append(kept, name+"="+value), "; ")}
}
