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

// AuthFailure says which of the API's responses refuse the token, so that a new
// token may help. Exceptions decide first. Many APIs also send 401 or 403 for
// business errors, which a renewal does not fix.
type AuthFailure struct {
	// A response that matches one of these is a refusal. Default: status 401.
	Any []tokenendpoint.Matcher `json:"any,omitempty"`
	// A response that matches one of these is never a refusal. A missing scope
	// (WWW-Authenticate with insufficient_scope, RFC 6750, section 3.1) always is
	// such an exception.
	Except []tokenendpoint.Matcher `json:"except,omitempty"`
}

// Check reports a matcher that is empty, or that tests several things at once.
func (af *AuthFailure) Check() error {
	return tokenendpoint.CheckMatchers(slices.Concat(af.Any, af.Except))
}

// refusal decides whether a response is the API's refusal of the token.
type refusal struct {
	any, except []tokenendpoint.Matcher
	// looksInside: a matcher tests the body.
	looksInside bool
	// paths are the members of a JSON body that matchers look for.
	paths []string
	// statuses are the statuses of a refusal, if each matcher in any needs one;
	// else nil. A response with another status then costs one comparison.
	statuses []int
}

// peekLimit is how many bytes of a response matchers look into.
const peekLimit = 256 << 10

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
		r.looksInside = r.looksInside || p.LooksInside()
		if p.JSON != "" {
			r.paths = append(r.paths, p.JSON)
		}
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

// prepare limits Accept-Encoding to what matchers can look into: gzip, if the app
// accepts it. Without this, a refusal in br or zstd would not be recognized.
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

// matches reports whether a response is a refusal. It reads the body only if a
// matcher tests it, and only as far as needed. What it has read is put back, so
// that the app gets the whole body.
func (r *refusal) matches(res *http.Response) (bool, error) {
	if r.statuses != nil && !slices.Contains(r.statuses, res.StatusCode) {
		return false, nil
	}
	if !r.looksInside || endless(res) {
		return r.holds(res, nil), nil
	}
	body := &peeked{res: res, paths: r.paths}
	refused := r.holds(res, body)
	if err := body.rejoin(); err != nil {
		return false, fmt.Errorf("reading the API's response: %w", err)
	}
	return refused, nil
}

func (r *refusal) holds(res *http.Response, body tokenendpoint.Body) bool {
	return tokenendpoint.AnyMatches(r.any, res.StatusCode, res.Header, body) &&
		!tokenendpoint.AnyMatches(r.except, res.StatusCode, res.Header, body)
}

// endless reports whether matchers must not look into the body. That is so for a
// stream of messages, because waiting for its end would hold up the app, and for
// media, which do not describe errors. Every other type may be JSON: many APIs
// send JSON as text/javascript, as text/plain or without a type.
func endless(res *http.Response) bool {
	if res.StatusCode == http.StatusSwitchingProtocols {
		return true
	}
	// Without its parameters, of which there may be thousands.
	contentType, _, _ := strings.Cut(res.Header.Get("Content-Type"), ";")
	mediaType, _, _ := mime.ParseMediaType(contentType)
	top, sub, _ := strings.Cut(mediaType, "/")
	switch {
	case slices.Contains([]string{"audio", "video", "image", "font", "multipart"}, top):
		return true
	case strings.HasPrefix(sub, "grpc"), strings.Contains(sub, "stream"), strings.Contains(sub, "ndjson"), strings.Contains(sub, "jsonl"), sub == "json-seq":
		return true
	}
	return slices.Contains([]string{"zip", "gzip", "pdf", "wasm"}, sub)
}

// peeked is a response's body while matchers look into it.
type peeked struct {
	res   *http.Response
	paths []string // the members that matchers may ask for

	body  *readError
	head  bytes.Buffer  // what was read of the body, as it came
	plain *bytes.Buffer // the same, decompressed; it may be head itself
	in    io.Reader     // reads further, into head and plain; nil: nothing was read yet
	found map[string]any
	tried bool    // found is complete
	text  *string // all of plain; nil: it was not asked for
}

// open prepares reading. The limit holds for the body as it came and for the
// decompressed body, so that a small body cannot unpack into a huge one.
func (p *peeked) open() {
	if p.in != nil {
		return
	}
	p.body = &readError{Reader: p.res.Body}
	p.in, p.plain = io.TeeReader(io.LimitReader(p.body, peekLimit), &p.head), &p.head
	if strings.EqualFold(p.res.Header.Get("Content-Encoding"), "gzip") {
		if z, err := gzip.NewReader(p.in); err == nil { // else it is not gzip, and the app gets it as it is
			p.plain = new(bytes.Buffer)
			p.in = io.TeeReader(io.LimitReader(z, peekLimit), p.plain)
		}
	}
}

// JSON implements [tokenendpoint.Body]. It stops reading when it has found all
// members that matchers may ask for, or when the document has ended, because the
// rest of the body may come much later.
func (p *peeked) JSON(path string) (any, bool) {
	if !p.tried {
		p.tried = true
		p.open()
		from := io.MultiReader(bytes.NewReader(bytes.Clone(p.plain.Bytes())), p.in)
		p.found, _ = tokenendpoint.FindMembers(from, p.paths)
	}
	value, ok := p.found[path]
	return value, ok
}

// Text implements [tokenendpoint.Body]. It reads up to the limit.
func (p *peeked) Text() string {
	if p.text == nil {
		p.open()
		_, _ = io.Copy(io.Discard, p.in)
		text := p.plain.String()
		p.text = &text
	}
	return *p.text
}

// rejoin puts the body together again: first what was read, then the rest. It
// returns the error of reading, if there was one.
func (p *peeked) rejoin() error {
	if p.in == nil {
		return nil
	}
	p.res.Body = &rejoined{Reader: io.MultiReader(bytes.NewReader(p.head.Bytes()), p.res.Body), Closer: p.res.Body}
	return p.body.err
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
