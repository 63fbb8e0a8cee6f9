package tokenendpoint

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
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
// for the token endpoint alone. What lies more than 64 levels deep, or behind the
// first 10,000 values, is not found.
func (r *Response) Member(path string) (string, bool) {
	if r.member != nil {
		value, _ := r.member(path)
		if text, ok := scalarText(value); ok {
			if text != "" && text == r.RefreshToken.Reveal() {
				return "", false
			}
			return text, true
		}
	}
	for _, f := range r.Fields {
		if f.Name == path {
			return f.Value, true
		}
	}
	return "", false
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
	errNoTokenCut  = fmt.Errorf("the response has no access token within %d levels and %d values: what is beyond is not looked at", maxDepth, maxValues)
	errErrorWhen   = errors.New("the response is an error by error_when")
	errRedirect    = errors.New("the response is a redirect, which is not followed: expected the token endpoint itself")
)

// read judges a response. fail is filled in and returned when it brings no token.
func (r *ResponseOptions) read(fail *Error, res *http.Response, body []byte, secrets []string) (*Response, error) {
	doc := r.parse(res, body)
	inside := &wholeBody{doc: doc, text: body}
	isError := AnyMatches(r.ErrorWhen, res.StatusCode, res.Header, inside)
	if r.accepts(res.StatusCode) && !isError {
		answer, err := r.response(res, body, doc)
		if err == nil {
			answer.member = doc.lookup
			answer.call = *fail
			return answer, nil
		}
		fail.Err = err
	}
	code := errorCode(res.StatusCode, doc)
	fail.Class, fail.Meaning = r.classOf(res, inside, code)
	fail.Code, fail.codeNamed = code, r.namedCode(string(code))
	if code.String() == otherCode && fail.codeNamed == "" && echoes(string(code), secrets) {
		fail.Code = otherCode
	}
	fail.codeHidden = res.StatusCode < 400 && !errorShape(doc)
	fail.Shape = r.shapeOf(res.Header, doc)
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
func (r *ResponseOptions) parse(res *http.Response, body []byte) *document {
	if r.Format != FormatForm && r.Format != FormatText {
		if doc := parseJSON(body); doc != nil || r.Format == FormatJSON {
			return doc
		}
	}
	if r.Format == FormatText {
		return nil
	}
	text := bytes.TrimSpace(body)
	if r.Format != FormatForm && mediaTypeOf(res.Header) != "application/x-www-form-urlencoded" && !looksLikeForm(text) {
		return nil
	}
	return parseForm(text)
}

// mediaTypeOf is the response's media type without its parameters, of which there
// may be thousands, in lower case; "": it has none, or a malformed one.
func mediaTypeOf(header http.Header) string {
	text, _, _ := strings.Cut(header.Get("Content-Type"), ";")
	if len(text) > maxMediaType {
		return ""
	}
	mediaType, _, _ := mime.ParseMediaType(text)
	return mediaType
}

// maxMediaType is the longest media type, in bytes (RFC 6838, section 4.2, has
// twice 127).
const maxMediaType = 256

// response takes the token and what comes with it out of a document.
func (r *ResponseOptions) response(res *http.Response, body []byte, doc *document) (*Response, error) {
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
	switch {
	case access == "" && doc != nil && doc.cut:
		return nil, errNoTokenCut
	case access == "":
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
func cookieValue(header http.Header, name string) string {
	for _, line := range slices.Backward(header["Set-Cookie"]) {
		pair, attributes, _ := strings.Cut(line, ";")
		if own, _, _ := strings.Cut(pair, "="); strings.TrimSpace(own) != name {
			continue
		}
		// without its attributes, of which there may be thousands
		if c, err := http.ParseSetCookie(pair); err == nil && c.Value != "" && !takenBack(attributes) {
			return c.Value
		}
	}
	return ""
}

// takenBack reports whether a cookie's attributes delete it: Max-Age is 0 or less
// (RFC 6265, section 5.2.2).
func takenBack(attributes string) bool {
	for attribute := range strings.SplitSeq(attributes, ";") {
		name, value, _ := strings.Cut(attribute, "=")
		if strings.EqualFold(strings.TrimSpace(name), "Max-Age") {
			if seconds, err := strconv.Atoi(strings.TrimSpace(value)); err == nil && seconds <= 0 {
				return true
			}
		}
	}
	return false
}

// first returns the first value that is there and not empty.
func (r *ResponseOptions) first(paths []string, otherwise string, header http.Header, doc *document) string {
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
func memberText(path string, header http.Header, doc *document) (text, found string) {
	if name, ok := strings.CutPrefix(path, headerPath); ok {
		text, found = header.Get(name), "header"
	} else if name, ok := strings.CutPrefix(path, cookiePath); ok {
		text, found = cookieValue(header, name), "cookie"
	} else {
		value, _ := doc.lookup(path)
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

// fields lists the first few scalar members, so that headers and URLs can be made
// of them. The tokens themselves are not among them.
func (r *ResponseOptions) fields(doc *document) []Field {
	skip := []string{"access_token", "refresh_token", "id_token", "expires_in", "token_type"}
	skip = append(skip, r.AccessToken...)
	skip = append(skip, r.RefreshToken...)
	skip = append(skip, r.ExpiresIn...)
	fields := doc.fields(func(path, name []byte) bool {
		return slices.ContainsFunc(skip, func(s string) bool { return s == string(path) || s == string(name) })
	})
	slices.SortFunc(fields, func(a, b Field) int { return strings.Compare(a.Name, b.Name) })
	return slices.Clip(fields)
}

// classOf says what an error means: by the settings, else by its status and
// code. A refusal is one in words, in a code or in JSON. A 4xx without any is
// a gateway's, and passes.
func (r *ResponseOptions) classOf(res *http.Response, body *wholeBody, said Code) (Class, Meaning) {
	if body == nil {
		body = new(wholeBody)
	}
	status, code := res.StatusCode, string(said)
	for _, by := range []struct {
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
		if AnyMatches(by.matchers, status, res.Header, body) {
			return by.class, by.meaning
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

// codeForm is what an error code looks like. RFC 6749, section 5.2, allows more,
// such as blanks; a sentence is none.
var codeForm = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_.:-]*$`)

// errorCode finds the error code of a response, if it looks like one. With a
// status of success only error is one: code may as well say OK.
func errorCode(status int, doc *document) Code {
	paths := []string{"error", "error.code", "errorCode", "code"}
	if status < 400 {
		paths = paths[:2]
	}
	for _, path := range paths {
		value, _ := doc.lookup(path)
		if code, ok := scalarText(value); ok && len(code) <= maxCode && codeForm.MatchString(code) {
			return Code(code)
		}
	}
	return ""
}

// echoes reports whether a code holds something secret that was sent, or is part of
// it: then it is no code.
func echoes(code string, secrets []string) bool {
	code = strings.ToLower(code)
	return slices.ContainsFunc(secrets, func(s string) bool {
		s = strings.ToLower(s)
		return strings.Contains(code, s) || strings.Contains(s, code)
	})
}

// errorShape reports whether a response has OAuth's shape of an error (RFC 6749,
// section 5.2): a member error, which is a string.
func errorShape(doc *document) bool {
	value, _ := doc.lookup("error")
	_, ok := value.(string)
	return ok
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
