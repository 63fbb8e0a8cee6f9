package bearer

import (
	"context"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
	"strings"

	"github.com/caddy-bearer/caddy-bearer/internal/plainerror"
	"github.com/caddy-bearer/caddy-bearer/tokensource"
)

// An API may send the token back: a debugging API echoes a request's headers, and a
// redirect repeats the query. The app must not get the token, and the response's
// headers and errors end in logs. So what the API says passes through here. Bodies
// are not changed, and are not logged.

// redacted stands where the token was.
const redacted = "REDACTED"

// cleanResponse removes the token from the response's headers, and arranges that its
// trailers and the errors of its body are cleaned, too.
func (ij *injector) cleanResponse(res *http.Response, token *tokensource.Token) {
	access := token.AccessToken()
	ij.cleanHeader(res.Header, access)
	if strings.Contains(res.Status, access) {
		res.Status = http.StatusText(res.StatusCode)
	}
	// With a known length, HTTP/1 has no trailers, and errors that quote nothing.
	if res.ContentLength >= 0 && res.ProtoMajor == 1 {
		return
	}
	if _, both := res.Body.(io.Writer); both || res.Body == http.NoBody { // both: the connection itself, after an upgrade
		return
	}
	ij.cleanHeader(res.Trailer, access)
	res.Body = &cleanBody{res.Body, res, ij, access}
}

// cleanHeader removes the token from a response's headers or trailers. Injected
// parameters are taken out of URLs, so that the app can follow them: they are
// injected again.
func (ij *injector) cleanHeader(h http.Header, access string) {
	if ij.queries != nil {
		for _, name := range urlHeaders {
			values := h[name]
			for i, value := range values {
				values[i] = ij.withoutQuery(name, value, access)
			}
		}
	}
	for name, values := range h {
		if len(name) >= len(access) && strings.Contains(strings.ToLower(name), strings.ToLower(access)) { // net/http has changed its case
			delete(h, name)
			continue
		}
		for i, value := range values {
			// The first comparison is all that most values cost.
			if len(value) >= len(access) && holds(value, access) {
				h[name][i] = redact(value, access)
			}
		}
	}
}

// holds reports whether a value holds the token, plain or escaped, once or twice, in
// any spelling.
func holds(value, access string) bool {
	for range 3 {
		if strings.Contains(value, access) {
			return true
		}
		if !strings.Contains(value, "%") {
			return false
		}
		value = unescape(value)
	}
	return false
}

// redact takes the token out of a value that holds it. If its spelling is an odd one,
// nothing of the value stays.
func redact(value, access string) string {
	for _, spelling := range []string{access, url.QueryEscape(access), url.PathEscape(access)} {
		value = strings.ReplaceAll(value, spelling, redacted)
	}
	if holds(value, access) {
		return redacted
	}
	return value
}

// urlHeaders are the response headers that hold URLs (RFC 9110, RFC 8288; Refresh is
// the browsers' own).
var urlHeaders = []string{"Location", "Content-Location", "Link", "Refresh"}

// withoutQuery takes the injected parameters out of the URLs in a header's value.
func (ij *injector) withoutQuery(header, value, access string) string {
	switch header {
	case "Link": // <URL>; rel="next", <URL>; rel="last"
		var b strings.Builder
		for {
			before, rest, ok := strings.Cut(value, "<")
			target, after, closed := strings.Cut(rest, ">")
			if !ok || !closed {
				b.WriteString(value)
				return b.String()
			}
			b.WriteString(before + "<" + ij.withoutParams(target, access) + ">")
			value = after
		}
	case "Refresh": // 5; url=URL
		i := strings.Index(asciiLower(value), "url=")
		if i < 0 {
			return value
		}
		i += len("url=")
		return value[:i] + ij.withoutParams(value[i:], access)
	}
	return ij.withoutParams(value, access)
}

// withoutParams takes the injected parameters out of a URL's query, where they have the
// token. The rest keeps its order and spelling: another value is the API's own.
func (ij *injector) withoutParams(text, access string) string {
	before, query, ok := strings.Cut(text, "?")
	if !ok {
		return text
	}
	query, fragment, hasFragment := strings.Cut(query, "#")
	for _, name := range ij.queries {
		name = looseName(name)
		query = removePairs(query, "&;", func(raw, value string) bool {
			return looseName(looseUnescape(raw)) == name && holds(value, access)
		})
	}
	if query != "" {
		before += "?" + query
	}
	if hasFragment {
		before += "#" + fragment
	}
	return before
}

// cleanBody is the body of a response whose errors and trailers may hold the token.
type cleanBody struct {
	io.ReadCloser
	res    *http.Response
	ij     *injector
	access string
}

// Read implements io.Reader.
func (b *cleanBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	switch err {
	case io.EOF: // the trailers have come
		b.ij.cleanHeader(b.res.Trailer, b.access)
		return n, err
	case nil, io.ErrUnexpectedEOF, context.Canceled: // which readers compare with
		return n, err
	}
	return n, plainerror.Of(err)
}

// cleanInformational arranges that informational responses (1xx), which a proxy
// passes on as they come, are cleaned, too. It is done for query parameters alone: a
// hook for each request costs more than all that is done to the response.
func (ij *injector) cleanInformational(req *http.Request, token *tokensource.Token) *http.Request {
	if ij.queries == nil {
		return req
	}
	access := token.AccessToken()
	return req.WithContext(httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{
		Got1xxResponse: func(_ int, h textproto.MIMEHeader) error { // called before the proxy's own
			ij.cleanHeader(http.Header(h), access)
			return nil
		},
	}))
}
