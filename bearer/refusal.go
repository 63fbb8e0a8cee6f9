package bearer

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"regexp"
	"slices"
	"strings"

	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenendpoint"
)

// AuthFailure says which of the API's answers mean that it refuses the token,
// so that a new one may help. Exclusions go first: many APIs say 401 or 403 of
// business matters too, and a renewal would not mend those.
type AuthFailure struct {
	// One of these makes it a refusal. Default: status 401.
	Any []tokenendpoint.Matcher `json:"any,omitempty"`
	// But none of these may hold. A scope that the token lacks
	// (WWW-Authenticate with insufficient_scope, RFC 6750, section 3.1) is
	// always excepted.
	Except []tokenendpoint.Matcher `json:"except,omitempty"`
}

// Check reports a matcher that says nothing, or several things.
func (af *AuthFailure) Check() error {
	return tokenendpoint.CheckMatchers(slices.Concat(af.Any, af.Except))
}

// refusal decides whether an answer is the API's refusal of the token.
type refusal struct {
	any, except []tokenendpoint.Matcher
	// looksInside: a matcher is about the JSON body.
	looksInside bool
	// statuses, where only those matter before the exclusions: the common case
	// costs a comparison.
	statuses []int
}

// peekLimit is how much of an answer is looked into.
const peekLimit = 64 << 10

func newRefusal(af *AuthFailure) (refusal, error) {
	r := refusal{except: []tokenendpoint.Matcher{
		{Header: "Www-Authenticate", Values: []string{"*insufficient_scope*"}},
	}}
	if af != nil {
		if err := af.Check(); err != nil {
			return r, err
		}
		r.any = af.Any
		r.except = append(r.except, af.Except...)
	}
	if len(r.any) == 0 {
		r.any = []tokenendpoint.Matcher{{Status: []int{http.StatusUnauthorized}}}
	}
	for _, p := range slices.Concat(r.any, r.except) {
		r.looksInside = r.looksInside || p.JSON != ""
	}
	for _, p := range r.any {
		if len(p.Status) == 0 {
			r.statuses = nil
			break
		}
		r.statuses = append(r.statuses, p.Status...)
	}
	return r, nil
}

// prepare asks the API for answers that can be looked into: of the encodings
// that the app takes, only gzip.
func (r *refusal) prepare(out *http.Request) {
	if !r.looksInside {
		return
	}
	if accepted, ok := out.Header["Accept-Encoding"]; ok {
		delete(out.Header, "Accept-Encoding")
		encoding := "identity"
		for _, coding := range strings.Split(strings.Join(accepted, ","), ",") {
			name, q, _ := strings.Cut(coding, ";")
			if strings.EqualFold(strings.TrimSpace(name), "gzip") && !zeroQuality.MatchString(q) {
				encoding = "gzip"
			}
		}
		out.Header["Accept-Encoding"] = []string{encoding}
	}
}

var zeroQuality = regexp.MustCompile(`^\s*[qQ]\s*=\s*0(\.0*)?\s*$`)

// matches judges an answer. The body is looked into where a matcher wants
// that, and reaches the app whole.
func (r *refusal) matches(res *http.Response) (bool, error) {
	if r.statuses != nil && !slices.Contains(r.statuses, res.StatusCode) {
		return false, nil
	}
	var doc any
	if r.looksInside && isJSON(res.Header) && res.StatusCode != http.StatusSwitchingProtocols {
		var err error
		if doc, err = peek(res); err != nil {
			return false, fmt.Errorf("reading the API's answer: %w", err)
		}
	}
	return tokenendpoint.AnyMatches(r.any, res.StatusCode, res.Header, doc) &&
		!tokenendpoint.AnyMatches(r.except, res.StatusCode, res.Header, doc), nil
}

func isJSON(h http.Header) bool {
	mediaType, _, _ := mime.ParseMediaType(h.Get("Content-Type"))
	if strings.HasPrefix(mediaType, "application/grpc") || strings.Contains(mediaType, "stream") {
		return false // messages without end: to wait for it would hold them up
	}
	return mediaType == "application/json" || strings.HasSuffix(mediaType, "+json")
}

// peek decodes the JSON document that the body begins with, nil if it is none,
// and puts the body back. It reads no further than that document's end: what
// follows may be a long time coming.
func peek(res *http.Response) (any, error) {
	var head bytes.Buffer
	body := &readError{Reader: res.Body}
	read := io.TeeReader(io.LimitReader(body, peekLimit), &head)
	plain := read
	if strings.EqualFold(res.Header.Get("Content-Encoding"), "gzip") {
		z, err := gzip.NewReader(read)
		if err == nil { // else there is nothing to look into, and it is the app's to judge
			plain = io.LimitReader(z, peekLimit)
		}
	}
	doc := tokenendpoint.DecodeFirstJSON(plain)
	res.Body = &rejoined{Reader: io.MultiReader(bytes.NewReader(head.Bytes()), res.Body), Closer: res.Body}
	return doc, body.err
}

// readError remembers the failure of a reader.
type readError struct {
	io.Reader
	err error
}

// Read implements io.Reader.
func (r *readError) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		r.err = err
	}
	return n, err
}

type rejoined struct {
	io.Reader
	io.Closer
}
