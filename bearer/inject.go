package bearer

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/textproto"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/net/http/httpguts"

	"github.com/caddy-bearer/caddy-bearer/tokensource"

	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenendpoint"
)

// Injection is a header, query parameter or cookie that the transport puts into
// each request. Exactly one of Header, Query and Cookie is set.
type Injection struct {
	// The name of a header. It must not belong to the connection, as Host does.
	Header string
	// The name of a query parameter.
	Query string
	// The name of a cookie.
	Cookie string
	// The value, in which {token} is the token and {key.NAME} a value of the key.
	// {token.NAME} is a member of the response that brought the token, by its path:
	// user.tenant, tenants.0, id_token. If the response has no such member, the
	// injection is left out, see [tokensource.Source.Keep]. Required.
	Value string
	// Template is Value after a program has resolved it. It may hold secrets, which
	// are not parsed as a template again. Default: Value, parsed.
	Template tokenendpoint.Template
}

func (in *Injection) name() string { return in.Header + in.Query + in.Cookie }

// kind names the injection in errors.
func (in *Injection) kind() string {
	switch {
	case in.Query != "":
		return "query " + in.Query
	case in.Cookie != "":
		return "cookie " + in.Cookie
	}
	return "header " + in.Header
}

// Check reports a wrong name or a missing value. It cannot check the variables in
// the value, because they depend on the source; [Transport.Init] does that.
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

// template returns the parsed value. Its variables must exist.
func (in *Injection) template(keyNames []string) (tokenendpoint.Template, error) {
	t := in.Template
	if t.IsZero() {
		var err error
		if t, err = tokenendpoint.ParseTemplate(in.Value); err != nil {
			return t, err
		}
	}
	return t, checkVariables(t, keyNames)
}

// checkVariables reports a variable that is neither the token's nor one of the key's.
func checkVariables(t tokenendpoint.Template, keyNames []string) error {
	for _, name := range t.Variables() {
		key, isKey := strings.CutPrefix(name, "key.")
		switch {
		case name == "token", strings.HasPrefix(name, "token."), isKey && slices.Contains(keyNames, key):
		case isKey:
			return fmt.Errorf("{%s}: the source has no such key", name)
		default:
			return fmt.Errorf("{%s}: expected {token}, {token.NAME} or {key.NAME}; a brace that is meant is written \\{", name)
		}
	}
	return nil
}

