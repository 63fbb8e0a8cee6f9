package bearer

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenendpoint"
)

func mustRefusal(t *testing.T, af *AuthFailure) *refusal {
	t.Helper()
	r, err := newRefusal(af)
	if err != nil {
		t.Fatal(err)
	}
	return &r
}

func answered(status int, body string, header ...string) *http.Response {
	h := http.Header{}
	for i := 0; i < len(header); i += 2 {
		h.Add(header[i], header[i+1])
	}
	return &http.Response{StatusCode: status, Header: h, Body: io.NopCloser(strings.NewReader(body))}
}

func gzipped(t *testing.T, text string) string {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if _, err := z.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

const (
	jsonType    = "Content-Type"
	application = "application/json"
)

// TestRefusal is the table of what counts as the API's refusal of a token.
func TestRefusal(t *testing.T) {
	status := func(codes ...int) tokenendpoint.Matcher { return tokenendpoint.Matcher{Status: codes} }
	inJSON := func(path string, values ...string) tokenendpoint.Matcher {
		return tokenendpoint.Matcher{JSON: path, Values: values}
	}
	inHeader := func(name string, values ...string) tokenendpoint.Matcher {
		return tokenendpoint.Matcher{Header: name, Values: values}
	}
	type list = []tokenendpoint.Matcher
	byCode := &AuthFailure{Any: list{status(401), inJSON("error.code", "190", "102")}}
	byText := &AuthFailure{Any: list{{Text: []string{"bad_oauth_token", "<exceptionCode>InvalidSessionId<", "session*has expired"}}}}
	mondiaPay := &AuthFailure{Any: list{status(401, 403)}, Except: list{inJSON("error", "INCORRECT_OTP", "EXPIRED_OTP")}}
	for name, c := range map[string]struct {
		af   *AuthFailure
		res  *http.Response
		want bool
	}{
		"401":                       {nil, answered(401, ""), true},
		"403":                       {nil, answered(403, ""), false},
		"200":                       {nil, answered(200, ""), false},
		"407":                       {nil, answered(407, ""), false},
		"insufficient scope":        {nil, answered(401, "", "WWW-Authenticate", `Bearer error="insufficient_scope"`), false},
		"invalid token":             {nil, answered(401, "", "WWW-Authenticate", `Bearer error="invalid_token"`), true},
		"second challenge excepts":  {nil, answered(401, "", "WWW-Authenticate", "Basic", "WWW-Authenticate", "Bearer error=INSUFFICIENT_SCOPE"), false},
		"code in a 400":             {byCode, answered(400, `{"error": {"code": 190}}`, jsonType, application), true},
		"code in a 200":             {byCode, answered(200, `{"error": {"code": "102"}}`, jsonType, "application/problem+json; charset=utf-8"), true},
		"another code":              {byCode, answered(400, `{"error": {"code": 1900}}`, jsonType, application), false},
		"JSON as text":              {byCode, answered(400, `{"error": {"code": 190}}`, jsonType, "text/plain"), true},
		"JSON as JavaScript":        {byCode, answered(400, `{"error": {"code": 190}}`, jsonType, "text/javascript; charset=UTF-8"), true},
		"JSON as text/json":         {byCode, answered(400, `{"error": {"code": 190}}`, jsonType, "text/json"), true},
		"JSON of no type":           {byCode, answered(400, `{"error": {"code": 190}}`), true},
		"JSON of a broken type":     {byCode, answered(400, `{"error": {"code": 190}}`, jsonType, ";;"), true},
		"JSON behind blanks":        {byCode, answered(400, "\ufeff \r\n\t{\"error\": {\"code\": 190}}"), true},
		"JSON in a string":          {byCode, answered(400, `"{\"error\": {\"code\": 190}}"`, jsonType, application), false},
		"JSON in HTML":              {byCode, answered(400, `<pre>{"error": {"code": 190}}`, jsonType, "text/html"), false},
		"JSON that is cut off":      {byCode, answered(400, `{"error": {"code": 190}`, jsonType, application), true},
		"cut off before it":         {byCode, answered(400, `{"error": {"code": 19`, jsonType, application), false},
		"in a long one, first":      {byCode, answered(400, `{"error": {"code": 190}, "trace": "`+strings.Repeat("x", 300<<10)+`"}`, jsonType, application), true},
		"in a long one, late":       {byCode, answered(400, `{"trace": "`+strings.Repeat("x", 200<<10)+`", "error": {"code": 190}}`, jsonType, application), true},
		"in a longer one, too late": {byCode, answered(400, `{"trace": "`+strings.Repeat("x", 256<<10)+`", "error": {"code": 190}}`, jsonType, application), false},
		"text":                      {byText, answered(403, "Bad_OAuth_Token", jsonType, "text/html"), true},
		"text in XML":               {byText, answered(400, "<error><exceptionCode>INVALIDSessionId</exceptionCode></error>", jsonType, "application/xml"), true},
		"other text":                {byText, answered(403, "Missing_OAuth_Scope", jsonType, "text/html"), false},
		"text with something in it": {byText, answered(500, "the session 4711 has expired.\n"), true},
		"text in another order":     {byText, answered(500, "has expired: session"), false},
		"text in gzip":              {byText, answered(403, gzipped(t, "Bad_OAuth_Token"), "Content-Encoding", "gzip"), true},
		"text in a stream":          {byText, answered(200, "Bad_OAuth_Token", jsonType, "text/event-stream"), false},
		"text excepted":             {&AuthFailure{Except: list{{Text: []string{"quota"}}}}, answered(401, "Quota exceeded"), false},
		"text excepted, JSON too":   {&AuthFailure{Any: list{inJSON("code", "1")}, Except: list{{Text: []string{"quota"}}}}, answered(200, `{"code":1,"a":"b"}`), true},
		"any text":                  {&AuthFailure{Any: list{{Text: []string{}}}}, answered(200, "x"), true},
		"no text":                   {&AuthFailure{Any: list{{Text: []string{}}}}, answered(200, ""), false},
		"the first of a stream's":   {byCode, answered(400, `{"error": {"code": 190}} {}`, jsonType, application), true},
		"401 in broken JSON":        {byCode, answered(401, `{`, jsonType, application), true},
		"business error in a 403":   {mondiaPay, answered(403, `{"error": "incorrect_otp"}`, jsonType, application), false},
		"business error in a 401":   {mondiaPay, answered(401, `{"error": "EXPIRED_OTP"}`, jsonType, application), false},
		"token error in a 403":      {mondiaPay, answered(403, `{"error": "invalid_token"}`, jsonType, application), true},
		"business error, as HTML":   {mondiaPay, answered(403, `{"error": "INCORRECT_OTP"}`, jsonType, "text/html"), false},
		"exclusion without refusal": {mondiaPay, answered(200, `{"error": "x"}`, jsonType, application), false},
		"by header":                 {&AuthFailure{Any: list{inHeader("x-error", "expired*")}}, answered(200, "", "X-Error", "Expired-Token"), true},
		"by header, another value":  {&AuthFailure{Any: list{inHeader("x-error", "expired*")}}, answered(401, "", "X-Error", "other"), false},
		"excepted by header":        {&AuthFailure{Except: list{inHeader("X-Reason")}}, answered(401, "", "X-Reason", "quota"), false},
		"excepted by status":        {&AuthFailure{Any: list{status(401, 403)}, Except: list{status(403)}}, answered(403, ""), false},
		"in gzip":                   {byCode, answered(400, gzipped(t, `{"error": {"code": 190}}`), jsonType, application, "Content-Encoding", "gzip"), true},
		"excepted in gzip":          {mondiaPay, answered(401, gzipped(t, `{"error": "EXPIRED_OTP"}`), jsonType, application, "Content-Encoding", "GZIP"), false},
		"gzip that is none":         {byCode, answered(400, `{"error": {"code": 190}}`, jsonType, application, "Content-Encoding", "gzip"), true},
	} {
		t.Run(name, func(t *testing.T) {
			want, err := io.ReadAll(c.res.Body)
			if err != nil {
				t.Fatal(err)
			}
			c.res.Body = io.NopCloser(iotest.HalfReader(bytes.NewReader(want)))
			got, err := mustRefusal(t, c.af).matches(c.res)
			if err != nil || got != c.want {
				t.Errorf("got %v, want %v (%v)", got, c.want, err)
			}
			if body := readAll(t, c.res.Body); body != string(want) {
				t.Errorf("the body is %q, was %q", body, want)
			}
		})
	}
}

// measured counts what is read of it.
type measured struct {
	io.Reader
	n int
}

func (c *measured) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n += n
	return n, err
}

