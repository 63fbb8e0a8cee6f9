package caddymodule

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"slices"
	"strings"

	"github.com/caddy-bearer/caddy-bearer/tokensource"
)

// AuthFailure says which of the API's answers mean that it refuses the token,
// so that a new one may help. Exclusions go first: many APIs say 401 or 403 of
// business matters too, and a renewal would not mend those.
type AuthFailure struct {
	// One of these makes it a refusal. Default: status 401.
	Any []tokensource.Predicate `json:"any,omitempty"`
	// But none of these may hold. A scope that the token lacks
	// (WWW-Authenticate with insufficient_scope, RFC 6750, section 3.1) is
	// always excepted.
	Except []tokensource.Predicate `json:"except,omitempty"`
}

// refusal decides whether an answer is the API's refusal of the token.
type refusal struct {
	any, except []tokensource.Predicate
	// looksInside: a predicate is about the JSON body.
	looksInside bool
	// statuses, where only those matter before the exclusions: the common case
	// costs a comparison.
	statuses []int
}

// peekLimit is how much of an answer is looked into.
const peekLimit = 64 << 10

func newRefusal(af *AuthFailure) (refusal, error) {
	r := refusal{except: []tokensource.Predicate{
		{Header: "Www-Authenticate", Values: []string{"*insufficient_scope*"}},
	}}
	if af != nil {
		r.any = af.Any
		r.except = append(r.except, af.Except...)
	}
	if len(r.any) == 0 {
		r.any = []tokensource.Predicate{{Status: []int{http.StatusUnauthorized}}}
	}
	for _, p := range slices.Concat(r.any, r.except) {
		if (len(p.Status) > 0) == (p.Header != "" || p.JSON != "") || (p.Header != "" && p.JSON != "") {
			return r, fmt.Errorf("expected each predicate to have a status, a header or a json path")
		}
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
		if strings.Contains(strings.Join(accepted, ","), "gzip") {
			encoding = "gzip"
		}
		out.Header["Accept-Encoding"] = []string{encoding}
	}
}

// matches judges an answer. The body is looked into where a predicate wants
// that, and reaches the app whole.
func (r *refusal) matches(res *http.Response) (bool, error) {
	if r.statuses != nil && !slices.Contains(r.statuses, res.StatusCode) {
		return false, nil
	}
	var doc any
	if r.looksInside && isJSON(res.Header) && res.StatusCode != http.StatusSwitchingProtocols {
		body, err := peek(res)
		if err != nil {
			return false, fmt.Errorf("reading the API's answer: %w", err)
		}
		doc = tokensource.DecodeJSON(body)
	}
	return tokensource.AnyMatches(r.any, res.StatusCode, res.Header, doc) &&
		!tokensource.AnyMatches(r.except, res.StatusCode, res.Header, doc), nil
}

func isJSON(h http.Header) bool {
	mediaType, _, _ := mime.ParseMediaType(h.Get("Content-Type"))
	if strings.HasPrefix(mediaType, "application/grpc") || strings.Contains(mediaType, "stream") {
		return false // messages without end: to wait for it would hold them up
	}
	return mediaType == "application/json" || strings.HasSuffix(mediaType, "+json")
}

// peek returns the beginning of the body, decompressed, and puts it back.
func peek(res *http.Response) ([]byte, error) {
	head := make([]byte, 0, 1<<10)
	limited := io.LimitReader(res.Body, peekLimit)
	for {
		if len(head) == cap(head) {
			head = append(head, 0)[:len(head)]
		}
		n, err := limited.Read(head[len(head):cap(head)])
		head = head[:len(head)+n]
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
	}
	res.Body = &rejoined{Reader: io.MultiReader(bytes.NewReader(head), res.Body), Closer: res.Body}
	if !strings.EqualFold(res.Header.Get("Content-Encoding"), "gzip") {
		return head, nil
	}
	z, err := gzip.NewReader(bytes.NewReader(head))
	if err != nil {
		return nil, nil // not gzip after all: nothing to look into, and the app's to judge
	}
	plain, _ := io.ReadAll(io.LimitReader(z, peekLimit))
	return plain, nil
}

type rejoined struct {
	io.Reader
	io.Closer
}
