package tokenendpoint_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"

	"github.com/caddy-bearer/caddy-bearer/tokensource/internal/wiretest"
	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenendpoint"
)

// fill repeats a text until there are n bytes of it.
func fill(text string, n int) string { return strings.Repeat(text, n/len(text)) }

// numbered repeats a text with a number in it until there are n bytes of it.
func numbered(format string, n int) string {
	var b strings.Builder
	for i := 0; b.Len() < n; i++ {
		fmt.Fprintf(&b, format, i)
	}
	return b.String()
}

// adversarial are responses of n bytes or a little more that are made to cost as
// much as they can.
func adversarial(n int) map[string]string {
	long := func(text string) string { return fill(text, n) }
	// encoding/json takes no more than 10,000 levels
	closed := func(open, inner, end string) string {
		depth := min(n/(len(open)+len(end)), 9_900/strings.Count(end, end[:1])/len(end))
		return strings.Repeat(open, depth) + inner + strings.Repeat(end, depth)
	}
	return map[string]string{
		"objects in objects":          closed(`{"a":`, `1`, `}`),
		"objects, and a member each":  closed(`{"b":1,"a":`, `1`, `}`),
		"objects with long names":     closed(`{"`+strings.Repeat("n", 900)+`":`, `1`, `}`),
		"one long name, many members": `{"` + fill("n", n/2) + `":{` + numbered(`"%d":1,`, n/2) + `"z":1}}`,
		"arrays in arrays":            closed(`[`, ``, `]`),
		"mixed":                       closed(`{"a":[`, `1`, `]}`),
		"beside a token":              `{"access_token":"a","x":` + closed(`{"a":`, `1`, `}`) + `}`,
		"open to the end":             long(`{"a":`),
		"open arrays":                 long(`[`),
		"numbers":                     `[` + long(`0,`) + `0]`,
		"empty strings":               `[` + long(`"",`) + `0]`,
		"empty arrays":                `[` + long(`[],`) + `0]`,
		"empty objects":               `[` + long(`{},`) + `0]`,
		"small objects":               `[` + long(`{"":0},`) + `0]`,
		"nulls":                       `[` + long(`null,`) + `0]`,
		"members of one name":         `{` + long(`"":0,`) + `"access_token":"a"}`,
		"members of many names":       `{` + numbered(`"%x":0,`, n) + `"access_token":"a"}`,
		"names backwards":             `{` + numbered(`"z%d":{},`, n) + `"access_token":"a"}`,
		"escaped names":               `{` + long(`"\u0061":0,`) + `"access_token":"a"}`,
		"names that are not UTF-8":    `{` + long("\"\xff\":0,") + `"access_token":"a"}`,
		"well-known names":            `{` + long(`"data":{},"error":{},"token":{},`) + `"access_token":""}`,
		"a long string":               `{"error":"` + long(`E`) + `","access_token":"a"}`,
		"a string of escapes":         `{"error":"` + long(`\u00C4`) + `"}`,
		"a long token":                `{"access_token":"` + long(`A`) + `","refresh_token":"r"}`,
		"a long number":               `{"access_token":"a","expires_in":` + long(`9`) + `}`,
		"a long expiry":               `{"access_token":"a","expires_in":"` + long(`1:`) + `"}`,
		"NaN":                         `[` + long(`NaN,`) + `0]`,
		"NaN in strings":              `[` + long(`"NaN",`) + `NaN]`,
		"half a string":               `[NaN,"` + long(`\"`),
		"blanks":                      long(` `),
		"pairs":                       long(`a=b&`) + "access_token=a",
		"pairs of many names":         numbered(`%x=&`, n) + "access_token=a",
		"escaped pairs":               long(`%61=%62&`) + "access_token=a",
		"pairs without values":        long(`a&`) + "access_token=a",
		"empty pairs":                 long(`&`) + "access_token=a",
		"a JWT's dots":                `{"access_token":"` + long(`.`) + `"}`,
		"a JWT of objects":            `{"access_token":"h.` + base64.RawURLEncoding.EncodeToString([]byte(closed(`{"a":`, `1`, `}`)[:min(n/4*3-100, 40_000)])) + `.s"}`,
		"a JWT of members": `{"access_token":"h.` + base64.RawURLEncoding.EncodeToString(
			[]byte(`{`+fill(`"":{},`, n/4*3-200)+`"exp":1}`)) + `.s"}`,
		"HTML": long(`<P>`),
		"text": long(`A`),
	}
}

// demanding is everything that a config may ask of a response.
func demanding() tokenendpoint.ResponseOptions {
	matchers := func(names ...string) (ms []tokenendpoint.Matcher) {
		for _, name := range names {
			ms = append(ms, tokenendpoint.Matcher{JSON: name, Values: []string{"x*y", "y*z", "invalid_*"}},
				tokenendpoint.Matcher{JSON: "a.a.a.a.a.a.a.a." + name, Values: []string{"x"}},
				tokenendpoint.Matcher{Text: []string{"no*such*" + name, "nor this"}},
				tokenendpoint.Matcher{Header: "X-Long", Values: []string{"x*y", "y*z"}})
		}
		return ms
	}
	return tokenendpoint.ResponseOptions{
		AccessToken:  []string{"data.token", "0.a", "a.a.a.a", "header:X-Token", "cookie:t", "access_token"},
		RefreshToken: []string{"data.refresh", "cookie:t", "refresh_token"},
		ExpiresIn:    []string{"a.b", "expires_in"},
		ErrorWhen:    matchers("error", "errors.0.code"),
		Transient:    matchers("error", "code"),
		Throttled:    matchers("error"), ConsentLost: matchers("error"), UserRefused: matchers("error"),
		ClientRefused: matchers("error"), Permanent: matchers("error"),
	}
}

