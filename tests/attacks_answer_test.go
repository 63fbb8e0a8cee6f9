package tests

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"

	"github.com/caddy-bearer/caddy-bearer/tests/provider"
)

// costs is what all of this process allocates while f runs, in bytes. Caddy, the provider and the app are in it, and
// together need a megabyte or two.
func costs(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// costlyAnswer is what an answer may cost, with all that is around it.
const costlyAnswer = 12 << 20

// nested is JSON that nests as deep as n bytes can.
func nested(n int) string {
	return strings.Repeat(`{"a":`, n/6) + "1" + strings.Repeat("}", n/6)
}

// TestAttack14Answers: a token endpoint's answer that is made to cost a lot serves as it is, wherever in it the token is.
func TestAttack14Answers(t *testing.T) {
	const n = 58 << 10
	for name, wrap := range map[string]func(token string) string{
		"deep, behind the token": func(token string) string { return `{` + token + `,"x":` + nested(n) + `}` },
		"deep, before the token": func(token string) string { return `{"x":` + nested(n) + `,` + token + `}` },
		"deep lists": func(token string) string {
			return `{` + token + `,"x":` + strings.Repeat("[", n/2) + strings.Repeat("]", n/2) + `}`
		},
		"many members": func(token string) string { return `{` + token + strings.Repeat(`,"a":{}`, n/7) + `}` },
		"many values":  func(token string) string { return `{` + token + `,"x":[` + strings.Repeat(`0,`, n/2) + `0]}` },
		"long names":   func(token string) string { return `{` + token + `,"` + strings.Repeat("n", n) + `":1}` },
		"many names of its own": func(token string) string {
			return `{` + token + strings.Repeat(`,"access_token":null`, n/20) + `,` + token + `}`
		},
		"escapes, all the way on": func(token string) string { return `{` + token + `,"x":"` + strings.Repeat(`\u0041`, n/6) + `"}` },
	} {
		t.Run(name, func(t *testing.T) {
			p := provider.New(provider.Generic)
			s := newSidecarOf(t, p, setup{tokenURL: mangled(t, p, func(w http.ResponseWriter, a *httptest.ResponseRecorder) {
				w.Header().Set("Content-Type", "application/json")
				token := strings.TrimSpace(a.Body.String())
				_, _ = w.Write([]byte(wrap(token[1 : len(token)-1])))
			})})
			s.start(t)
			if cost := costs(func() { s.get(t).wantOK(t) }); cost > costlyAnswer {
				t.Errorf("%d MiB for an answer of %d KiB", cost>>20, n>>10)
			}
		})
	}
}

// TestAttack14Refusals: nor does a refusal cost more, nor what is in its headers.
func TestAttack14Refusals(t *testing.T) {
	const n = 58 << 10
	headers := func(name, format string, size int) http.Header {
		h := http.Header{}
		for i := 0; size > 0; i++ {
			value := fmt.Sprintf(format, i)
			h.Add(name, value)
			size -= len(name) + len(value) + len(": \r\n")
		}
		return h
	}
	looking := "response {\nerror_when error x*\nconsent_lost text no*such*text\nuser_refused header X-Many a*b\naccess_token cookie:jwt access_token\n}"
	for name, c := range map[string]struct {
		status int
		header http.Header
		body   string
		grant  string
		says   string
	}{
		"deep":               {body: nested(n), says: "status 400, application/json"},
		"a deep error":       {body: `{"error":` + nested(n) + `}`, says: "with error"},
		"a long error":       {body: `{"error":"` + strings.Repeat("E", n) + `"}`, grant: looking, says: "with error"},
		"many pairs":         {header: http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}, body: strings.Repeat("a=b&", n/4), says: "application/x-www-form-urlencoded with"},
		"text":               {body: strings.Repeat("A", n), grant: looking, says: "not JSON"},
		"many cookies":       {status: 200, header: headers("Set-Cookie", "jwt=; Max-Age=%d", n), body: `{}`, grant: looking, says: "no access token"},
		"many headers":       {header: headers("X-Many", "A%d", n), body: `{}`, grant: looking, says: "status 400"},
		"megabytes of those": {header: headers("X-Many", "A%d", 4<<20), body: `{}`, grant: looking, says: "server response headers exceeded"},
		"by its own transport": {
			header: headers("X-Many", "A%d", 4<<20), body: `{}`, grant: looking + "\ntransport {\ndial_timeout 5s\n}", says: "server response headers exceeded",
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := launch(t, setup{grantType: "client_credentials", grant: c.grant, source: answersAtOnce})
			status := c.status
			if status == 0 {
				status = http.StatusBadRequest
			}
			s.p.ScriptToken(provider.Always(provider.Status(status, c.header, c.body)))
			if cost := costs(func() { s.get(t) }); cost > costlyAnswer {
				t.Errorf("%d MiB for an answer of %d KiB", cost>>20, n>>10)
			}
			s.wantLogged(t, c.says)
		})
	}
}

// TestAttack14API: nor does a refusal of the API's into which matchers look.
func TestAttack14API(t *testing.T) {
	const n = 256 << 10
	for name, c := range map[string]struct {
		header http.Header
		body   string
	}{
		"deep":          {nil, nested(n)},
		"many values":   {nil, `[` + strings.Repeat(`0,`, n/2) + `0]`},
		"a long error":  {nil, `{"error":"` + strings.Repeat("E", n) + `"}`},
		"a challenge":   {http.Header{"Www-Authenticate": {"Bearer " + strings.Repeat("Error ", n/6)}}, `{"error":"gone"}`},
		"of many parts": {http.Header{"Content-Type": {"text/plain;" + strings.Repeat("a=b;", n/4)}}, `{"error":"gone"}`},
	} {
		t.Run(name, func(t *testing.T) {
			s := launch(t, setup{transport: "settle off\nbreaker {\ntrip_after 1\n}\nauth_failure {\njson a.a.a.a.b x*\njson error gone\ntext no*such*text nor*this\nheader Www-Authenticate *error*\n}"})
			s.get(t).wantOK(t)
			s.p.ScriptAPI(provider.Always(provider.Status(http.StatusBadRequest, c.header, c.body)))
			if cost := costs(func() {
				if got := s.get(t); got.status != http.StatusBadRequest || got.body != c.body {
					t.Errorf("status %d, %d bytes of %d", got.status, len(got.body), len(c.body))
				}
			}); cost > costlyAnswer {
				t.Errorf("%d MiB", cost>>20)
			}
		})
	}
}
