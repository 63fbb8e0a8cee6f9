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
	// looksInside: a matcher is about the body.
	looksInside bool
	// paths are the members of a JSON body that matchers look for.
	paths []string
	// statuses, where only those matter before the exclusions: the common case
	// costs a comparison.
	statuses []int
}

// peekLimit is how much of an answer is looked into, in bytes.
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
// that, no further than it wants, and reaches the app whole.
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
		return false, fmt.Errorf("reading the API's answer: %w", err)
	}
	return refused, nil
}

func (r *refusal) holds(res *http.Response, body tokenendpoint.Body) bool {
	return tokenendpoint.AnyMatches(r.any, res.StatusCode, res.Header, body) &&
		!tokenendpoint.AnyMatches(r.except, res.StatusCode, res.Header, body)
}

// endless reports whether an answer is messages without end, which to wait for
// would hold up, or by its type nothing that says an error. Any other may be JSON:
// many APIs write text/javascript, text/plain or nothing at all there.
func endless(res *http.Response) bool {
	if res.StatusCode == http.StatusSwitchingProtocols {
		return true
	}
	mediaType, _, _ := mime.ParseMediaType(res.Header.Get("Content-Type"))
	top, sub, _ := strings.Cut(mediaType, "/")
	switch {
	case slices.Contains([]string{"audio", "video", "image", "font", "multipart"}, top):
		return true
	case strings.HasPrefix(sub, "grpc"), strings.Contains(sub, "stream"), strings.Contains(sub, "ndjson"), strings.Contains(sub, "jsonl"), sub == "json-seq":
		return true
	}
	return slices.Contains([]string{"zip", "gzip", "pdf", "wasm"}, sub)
}

// peeked is an answer's body while matchers look into it.
type peeked struct {
	res   *http.Response
	paths []string // of members that may be asked for

	body  *readError
	head  bytes.Buffer  // what was read of the body
	plain *bytes.Buffer // the same, decompressed; it may be head itself
	in    io.Reader     // reads on, into both; nil: nothing was read yet
	found map[string]any
	tried bool // found is what there is
}

// open begins to read. It reads as much of the body, and as much of what that
// decompresses to, as is looked into.
func (p *peeked) open() {
	if p.in != nil {
		return
	}
	p.body = &readError{Reader: p.res.Body}
	p.in, p.plain = io.TeeReader(io.LimitReader(p.body, peekLimit), &p.head), &p.head
	if strings.EqualFold(p.res.Header.Get("Content-Encoding"), "gzip") {
		if z, err := gzip.NewReader(p.in); err == nil { // else it is the app's to judge
			p.plain = new(bytes.Buffer)
			p.in = io.TeeReader(io.LimitReader(z, peekLimit), p.plain)
		}
	}
}

// JSON implements [tokenendpoint.Body]. It reads until all members that may be
// asked for are found, or the document has ended: what follows may be a long time
// coming.
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

// Text implements [tokenendpoint.Body]. It reads as much as is looked into.
func (p *peeked) Text() string {
	p.open()
	_, _ = io.Copy(io.Discard, p.in)
	return p.plain.String()
}

// rejoin puts the body back together. The error is of reading it.
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
