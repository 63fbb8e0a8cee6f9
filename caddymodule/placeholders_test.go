package caddymodule

import (
	"context"
	"crypto/sha256"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-bearer/caddy-bearer/tokensource"
)

// sentForm is what a token call says: its URL, a header, and its form.
type sentForm struct {
	url, header string
	form        url.Values
}

// TestTimePerCall: each token call tells its own time, and the token's record is
// the same one all the while.
func TestTimePerCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &Endpoint{
			TokenURL: "https://idp.example/token?at={time.now.unix_ms}",
			Params:   []Param{{Name: "at", Value: "{time.now.unix}"}, {Name: "year", Value: "in {time.now.year}"}},
			Headers:  []Header{{Name: "X-Date", Value: "{time.now.http}"}},
		}
		newGrant := func() *tokensource.EndpointGrant {
			gc := &GrantContext{resolver: &resolver{repl: caddy.NewReplacer(), sum: sha256.New()}}
			ep, err := e.build(gc)
			if err != nil {
				t.Fatal(err)
			}
			return tokensource.ClientCredentials(ep)
		}
		g := newGrant()
		var sent []sentForm
		g.Endpoint.Transport = fakeEndpoint(func(req *http.Request) (int, string) {
			body, err := io.ReadAll(req.Body)
			if err != nil {
				t.Error(err)
			}
			form, err := url.ParseQuery(string(body))
			if err != nil {
				t.Error(err)
			}
			sent = append(sent, sentForm{req.URL.String(), req.Header.Get("X-Date"), form})
			return 200, `{"access_token": "t"}`
		})
		identity := strings.Join(g.Info().Identity, "\n")
		for range 3 {
			now := time.Now()
			if _, err := g.Token(context.Background(), tokensource.Vars{}); err != nil {
				t.Fatal(err)
			}
			got, repl := sent[len(sent)-1], caddy.NewReplacer()
			if want := repl.ReplaceAll(e.TokenURL, ""); got.url != want {
				t.Errorf("called %s, want %s", got.url, want)
			}
			if want := repl.ReplaceAll("{time.now.http}", ""); got.header != want {
				t.Errorf("X-Date %s, want %s", got.header, want)
			}
			if want := repl.ReplaceAll("{time.now.unix} in {time.now.year}", ""); got.form.Get("at")+" "+got.form.Get("year") != want {
				t.Errorf("sent %v, want %s", got.form, want)
			}
			if again := strings.Join(newGrant().Info().Identity, "\n"); again != identity {
				t.Errorf("at %v the identity is\n%s\nand was\n%s", now, again, identity)
			}
			time.Sleep(400 * 24 * time.Hour)
		}
	})
}

// TestTimesAreCaddys: the placeholders are all that Caddy has, written as Caddy
// writes them.
func TestTimesAreCaddys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		vars, repl := callVars(), caddy.NewReplacer()
		for name := range times {
			got, _ := vars(name)
			want, ok := repl.GetString(name)
			if got, want = withoutMonotonic(got), withoutMonotonic(want); !ok || got != want {
				t.Errorf("{%s} is %q, want %q", name, got, want)
			}
		}
		if _, ok := vars("time.now.unix_us"); ok {
			t.Error("a name that Caddy has not")
		}
		if value, ok := vars("env.GOOD"); ok {
			t.Errorf("{env.GOOD} is %q", value)
		}
	})
}

// withoutMonotonic is a time as text, without its monotonic reading.
func withoutMonotonic(text string) string {
	text, _, _ = strings.Cut(text, " m=")
	return text
}