// TestRefusalLooksNoFurther: a long answer is looked into no more than
// peekLimit, also when it is compressed, and reaches the app whole.
func TestRefusalLooksNoFurther(t *testing.T) {
	af := &AuthFailure{Any: []tokenendpoint.Matcher{{JSON: "error"}}}
	long := `{"pad": "` + strings.Repeat("x", 1<<20) + `", "error": 1}`
	for name, c := range map[string]struct{ body, encoding string }{
		"plain": {long, ""}, "gzip": {gzipped(t, long), "gzip"},
	} {
		src := &measured{Reader: strings.NewReader(c.body)}
		res := answered(200, "", jsonType, application)
		res.Body = io.NopCloser(src)
		if c.encoding != "" {
			res.Header.Set("Content-Encoding", c.encoding)
		}
		refused, err := mustRefusal(t, af).matches(res)
		if err != nil || refused {
			t.Errorf("%s: refused %v, %v", name, refused, err)
		}
		if src.n > peekLimit {
			t.Errorf("%s: read %d bytes", name, src.n)
		}
		if body := readAll(t, res.Body); body != c.body {
			t.Errorf("%s: %d bytes of %d reached the app", name, len(body), len(c.body))
		}
	}
}

// TestRefusalLeavesStreamsAlone: what is no JSON is not read at all, nor is a
// connection that was switched to another protocol.
func TestRefusalLeavesStreamsAlone(t *testing.T) {
	af := &AuthFailure{Any: []tokenendpoint.Matcher{{JSON: "error"}, {Text: []string{"x"}}}}
	for name, res := range map[string]*http.Response{
		"events":   answered(200, "", jsonType, "text/event-stream"),
		"ndjson":   answered(200, "", jsonType, "application/x-ndjson"),
		"frames":   answered(200, "", jsonType, "multipart/x-mixed-replace; boundary=x"),
		"a film":   answered(200, "", jsonType, "video/mp4"),
		"gRPC-Web": answered(200, "", jsonType, "application/grpc-web+json"),
		"upgrade":  answered(101, "", jsonType, application),
		"grpc":     answered(200, "", jsonType, "application/grpc"),
		"download": answered(200, "", jsonType, "application/octet-stream"),
	} {
		body := io.NopCloser(iotest.ErrReader(errors.New("was read")))
		res.Body = body
		refused, err := mustRefusal(t, af).matches(res)
		if refused || err != nil || res.Body != body {
			t.Errorf("%s: refused %v, %v; body replaced: %v", name, refused, err, res.Body != body)
		}
	}
	// nor is any answer whose status decides
	res := answered(200, "", jsonType, application)
	res.Body = io.NopCloser(iotest.ErrReader(errors.New("was read")))
	mondiaPay := &AuthFailure{Any: []tokenendpoint.Matcher{{Status: []int{401}}}, Except: []tokenendpoint.Matcher{{JSON: "error"}}}
	if refused, err := mustRefusal(t, mondiaPay).matches(res); refused || err != nil {
		t.Errorf("a good answer was read: %v, %v", refused, err)
	}
}