// allocated returns how many bytes a call of f allocates: the least of three, for
// the runtime allocates too.
func allocated(f func()) uint64 {
	least := ^uint64(0)
	for range 3 {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		f()
		runtime.ReadMemStats(&after)
		least = min(least, after.TotalAlloc-before.TotalAlloc)
	}
	return least
}

// What a call may allocate for a response: so many times its size, and something
// besides for the call itself.
const (
	budgetFactor = 16
	budgetBase   = 64 << 10
)

func budget(size int) uint64 { return uint64(budgetFactor*size + budgetBase) }

// TestAttack14Budget: whatever a response is made of, a call costs a small multiple
// of its size.
func TestAttack14Budget(t *testing.T) {
	for _, n := range []int{59 << 10, 1 << 20} {
		for name, body := range adversarial(n) {
			for settings, options := range map[string]tokenendpoint.ResponseOptions{
				"": {}, "JWT ": {ExpiryKind: tokenendpoint.ExpiryJWT}, "demanding ": demanding(),
				"form ": {Format: tokenendpoint.FormatForm}, "text ": {Format: tokenendpoint.FormatText},
			} {
				if n > 64<<10 && settings != "" {
					continue // it is not read to its end
				}
				for _, status := range []int{200, 400} {
					ep := wiretest.Endpoint(wiretest.Responding(status, "", body))
					ep.Response = options
					ep.Client = tokenendpoint.Client{ID: wiretest.Literal("id"), Secret: wiretest.Literal(fill("Secret", 4<<10))}
					got := allocated(func() {
						if res, err := wiretest.Call(ep); err == nil {
							res.Member("no.such")
							res.Member("a.a.a.a.a.a")
						} else {
							_ = err.Error()
						}
					})
					if read := min(n, 64<<10); got > budget(read) {
						t.Errorf("%s%s, status %d: %d bytes allocated, %d for each byte that is read", settings, name, status, got, got/uint64(read))
					}
				}
			}
		}
	}
}

// TestAttack14Headers: nor do headers by the thousand.
func TestAttack14Headers(t *testing.T) {
	const n = 64 << 10
	for name, header := range map[string]http.Header{
		"cookies":                {"Set-Cookie": strings.Fields(fill("a=b ", n/4))},
		"cookies of the name":    {"Set-Cookie": strings.Fields(fill("t= ", n/5))},
		"attributes of a cookie": {"Set-Cookie": {"t=x;" + fill("a;", n)}},
		"parameters of a type":   {"Content-Type": {"text/html;" + numbered("a%d=b;", n)}},
		"a long type":            {"Content-Type": {fill("A", n)}},
		"a long header":          {"X-Long": {fill("A", n)}},
		"many of one name":       {"X-Long": strings.Fields(fill("A ", n/6))},
		"a long Retry-After":     {"Retry-After": {fill("1", n)}},
	} {
		for _, status := range []int{200, 400} {
			ep := wiretest.Endpoint(&wiretest.Wire{Respond: func(*http.Request) (*http.Response, error) {
				res := wiretest.Respond(status, "", `{"error":"x"}`)
				for name, values := range header {
					res.Header[name] = values
				}
				return res, nil
			}})
			ep.Response = demanding()
			got := allocated(func() { _, _ = wiretest.Call(ep) })
			if got > budget(n) {
				t.Errorf("%s, status %d: %d bytes allocated, %d for each byte", name, status, got, got/n)
			}
		}
	}
}

// TestAttack14Gzip: what counts is what is read of a bomb, and that is bounded.
func TestAttack14Gzip(t *testing.T) {
	var bomb bytes.Buffer
	z := gzip.NewWriter(&bomb)
	_, _ = io.WriteString(z, fill(`{"a":`, 64<<20))
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		_, _ = w.Write(bomb.Bytes())
	}))
	defer server.Close()
	got := allocated(func() {
		ep := tokenendpoint.New(server.URL, "id", "secret")
		if _, err := ep.Call(context.Background(), "client_credentials", nil, nil); err == nil {
			t.Error("it has a token")
		}
	})
	if got > budget(bomb.Len()+64<<10) {
		t.Errorf("%d bytes allocated for a bomb of %d", got, bomb.Len())
	}
}

// TestAttack14Stream: what is looked for in a stream costs no more, and each byte of
// it is read once, however it comes.
func TestAttack14Stream(t *testing.T) {
	paths := []string{"no.such", "error", "error.code", "errors.0.code", "a.a.a.a.a.a.a.a.x", "0.0.0.x", "access_token", strings.Repeat("n", 900) + ".x"}
	for _, n := range []int{59 << 10, 1 << 20} {
		for name, body := range adversarial(n) {
			in := &counted{r: strings.NewReader(body)}
			got := allocated(func() {
				in.r, in.n = strings.NewReader(body), 0
				tokenendpoint.FindMembers(in, paths)
			})
			if got > budget(n) {
				t.Errorf("%s: %d bytes allocated, %d for each byte of it", name, got, got/uint64(n))
			}
			if in.n > len(body) {
				t.Errorf("%s: %d bytes read of %d", name, in.n, len(body))
			}
		}
	}
}

// counted counts what is read.
type counted struct {
	r io.Reader
	n int
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += n
	return n, err
}
