package bearer

import (
	"fmt"
	"net/http"
	"runtime"
	"strings"
	"testing"

	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenendpoint"
)

// TestAttack14Refusal: looking into an API's response costs a small multiple of what
// is looked at, whatever that is made of and however many matchers look.
func TestAttack14Refusal(t *testing.T) {
	const n = 1 << 20
	var af AuthFailure
	for i := range 10 {
		af.Any = append(af.Any,
			tokenendpoint.Matcher{JSON: fmt.Sprintf("a.a.a.a.%d", i), Values: []string{"x*y"}},
			tokenendpoint.Matcher{JSON: "error", Values: []string{"no*such", "code"}},
			tokenendpoint.Matcher{Text: []string{fmt.Sprintf("not in it*%d", i)}},
			tokenendpoint.Matcher{Header: "Www-Authenticate", Values: []string{"x*y", "y*z"}})
	}
	r := mustRefusal(t, &af)
	for name, body := range map[string]string{
		"objects in objects": strings.Repeat(`{"a":`, n/5),
		"arrays in arrays":   strings.Repeat(`[`, n),
		"numbers":            `[` + strings.Repeat(`0,`, n/2),
		"empty objects":      `[` + strings.Repeat(`{},`, n/3),
		"small objects":      `[` + strings.Repeat(`{"":0},`, n/7),
		"members":            `{` + strings.Repeat(`"x":0,`, n/6),
		"escaped names":      `{` + strings.Repeat(`"\u0061":0,`, n/11),
		"a long string":      `{"error":"` + strings.Repeat(`E`, n),
		"blanks":             `{` + strings.Repeat(` `, n),
		"text":               strings.Repeat(`A`, n),
	} {
		for _, zipped := range []bool{false, true} {
			header, text := []string{"Content-Type", "text/x;" + strings.Repeat("a=b;", 1<<10), "Www-Authenticate", strings.Repeat("Error ", 1<<10)}, body
			if zipped {
				header, text = append(header, "Content-Encoding", "gzip"), gzipped(t, body)
			}
			got := allocated(func() {
				if refused, err := r.matches(answered(http.StatusBadRequest, text, header...)); refused || err != nil {
					t.Errorf("%s: refused %v, %v", name, refused, err)
				}
			})
			if most := uint64(16*peekLimit + 128<<10); got > most {
				t.Errorf("%s, gzip %v: %d bytes allocated, %d for each byte that is looked at", name, zipped, got, got/peekLimit)
			}
		}
	}
}

// TestAttack14Challenge: nor does WWW-Authenticate by the megabyte.
func TestAttack14Challenge(t *testing.T) {
	const n = 256 << 10
	for _, header := range []http.Header{
		{"Www-Authenticate": {strings.Repeat("Error ", n/6)}},
		{"Www-Authenticate": strings.Fields(strings.Repeat("Error, ", n/7))},
	} {
		if got := allocated(func() { challengeError(header) }); got > 64<<10 {
			t.Errorf("%d bytes allocated", got)
		}
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