// stopped is a body that comes to a halt.
type stopped struct {
	io.Reader
	t *testing.T
}

func (s stopped) Read(p []byte) (int, error) {
	n, err := s.Reader.Read(p)
	if n == 0 {
		s.t.Error("it is read on, which may take for ever")
	}
	return n, err
}

// TestRefusalStopsWhenDecided: what follows may be a long time coming.
func TestRefusalStopsWhenDecided(t *testing.T) {
	af := &AuthFailure{Any: []tokenendpoint.Matcher{{JSON: "code", Values: []string{"190"}}, {JSON: "items.0.id", Values: []string{"no"}}}}
	for name, text := range map[string]string{
		"all is found":  `{"code": 190, "items": [{"id": 1}, {"id": 2}`,
		"the end":       `{"code": 190}`,
		"not JSON":      `<html>`,
		"too deep":      `{"code": 190, "x": ` + strings.Repeat("[", 100),
		"not readable":  `{"code": 190, "x": nope`,
		"a bare number": `190`,
	} {
		t.Run(name, func(t *testing.T) {
			res := answered(400, "")
			res.Body = io.NopCloser(stopped{strings.NewReader(text), t})
			refused, err := mustRefusal(t, af).matches(res)
			if want := text[0] == '{'; err != nil || refused != want {
				t.Errorf("refused %v, %v", refused, err)
			}
		})
	}
	t.Run("the status decides", func(t *testing.T) {
		af := &AuthFailure{Any: []tokenendpoint.Matcher{{JSON: "code"}, {Status: []int{401}}}}
		res := answered(401, "")
		res.Body = io.NopCloser(stopped{strings.NewReader(""), t})
		if refused, err := mustRefusal(t, af).matches(res); err != nil || !refused {
			t.Errorf("refused %v, %v", refused, err)
		}
	})
}

