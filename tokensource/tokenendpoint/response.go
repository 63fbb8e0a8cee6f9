package tokenendpoint

import (
	"encoding/json"
	"errors"
	"mime"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Format is how a response is written.
type Format string

// The formats.
const (
	FormatAuto Format = "auto" // JSON or form, by looking
	FormatJSON Format = "json"
	FormatForm Format = "form"
	FormatText Format = "text" // the whole body is the token
)

// Response is what a token endpoint said, read but not yet judged.
type Response struct {
	AccessToken Secret
	// RefreshToken is empty when none was given.
	RefreshToken Secret
	TokenType    string
	// Expiry is what the response says of the token's end.
	Expiry Expiry
	// Fields are other scalar members by their dotted paths: the first few that are
	// short. [Response.Member] finds any.
	Fields []Field

	// member finds one in the decoded body. It is a function so that no print of a
	// Response shows that.
	member func(path string) (any, bool)
	call   Error // what was called; for [Response.Dead]
}

// Member returns the scalar member at a path, whatever its size, such as
// id_token, user.tenant or tenants.0. The response's refresh token is none: it is
// for the token endpoint alone.
func (r *Response) Member(path string) (string, bool) {
	for _, f := range r.Fields {
		if f.Name == path {
			return f.Value, true
		}
	}
	if r.member == nil {
		return "", false
	}
	value, _ := r.member(path)
	text, ok := scalarText(value)
	if !ok || (text != "" && text == r.RefreshToken.Reveal()) {
		return "", false
	}
	return text, true
}

// ErrDead says that a response brought a token that has expired already.
var ErrDead = errors.New("the response's token has expired already")

// Dead is the failure of a call whose response is no use, for its token has
// expired already. It passes: the endpoint's clock or its cache is wrong.
func (r *Response) Dead() *Error {
	e := r.call
	e.Class, e.Sent, e.Err = Transient, true, ErrDead
	return &e
}

// Field is one named value of a response.
type Field struct{ Name, Value string }

// ResponseOptions says how an endpoint's responses read. Its zero value is RFC 6749,
// section 5, taken with tolerance: the content type is not trusted.
type ResponseOptions struct {
	// Format. Default: FormatAuto.
	Format Format
	// Status lists the statuses that a response with a token may have.
	// Default: any 2xx.
	Status []int
	// AccessToken and RefreshToken are paths, the first that is there wins;
	// "header:NAME" reads a header, "cookie:NAME" a cookie that the response sets. A
	// scheme before the access token, "Bearer ", is not part of it.
	// Default: access_token, refresh_token.
	AccessToken  []string
	RefreshToken []string
	// ExpiresIn is a path like those, ExpiryKind what it counts.
	// Default: expires_in, ExpiryAuto.
	ExpiresIn  []string
	ExpiryKind ExpiryKind
	// ErrorWhen marks a response as an error, whatever its status.
	ErrorWhen []Matcher
	// Transient, Throttled and the [Meaning]s say what an error means, in this
	// order and before the response's own status and code do.
	Transient     []Matcher
	Throttled     []Matcher
	ConsentLost   []Matcher
	UserRefused   []Matcher
	ClientRefused []Matcher
	Permanent     []Matcher
}

// ErrBadToken says that a token could not go into a header, see [ValidToken].
var ErrBadToken = errors.New("the response's token has characters that must not go into a header")

var (
	errNotResponse = errors.New("the response is not readable as a token response")
	errNoToken     = errors.New("the response has no access token")
	errErrorWhen   = errors.New("the response is an error by error_when")
	errRedirect    = errors.New("the response is a redirect, which is not followed: expected the token endpoint itself")
)

// read judges a response. fail is filled in and returned when it brings no token.
func (r *ResponseOptions) read(fail *Error, res *http.Response, body []byte, secrets []string) (*Response, error) {
	doc := r.parse(res, body)
	inside := &wholeBody{doc, body}
	isError := AnyMatches(r.ErrorWhen, res.StatusCode, res.Header, inside)
	if r.accepts(res.StatusCode) && !isError {
		answer, err := r.response(res, body, doc)
		if err == nil {
			answer.member = func(path string) (any, bool) { return lookupPath(doc, path) }
			answer.call = *fail
			return answer, nil
		}
		fail.Err = err
	}
	code := errorCode(res.StatusCode, doc)
	fail.Class, fail.Meaning = r.classOf(res, inside, code)
	fail.Code = withoutSecrets(code, secrets)
	fail.Shape = shapeOf(res, doc, secrets)
	fail.RetryAfter = parseRetryAfter(res.Header.Get("Retry-After"), time.Now())
	switch {
	case isError:
		fail.Err = errErrorWhen
	case res.StatusCode >= 300 && res.StatusCode < 400:
		fail.Err = errRedirect
	}
	return nil, fail
}

func (r *ResponseOptions) accepts(status int) bool {
	if len(r.Status) > 0 {
		return slices.Contains(r.Status, status)
	}
	return status >= 200 && status < 300
}

// parse reads the body as a document, nil if it is none.
func (r *ResponseOptions) parse(res *http.Response, body []byte) any {
	if r.Format != FormatForm && r.Format != FormatText {
		if doc := DecodeJSON(body); doc != nil || r.Format == FormatJSON {
			return doc
		}
	}
	if r.Format == FormatText {
		return nil
	}
	text := strings.TrimSpace(string(body))
	mediaType, _, _ := mime.ParseMediaType(res.Header.Get("Content-Type"))
	formLike := mediaType == "application/x-www-form-urlencoded" ||
		(strings.Contains(text, "=") && !strings.ContainsAny(text, "<>{}\n "))
	if r.Format != FormatForm && !formLike {
		return nil
	}
	values, err := url.ParseQuery(text)
	if err != nil || len(values) == 0 {
		return nil
	}
	doc := make(map[string]any, len(values))
	for name, v := range values {
		doc[name] = v[0]
	}
	return doc
}

// response takes the token and what comes with it out of a document.
func (r *ResponseOptions) response(res *http.Response, body []byte, doc any) (*Response, error) {
	a := &Response{}
	var access string
	switch {
	case r.Format == FormatText:
		access = strings.TrimSpace(string(body))
	case doc == nil && !r.headersOnly():
		return nil, errNotResponse
	default:
		access = r.first(r.AccessToken, "access_token", res.Header, doc)
	}
	access = withoutScheme(access)
	if access == "" {
		return nil, errNoToken
	}
	if !ValidToken(access) {
		return nil, ErrBadToken
	}
	a.AccessToken = NewSecret(access)
	a.RefreshToken = NewSecret(r.first(r.RefreshToken, "refresh_token", res.Header, doc))
	a.TokenType = r.first(nil, "token_type", nil, doc)
	a.Expiry = r.expiry(res.Header, doc, access)
	a.Fields = r.fields(doc)
	return a, nil
}

// What begins a path that leads not into the body.
const (
	headerPath = "header:"
	cookiePath = "cookie:"
)

func (r *ResponseOptions) headersOnly() bool {
	return len(r.AccessToken) > 0 && !slices.ContainsFunc(r.AccessToken, func(p string) bool {
		return !strings.HasPrefix(p, headerPath) && !strings.HasPrefix(p, cookiePath)
	})
}

// withoutScheme is a token without the scheme that some responses write before
// it, as in "Bearer eyJ...".
func withoutScheme(token string) string {
	const scheme = "bearer "
	if len(token) > len(scheme) && strings.EqualFold(token[:len(scheme)], scheme) {
		return strings.TrimLeft(token[len(scheme):], " ")
	}
	return token
}

// cookieValue is the value of the cookie of a name that a response sets last;
// "": it sets none.
func cookieValue(header http.Header, name string) (value string) {
	for _, c := range (&http.Response{Header: header}).Cookies() {
		if c.Name == name && c.Value != "" && c.MaxAge >= 0 { // less than 0: it is taken back
			value = c.Value
		}
	}
	return value
}

// first returns the first value that is there and not empty.
func (r *ResponseOptions) first(paths []string, otherwise string, header http.Header, doc any) string {
	if len(paths) == 0 {
		paths = []string{otherwise}
	}
	for _, path := range paths {
		if text, _ := memberText(path, header, doc); text != "" {
			return text
		}
	}
	return ""
}

// memberText returns the text at a path, and what kind of thing is there: string,
// number, bool, header, cookie; object or array, which have no text; "" if there
// is nothing, null, or no text.
func memberText(path string, header http.Header, doc any) (text, found string) {
	if name, ok := strings.CutPrefix(path, headerPath); ok {
		text, found = header.Get(name), "header"
	} else if name, ok := strings.CutPrefix(path, cookiePath); ok {
		text, found = cookieValue(header, name), "cookie"
	} else {
		value, _ := lookupPath(doc, path)
		switch value.(type) {
		case map[string]any:
			return "", "object"
		case []any:
			return "", "array"
		case json.Number:
			found = "number"
		case bool:
			found = "bool"
		case string:
			found = "string"
		}
		text, _ = scalarText(value)
	}
	if text == "" {
		return "", ""
	}
	return text, found
}

// What is kept of a response's other members.
const (
	maxFields    = 16
	maxFieldSize = 1 << 10
)

// fields lists the scalar members, so that headers and URLs can be made of
// them. The tokens themselves are not among them.
func (r *ResponseOptions) fields(doc any) []Field {
	skip := []string{"access_token", "refresh_token", "id_token", "expires_in", "token_type"}
	skip = append(skip, r.AccessToken...)
	skip = append(skip, r.RefreshToken...)
	skip = append(skip, r.ExpiresIn...)
	var fields []Field
	var walk func(prefix string, v any)
	walk = func(prefix string, v any) {
		object, ok := v.(map[string]any)
		if !ok {
			return
		}
		for _, name := range sortedNames(object) {
			path := prefix + name
			if slices.Contains(skip, path) || slices.Contains(skip, name) || len(fields) == maxFields {
				continue
			}
			if text, ok := scalarText(object[name]); ok && len(text) <= maxFieldSize {
				fields = append(fields, Field{path, text})
			}
			walk(path+".", object[name])
		}
	}
	walk("", doc)
	return slices.Clip(fields)
}

func sortedNames(object map[string]any) []string {
	names := make([]string, 0, len(object))
	for name := range object {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// Error codes by what they mean (RFC 6749, sections 4.1.2.1 and 5.2; RFC
// 8628, section 3.5; RFC 8707, section 2), and some that are not registered.
var (
	refusalCodes = []string{
		"invalid_grant", "invalid_client", "unauthorized_client", "invalid_request", "invalid_scope",
		"unsupported_grant_type", "unsupported_response_type", "access_denied", "expired_token", "invalid_target",
	}
	throttleCodes  = []string{"slow_down", "too_many_requests", "rate_limit_exceeded", "rate_limited", "ratelimited"}
	transientCodes = []string{"server_error", "temporarily_unavailable"}
)

// classOf says what an error means: by the settings, else by its status and
// code. A refusal is one in words, in a code or in JSON. A 4xx without any is
// a gateway's, and passes.
func (r *ResponseOptions) classOf(res *http.Response, body *wholeBody, code string) (Class, Meaning) {
	if body == nil {
		body = new(wholeBody)
	}
	status := res.StatusCode
	for _, said := range []struct {
		matchers []Matcher
		class    Class
		meaning  Meaning
	}{
		{r.Transient, Transient, Unsaid},
		{r.Throttled, Throttled, Unsaid},
		{r.ConsentLost, Permanent, ConsentLost},
		{r.UserRefused, Permanent, UserRefused},
		{r.ClientRefused, Permanent, ClientRefused},
		{r.Permanent, Permanent, RefusedForGood},
	} {
		if AnyMatches(said.matchers, status, res.Header, body) {
			return said.class, said.meaning
		}
	}
	known := slices.Contains(refusalCodes, code)
	switch {
	case status == http.StatusTooManyRequests, slices.Contains(throttleCodes, code):
		return Throttled, Unsaid
	case status >= 500, status == http.StatusRequestTimeout, slices.Contains(transientCodes, code):
		return Transient, Unsaid
	case status >= 400 && !known && res.Header.Get("Retry-After") != "":
		return Throttled, Unsaid
	case code != "", status >= 400 && body.doc != nil:
		return Permanent, Unsaid
	}
	return Transient, Unsaid
}

// maxMembers is how many names of members a shape has.
const maxMembers = 12

// shapeOf describes a response. What was sent is not told, though it may come
// back in a name.
func shapeOf(res *http.Response, doc any, secrets []string) Shape {
	mediaType, _, err := mime.ParseMediaType(res.Header.Get("Content-Type"))
	if err != nil || !mediaTypeForm.MatchString(mediaType) || withoutSecrets(mediaType, secrets) == "" {
		mediaType = ""
	}
	shape := Shape{ContentType: mediaType, JSON: doc != nil}
	if object, ok := doc.(map[string]any); ok {
		for _, name := range sortedNames(object) {
			if len(shape.Members) == maxMembers {
				break
			}
			if codeForm.MatchString(name) && withoutSecrets(name, secrets) != "" {
				shape.Members = append(shape.Members, name)
			}
		}
	}
	return shape
}

var mediaTypeForm = regexp.MustCompile(`^[a-z0-9.+-]{1,40}/[a-z0-9.+-]{1,60}$`)

var codeForm = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_.:-]{0,63}$`)

// errorCode finds the error code of a response, if it looks like one. With a
// status of success only error is one: code may as well say OK.
func errorCode(status int, doc any) string {
	paths := []string{"error", "error.code", "errorCode", "code"}
	if status < 400 {
		paths = paths[:2]
	}
	for _, path := range paths {
		value, _ := lookupPath(doc, path)
		if code, ok := scalarText(value); ok && codeForm.MatchString(code) {
			return code
		}
	}
	return ""
}

// withoutSecrets drops a code that holds something that was sent, or is part
// of it: an endpoint may echo. Codes that are registered may be told anyway.
func withoutSecrets(code string, secrets []string) string {
	if slices.Contains(refusalCodes, code) || slices.Contains(throttleCodes, code) || slices.Contains(transientCodes, code) {
		return code
	}
	folded := strings.ToLower(code)
	if slices.ContainsFunc(secrets, func(s string) bool {
		s = strings.ToLower(s)
		return strings.Contains(folded, s) || strings.Contains(s, folded)
	}) {
		return ""
	}
	return code
}

// parseRetryAfter reads Retry-After in either form (RFC 9110, section
// 10.2.3), at most an hour; 0 when it says nothing.
func parseRetryAfter(text string, now time.Time) time.Duration {
	text = strings.TrimSpace(text)
	if seconds, err := strconv.ParseFloat(text, 64); err == nil {
		if seconds > maxRetryAfter.Seconds() {
			return maxRetryAfter
		}
		return max(time.Duration(seconds*float64(time.Second)), 0)
	}
	if t, err := http.ParseTime(text); err == nil {
		return min(max(t.Sub(now), 0), maxRetryAfter)
	}
	return 0
}

// maxRetryAfter caps Retry-After: a provider once said 10^9 seconds.
const maxRetryAfter = time.Hour

// ValidToken reports whether text may go into a header as a token: visible
// ASCII only. RFC 6750 allows less (b64token), but real tokens hold more. A line
// break would let a token endpoint write headers of its own.
func ValidToken(text string) bool {
	return text != "" && strings.IndexFunc(text, func(r rune) bool { return r <= ' ' || r > '~' }) < 0
}