// injector puts tokens into requests.
type injector struct {
	// plain: the token goes into Authorization as Bearer. The token has that header
	// ready, so the common case allocates nothing for it.
	plain    bool
	items    []injected
	keyNames []string
	usesKey  bool // a value of the key goes into the request
	// inPlace: a request keeps its URL and its cookies, so that one that is ours needs
	// no copy.
	inPlace bool
	// queries are the names of injected query parameters.
	queries []string
	// remove are the names of headers that must not come from the app. twins are
	// those that may, but not in another spelling nor as a trailer.
	remove, twins []string
	// members are the members of the token's response that values refer to.
	members []string
	// target is where requests go; nil: where their own URL says.
	target *target
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
		ij.uses(variables)
		if item.Header != "" {
			item.Header = textproto.CanonicalMIMEHeaderKey(item.Header)
			ij.remove = append(ij.remove, item.Header)
		}
		switch {
		case item.Query != "":
			ij.queries = append(ij.queries, item.Query)
		case item.Cookie != "":
			ij.twins = []string{"Cookie"}
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
	ij.inPlace = ij.queries == nil && ij.twins == nil
	return ij, nil
}

// uses notes what variables of values refer to.
func (ij *injector) uses(variables []string) {
	for _, name := range variables {
		if member, ok := strings.CutPrefix(name, "token."); ok {
			ij.members = append(ij.members, member)
		}
		ij.usesKey = ij.usesKey || strings.HasPrefix(name, "key.")
	}
}

// goTo makes a target the one of all requests.
func (ij *injector) goTo(t *target) {
	ij.target, ij.inPlace = t, false
	ij.uses(t.url.Variables())
}

// copyRequest returns a copy of the request whose headers may be changed.
func copyRequest(req *http.Request) *http.Request {
	out := new(http.Request)
	*out = *req
	out.Header = maps.Clone(req.Header)
	return out
}

// inject puts the token into a request.
func (ij *injector) inject(out *http.Request, token *tokensource.Token, key []string) error {
	if out.Header == nil {
		out.Header = make(http.Header, 1)
	}
	for _, name := range ij.remove {
		delete(out.Header, name)
	}
	ij.removeSpellings(out.Header)
	if _, upgrades := out.Header["Upgrade"]; upgrades {
		removeH2C(out.Header)
	}
	if ij.target != nil {
		if err := ij.target.direct(out, func(name string) (string, bool) { return ij.variable(name, token, key) }); err != nil {
			return err
		}
	}
	if ij.plain {
		token.SetAuthHeader(out)
	}
	for i := range ij.items {
		if err := ij.put(out, &ij.items[i], token, key); err != nil {
			return err
		}
	}
	return nil
}

// removeSpellings removes other spellings of the removed headers, such as
// Authorization_ and PROXY_AUTHORIZATION. Servers that map headers to variables
// in the way of CGI take those for the real ones. Most names cannot be such a
// spelling and cost only the first comparison.
func (ij *injector) removeSpellings(h http.Header) {
	for name := range h {
		if strings.Contains(name, "_") || strings.HasSuffix(name, "-") || strings.HasPrefix(name, "-") {
			if ij.removes(name) {
				delete(h, name)
			}
		}
	}
}

// removeH2C removes an upgrade to HTTP/2 (h2c, which RFC 9113 has abandoned). After it,
// the app would send further requests on that connection, past the sidecar and without
// a token.
func removeH2C(h http.Header) {
	for _, line := range h["Upgrade"] {
		for _, protocol := range strings.Split(line, ",") {
			if name, _, _ := strings.Cut(strings.TrimSpace(protocol), "/"); strings.EqualFold(name, "h2c") || strings.EqualFold(name, "HTTP") {
				delete(h, "Upgrade")
				delete(h, "Http2-Settings")
				delete(h, "Connection") // it names what was removed
				return
			}
		}
	}
}

// removes reports whether a header of this name must not come from the app. As in
// CGI, _ and - are the same.
func (ij *injector) removes(name string) bool {
	plain := strings.Trim(strings.ReplaceAll(name, "_", "-"), "-")
	same := func(r string) bool { return strings.EqualFold(r, plain) }
	return slices.ContainsFunc(ij.remove, same) || slices.ContainsFunc(ij.twins, same)
}

// captureTrailer gives the body a trailer map of its own, without the removed
// headers. The request's map must not be changed. It gets its values only when
// the body has been read to its end, so the body copies and cleans them then.
func (ij *injector) captureTrailer(req *http.Request, body *capturedBody) {
	if body == nil || req.Trailer == nil {
		return
	}
	from, trailer := req.Trailer, maps.Clone(req.Trailer)
	ij.cleanTrailer(trailer) // the names are announced before the body
	body.trailer = trailer
	body.atEnd = func() {
		maps.Copy(trailer, from)
		ij.cleanTrailer(trailer)
	}
}

// cleanTrailer removes trailers that have the name of a removed header. Some
// servers merge trailers into the headers, so such a trailer could replace the
// token.
func (ij *injector) cleanTrailer(trailer http.Header) {
	for name := range trailer {
		if ij.removes(name) {
			delete(trailer, name)
		}
	}
}

// variable returns the value of a variable of a template: {token}, {token.NAME} or
// {key.NAME}.
func (ij *injector) variable(name string, token *tokensource.Token, key []string) (string, bool) {
	if name == "token" {
		return token.AccessToken(), true
	}
	if member, ok := strings.CutPrefix(name, "token."); ok {
		return token.Field(member)
	}
	if i := slices.Index(ij.keyNames, strings.TrimPrefix(name, "key.")); i >= 0 && i < len(key) {
		return key[i], true
	}
	return "", false
}

// put puts one injection into the request. If the response that brought the token
// lacks a member, the injection is left out, but one that holds the token itself
// is an error: the request would go out without a token.
func (ij *injector) put(out *http.Request, item *injected, token *tokensource.Token, key []string) error {
	missing := false
	value, err := item.value.Expand(func(name string) (string, bool) {
		v, ok := ij.variable(name, token, key)
		if !ok && strings.HasPrefix(name, "token.") {
			missing = true
			return "", true
		}
		return v, ok
	})
	switch {
	case err != nil:
		return err
	case missing && slices.Contains(item.value.Variables(), "token"):
		return fmt.Errorf("%s: its value needs a member that the token's response does not have", item.kind())
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

// cookieValue reports whether a cookie may have the value (RFC 6265, section
// 4.1.1). Another value could end the cookie and begin one of its own.
func cookieValue(value string) bool {
	return !strings.ContainsFunc(value, func(r rune) bool {
		return r <= ' ' || r > '~' || strings.ContainsRune("\",;\\", r)
	})
}

// setQuery appends a parameter to the app's own and removes the app's parameters
// of that name. It does not use url.Values, which would sort and re-encode the
// others: an API may depend on their order and spelling.
func setQuery(out *http.Request, name, value string) {
	u := *out.URL
	// A server would take what follows a # for a fragment, and ours with it.
	u.RawQuery = strings.ReplaceAll(removeParam(u.RawQuery, name), "#", "%23")
	if u.RawQuery != "" {
		u.RawQuery += "&"
	}
	u.RawQuery += url.QueryEscape(name) + "=" + url.QueryEscape(value)
	out.URL = &u
}

// removeParam removes the parameters from a query that a server may take for one of
// that name. The others keep their order and spelling.
func removeParam(query, name string) string {
	name = looseName(name)
	return removePairs(query, "&;#", func(raw, _ string) bool { return looseName(looseUnescape(raw)) == name })
}

// setCookie appends a cookie to the app's own and removes the app's cookies that a
// server may take for one of that name. The others keep their order and spelling.
func setCookie(out *http.Request, name, value string) {
	loose := looseName(name)
	var kept []string
	for _, line := range out.Header["Cookie"] {
		line = removePairs(line, ";,", func(raw, _ string) bool {
			return looseName(looseUnescape(strings.Trim(strings.TrimSpace(raw), `"`))) == loose
		})
		if line = strings.Trim(line, " ;"); line != "" {
			kept = append(kept, line)
		}
	}
	out.Header["Cookie"] = []string{strings.Join(append(kept, name+"="+value), "; ")}
}

// removePairs removes pairs name=value from a list, and the separators before them.
func removePairs(list, separators string, remove func(name, value string) bool) string {
	var b strings.Builder
	for len(list) > 0 {
		separator := ""
		if strings.Contains(separators, list[:1]) {
			separator, list = list[:1], list[1:]
		}
		end := strings.IndexAny(list, separators)
		if end < 0 {
			end = len(list)
		}
		pair := list[:end]
		list = list[end:]
		if remove(cutPair(pair)) {
			continue
		}
		if b.Len() > 0 {
			b.WriteString(separator)
		}
		b.WriteString(pair)
	}
	return b.String()
}

func cutPair(pair string) (name, value string) {
	name, value, _ = strings.Cut(pair, "=")
	return name, value
}

// looseName returns a name as servers read it that are lenient: ASP.NET ignores case;
// PHP ignores leading spaces, reads . and space as _, takes name[] and name[0] for
// elements of name, and reads a [ that is not closed as _.
func looseName(name string) string {
	name, _, _ = strings.Cut(name, "\x00")
	name = strings.TrimSpace(name)
	if before, rest, ok := strings.Cut(name, "["); ok && strings.Contains(rest, "]") {
		name = before
	} else if ok {
		name = before + "_" + rest
	}
	return strings.ToLower(underscores.Replace(name))
}

var underscores = strings.NewReplacer(".", "_", " ", "_")

// looseUnescape is unescape for the names of a form, in which + is a space.
func looseUnescape(text string) string { return unescape(strings.ReplaceAll(text, "+", " ")) }

// unescape decodes the escapes that are well-formed, with IIS's %uXXXX among them, and
// leaves others as they are.
func unescape(text string) string {
	if !strings.Contains(text, "%") {
		return text
	}
	return escapes.ReplaceAllStringFunc(text, func(escape string) string {
		digits := strings.TrimPrefix(strings.TrimPrefix(strings.ToLower(escape), "%"), "u")
		n, err := strconv.ParseUint(digits, 16, 32)
		if err != nil || n > 0x7f { // no name that is injected has other characters
			return escape
		}
		return string(rune(n))
	})
}

var escapes = regexp.MustCompile(`%(?:[0-9A-Fa-f]{2}|[uU][0-9A-Fa-f]{4})`)