// BenchmarkRefusalNested is an answer that nests as deep as it can.
func BenchmarkRefusalNested(b *testing.B) {
	r, err := newRefusal(&AuthFailure{Any: []tokenendpoint.Matcher{{JSON: strings.Repeat("0.", 40) + "x"}}})
	if err != nil {
		b.Fatal(err)
	}
	for _, size := range []int{1 << 10, 256 << 10} {
		text := strings.Repeat("[", size)
		b.Run(strconv.Itoa(size), func(b *testing.B) {
			for b.Loop() {
				if _, err := r.matches(answered(400, text)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// TestRefusalEncoding: of the encodings that the app takes only gzip is asked
// for, if the answer is to be looked into, and never one that it does not take.
func TestRefusalEncoding(t *testing.T) {
	t.Run("gzip that is not taken", func(t *testing.T) {
		out := &http.Request{Header: http.Header{"Accept-Encoding": {"br, gzip;q=0"}}}
		mustRefusal(t, &AuthFailure{Any: []tokenendpoint.Matcher{{JSON: "error"}}}).prepare(out)
		if got := out.Header.Get("Accept-Encoding"); got != "identity" {
			t.Errorf("asked for %q", got)
		}
	})
	inside := &AuthFailure{Any: []tokenendpoint.Matcher{{JSON: "error"}}}
	for accepted, want := range map[string]string{
		"gzip, deflate, br, zstd": "gzip",
		"br":                      "identity",
		"identity":                "identity",
		"":                        "identity",
	} {
		out := &http.Request{Header: http.Header{"Accept-Encoding": {accepted}}}
		mustRefusal(t, inside).prepare(out)
		if got := out.Header.Get("Accept-Encoding"); got != want {
			t.Errorf("%q: asked for %q, want %q", accepted, got, want)
		}
		mustRefusal(t, nil).prepare(&http.Request{Header: http.Header{}})
	}
	out := &http.Request{Header: http.Header{"Accept-Encoding": {"br"}}}
	if mustRefusal(t, nil).prepare(out); out.Header.Get("Accept-Encoding") != "br" {
		t.Error("changed for nothing")
	}
	out = &http.Request{Header: http.Header{}}
	if mustRefusal(t, inside).prepare(out); out.Header["Accept-Encoding"] != nil {
		t.Error("the app that says nothing is asked for nothing: net/http does it by itself")
	}
}
