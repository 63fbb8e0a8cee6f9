package bearer_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-bearer/caddy-bearer/bearer"
	"github.com/caddy-bearer/caddy-bearer/tokensource"

	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenendpoint"
)

// roundTripper is an API without sockets.
type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

func answer(status int, body string) *http.Response {
	return &http.Response{
		StatusCode: status, Header: http.Header{"Content-Type": {"application/json"}},
		Body: io.NopCloser(strings.NewReader(body)), ContentLength: int64(len(body)),
	}
}

// grant issues t1, t2 and so on, or fails.
func grant(fail *tokenendpoint.Error) tokensource.Grant {
	var mu sync.Mutex
	n := 0
	return &tokensource.EndpointGrant{
		Type: "client_credentials",
		Endpoint: &tokenendpoint.Endpoint{
			URL: tokenendpoint.Literal("https://idp.example/token"), Auth: tokenendpoint.ClientNone,
			Transport: roundTripper(func(*http.Request) (*http.Response, error) {
				if fail != nil {
					return answer(fail.Status, `{"error": "`+string(fail.Code)+`"}`), nil
				}
				mu.Lock()
				defer mu.Unlock()
				n++
				return answer(http.StatusOK, fmt.Sprintf(`{"access_token": "t%d", "instance": "eu\n", "expires_in": 3600}`, n)), nil
			}),
		},
	}
}

func newSource(t testing.TB, cfg tokensource.Config) *tokensource.Source {
	t.Helper()
	cfg.Name = "api"
	if cfg.Grant == nil {
		cfg.Grant = grant(nil)
	}
	cfg.MinInterval = time.Nanosecond
	src, err := tokensource.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = src.Close(context.Background()) })
	return src
}

// api notes what it gets, and refuses the tokens that refuses names.
type api struct {
	refuses []string
	tokens  []string
	bodies  []string
}

func (a *api) RoundTrip(req *http.Request) (*http.Response, error) {
	var body []byte
	if req.Body != nil {
		var err error
		if body, err = io.ReadAll(req.Body); err != nil {
			return nil, err
		}
		_ = req.Body.Close()
	}
	token := strings.Join(req.Header["Authorization"], " and ")
	a.tokens, a.bodies = append(a.tokens, token), append(a.bodies, string(body))
	if slices.Contains(a.refuses, token) || slices.Contains(a.refuses, "*") {
		return answer(http.StatusUnauthorized, `"no"`), nil
	}
	return answer(http.StatusOK, `"yes"`), nil
}

// counted is an Observer.
type counted []string

func (c *counted) Request(r bearer.Result) { *c = append(*c, string(r)) }
func (c *counted) Replay(r bearer.Replay)  { *c = append(*c, "replay "+string(r)) }

// body is a request's body that notes whether it was closed.
type body struct {
	io.Reader
	closed bool
}

func (b *body) Close() error {
	b.closed = true
	return nil
}

// hidden hides a reader's type, so that a request's length is unknown.
type hidden struct{ io.Reader }

func request(t testing.TB, target string, content io.Reader) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, target, content)
	if err != nil {
		t.Fatal(err)
	}
	return req
}

const target = "https://api.example/path?q=1"

// TestZeroConfig: the token replaces whatever the program sends for one, and
// the request that it gave stays as it was.
func TestZeroConfig(t *testing.T) {
	a := new(api)
	tr := &bearer.Transport{Source: newSource(t, tokensource.Config{}), Base: a}
	req := request(t, target, strings.NewReader("content"))
	req.Header = http.Header{"Authorization": {"Basic theirs"}, "Authorization_": {"theirs"}, "Proxy-Authorization": {"theirs"}, "Accept": {"*/*"}}
	req.Trailer = http.Header{"Authorization": {"theirs"}, "X-Sum": {"1"}}
	before := req.Clone(t.Context())
	given := req.Body
	res, err := tr.RoundTrip(req)
	if err != nil || res.StatusCode != http.StatusOK {
		t.Fatal(res, err)
	}
	if !slices.Equal(a.tokens, []string{"Bearer t1"}) || !slices.Equal(a.bodies, []string{"content"}) {
		t.Errorf("sent %q %q", a.tokens, a.bodies)
	}
	if !reflect.DeepEqual(req.Header, before.Header) || !maps.EqualFunc(req.Trailer, before.Trailer, slices.Equal) ||
		*req.URL != *before.URL || req.Body != given {
		t.Errorf("the request was changed: %v", req)
	}
	bare := &http.Request{Method: http.MethodGet, URL: req.URL} // as no http.Client sends it
	if _, err := tr.RoundTrip(bare); err != nil || bare.Header != nil {
		t.Errorf("without a header: %v, %v", err, bare.Header)
	}
}

// TestRefused: a refused token is renewed, and the request sent again whole;
// what cannot be sent again is passed on with the reason.
func TestRefused(t *testing.T) {
	content := strings.Repeat("0123456789", 5000)
	long := content + content
	for name, c := range map[string]struct {
		refuses []string
		content string
		replay  int64
		status  int
		sent    []string
		why     string
		counts  []string
	}{
		"renewed":          {refuses: []string{"Bearer t1"}, status: 200, sent: []string{""}, counts: []string{"replay ok", "ok"}},
		"renewed, body":    {refuses: []string{"Bearer t1"}, content: content, status: 200, sent: []string{content}, counts: []string{"replay ok", "ok"}},
		"refused again":    {refuses: []string{"*"}, status: 401, sent: []string{""}, why: "refused again", counts: []string{"replay refused", "refused"}},
		"too long":         {refuses: []string{"Bearer t1"}, content: long, status: 401, why: "cannot be sent again", counts: []string{"replay body_gone", "refused"}},
		"long enough":      {refuses: []string{"Bearer t1"}, content: long, replay: 1 << 20, status: 200, sent: []string{long}, counts: []string{"replay ok", "ok"}},
		"no body":          {refuses: []string{"Bearer t1"}, content: "x", replay: bearer.NoBody, status: 401, why: "cannot be sent again", counts: []string{"replay body_gone", "refused"}},
		"no body, nothing": {refuses: []string{"Bearer t1"}, replay: bearer.NoBody, status: 200, sent: []string{""}, counts: []string{"replay ok", "ok"}},
		"not refused":      {content: "x", status: 200, counts: []string{"ok"}},
	} {
		t.Run(name, func(t *testing.T) {
			a, counts := &api{refuses: c.refuses}, new(counted)
			tr := &bearer.Transport{Source: newSource(t, tokensource.Config{}), Base: a, ReplayBody: c.replay, Observer: counts, Settle: -1}
			var content io.Reader
			if c.content != "" {
				content = hidden{strings.NewReader(c.content)}
			}
			res, err := tr.RoundTrip(request(t, target, content))
			if err != nil {
				t.Fatal(err)
			}
			if why := res.Header.Get("Proxy-Status"); res.StatusCode != c.status || !strings.Contains(why, c.why) || (c.why == "") != (why == "") {
				t.Errorf("status %d, Proxy-Status %q", res.StatusCode, why)
			}
			if want := append([]string{c.content}, c.sent...); !slices.Equal(a.bodies, want) {
				t.Errorf("%d requests, want %d, or their bodies differ", len(a.bodies), len(want))
			}
			if !slices.Equal(*counts, c.counts) {
				t.Errorf("counted %q, want %q", *counts, c.counts)
			}
		})
	}
}

// TestBreakerOpens: an API that keeps refusing is left alone, and asked again
// later.
func TestBreakerOpens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &api{refuses: []string{"*"}}
		bs := bearer.NewBreakers(tokensource.BreakerSettings{TripAfter: 2, OpenFor: time.Minute}, nil)
		tr := &bearer.Transport{Source: newSource(t, tokensource.Config{}), Base: a, Breakers: bs, Settle: -1}
		for range 2 {
			if res, err := tr.RoundTrip(request(t, target, nil)); err != nil || res.StatusCode != http.StatusUnauthorized {
				t.Fatal(res, err)
			}
			time.Sleep(time.Second)
		}
		sent := len(a.tokens)
		_, err := tr.RoundTrip(request(t, target, nil))
		if !errors.Is(err, tokensource.ErrBreakerOpen) || tokensource.RetryAfter(err) == 0 || bs.Worst() != tokensource.BreakerOpen {
			t.Errorf("got %v, worst %v", err, bs.Worst())
		}
		if len(a.tokens) != sent {
			t.Error("sent though the breaker is open")
		}
		a.refuses = nil
		time.Sleep(61 * time.Second)
		if _, err := tr.RoundTrip(request(t, target, nil)); err != nil || bs.Worst() != tokensource.BreakerClosed {
			t.Errorf("the probe: %v, worst %v", err, bs.Worst())
		}
	})
}

// TestNotSent: what cannot be sent with a token is not sent. The error says
// why, and the body is closed.
func TestNotSent(t *testing.T) {
	keyed := tokensource.Config{KeyNames: []string{"tenant", "user"}}
	with := func(values ...string) func(*http.Request) (tokensource.Key, error) {
		return func(*http.Request) (tokensource.Key, error) { return tokensource.NewKey(values...), nil }
	}
	broken := errors.New("broken")
	down := tokensource.Config{Grant: grant(&tokenendpoint.Error{Status: 503})}
	refused := tokensource.Config{Grant: grant(&tokenendpoint.Error{Status: 401, Code: "invalid_client"})}
	for name, c := range map[string]struct {
		cfg    tokensource.Config
		tr     *bearer.Transport
		target string
		want   error
		says   string
	}{
		"endpoint down":    {cfg: down, want: tokensource.ErrUnavailable},
		"client refused":   {cfg: refused, want: tokensource.ErrRefused},
		"http":             {target: "http://api.example/", want: bearer.ErrInsecure, says: "AllowHTTP"},
		"http, .localhost": {target: "http://api.localhost/", want: bearer.ErrInsecure},
		"no scheme":        {target: "//api.example/", want: bearer.ErrInsecure},
		"no key":           {cfg: keyed, want: bearer.ErrKey, says: "WithKey"},
		"zero key":         {cfg: keyed, tr: &bearer.Transport{Key: with()}, want: bearer.ErrKey, says: "tenant, user"},
		"half a key":       {cfg: keyed, tr: &bearer.Transport{Key: with("alice")}, want: bearer.ErrKey, says: "got 1 values"},
		"empty value":      {cfg: keyed, tr: &bearer.Transport{Key: with("acme", "")}, want: bearer.ErrKey, says: "user is empty"},
		"key for no keys":  {tr: &bearer.Transport{Key: with("alice")}, want: bearer.ErrKey},
		"key function":     {tr: &bearer.Transport{Key: func(*http.Request) (tokensource.Key, error) { return tokensource.Key{}, broken }}, want: broken},
		"not injectable":   {tr: &bearer.Transport{Inject: []bearer.Injection{{Header: "X-Instance", Value: "{token.instance}"}}}, want: bearer.ErrNotInjected, says: "X-Instance"},
		"no place":         {tr: &bearer.Transport{Inject: []bearer.Injection{{Value: "{token}"}}}, want: bearer.ErrSettings},
		"connection's":     {tr: &bearer.Transport{Inject: []bearer.Injection{{Header: "host", Value: "{token}"}}}, want: bearer.ErrSettings},
		"unknown variable": {tr: &bearer.Transport{Inject: []bearer.Injection{{Header: "X", Value: "{env.TOKEN}"}}}, want: bearer.ErrSettings, says: "{env.TOKEN}"},
		"unknown key":      {tr: &bearer.Transport{Inject: []bearer.Injection{{Header: "X", Value: "{key.user}"}}}, want: bearer.ErrSettings, says: "no such key"},
		"matcher, nothing": {tr: &bearer.Transport{AuthFailure: bearer.AuthFailure{Except: []tokenendpoint.Matcher{{}}}}, want: bearer.ErrSettings},
	} {
		t.Run(name, func(t *testing.T) {
			a, b, counts := new(api), &body{Reader: strings.NewReader("content")}, new(counted)
			tr := cmp.Or(c.tr, new(bearer.Transport))
			tr.Source, tr.Base, tr.Observer = newSource(t, c.cfg), a, counts
			if c.target == "" {
				c.target = target
			}
			res, err := tr.RoundTrip(request(t, c.target, b))
			var e *bearer.Error
			if res != nil || !errors.Is(err, c.want) || !errors.As(err, &e) || e.Source != "api" || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v, want %v", err, c.want)
			}
			if strings.Contains(err.Error(), "alice") || strings.Contains(err.Error(), "acme") {
				t.Errorf("the error names a user: %v", err)
			}
			if len(a.tokens) != 0 || !b.closed {
				t.Errorf("%d requests sent; body closed: %v", len(a.tokens), b.closed)
			}
			if !errors.Is(err, bearer.ErrSettings) && !slices.Equal(*counts, []string{"not_sent"}) {
				t.Errorf("counted %q", *counts)
			}
		})
	}
	if _, err := new(bearer.Transport).RoundTrip(request(t, target, nil)); !errors.Is(err, bearer.ErrSettings) {
		t.Errorf("without a source: %v", err)
	}
}

// TestPlainHTTP: to this host, and to hosts that are allowed by name.
func TestPlainHTTP(t *testing.T) {
	a := new(api)
	tr := &bearer.Transport{Source: newSource(t, tokensource.Config{}), Base: a, AllowHTTP: []string{"API.example"}}
	for _, target := range []string{"http://127.0.0.1:8080/", "http://[::1]/", "http://localhost/", "http://api.example:80/"} {
		if _, err := tr.RoundTrip(request(t, target, nil)); err != nil {
			t.Errorf("%s: %v", target, err)
		}
	}
}

// TestRedirects: the token does not follow a redirect to another host, though
// http.Client has removed Authorization for that very reason.
func TestRedirects(t *testing.T) {
	for location, want := range map[string]error{
		"https://files.example/": bearer.ErrInsecure,
		"http://api.example/":    bearer.ErrInsecure,
		"https://api.example/2":  nil,
		"/2":                     nil,
	} {
		n := 0
		client := &http.Client{Transport: &bearer.Transport{
			Source: newSource(t, tokensource.Config{}),
			Base: roundTripper(func(req *http.Request) (*http.Response, error) {
				n++
				res := answer(http.StatusOK, "")
				if res.Request = req; n == 1 {
					res.StatusCode, res.Header = http.StatusFound, http.Header{"Location": {location}}
				}
				return res, nil
			}),
		}}
		res, err := client.Get(target)
		if !errors.Is(err, want) || (want != nil) != (n == 1) {
			t.Errorf("%s: %v, %d requests", location, err, n)
		}
		if res != nil {
			_ = res.Body.Close()
		}
	}
}

// TestKeys: a request gets its user's token, and the values of its key where
// they are wanted.
func TestKeys(t *testing.T) {
	for _, fromContext := range []bool{true, false} {
		var got []string
		tr := &bearer.Transport{
			Source: newSource(t, tokensource.Config{KeyNames: []string{"user"}}),
			Base: roundTripper(func(req *http.Request) (*http.Response, error) {
				got = append(got, req.Header.Get("Authorization")+" "+req.Header.Get("X-For"))
				if req.Header["X-User"] != nil {
					t.Error("the header that the key is read from was sent")
				}
				return answer(http.StatusOK, ""), nil
			}),
			Inject: []bearer.Injection{{Header: "x-for", Value: "{key.user}"}},
			Remove: []string{"x-user"},
		}
		if !fromContext {
			tr.Key = func(req *http.Request) (tokensource.Key, error) {
				return tokensource.NewKey(req.Header.Get("X-User")), nil
			}
		}
		for _, user := range []string{"alice", "bob", "alice"} {
			req := request(t, target, nil)
			req.Header.Set("X-User", user)
			if fromContext {
				req = req.WithContext(bearer.WithKey(req.Context(), tokensource.NewKey(user)))
			}
			if _, err := tr.RoundTrip(req); err != nil {
				t.Fatal(err)
			}
		}
		if want := []string{"Bearer t1 alice", "Bearer t2 bob", "Bearer t1 alice"}; !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// TestTemplateIsNoText: a secret that looks like a variable stays what it is.
func TestTemplateIsNoText(t *testing.T) {
	var got string
	tr := &bearer.Transport{
		Source: newSource(t, tokensource.Config{}),
		Base: roundTripper(func(req *http.Request) (*http.Response, error) {
			got = req.Header.Get("X-Api-Key")
			return answer(http.StatusOK, ""), nil
		}),
		Inject: []bearer.Injection{{Header: "X-Api-Key", Value: "{env.KEY}", Template: tokenendpoint.Literal("{token}")}},
	}
	if _, err := tr.RoundTrip(request(t, target, nil)); err != nil || got != "{token}" {
		t.Errorf("sent %q, %v", got, err)
	}
}

// TestReplacedDefaultTransport: programs replace it, for tracing or in tests.
func TestReplacedDefaultTransport(t *testing.T) {
	a, std := new(api), http.DefaultTransport
	t.Cleanup(func() { http.DefaultTransport = std })
	http.DefaultTransport = a
	tr := &bearer.Transport{Source: newSource(t, tokensource.Config{})}
	if _, err := tr.RoundTrip(request(t, target, nil)); err != nil || !slices.Equal(a.tokens, []string{"Bearer t1"}) {
		t.Errorf("sent %q, %v", a.tokens, err)
	}
	tr.CloseIdleConnections() // which this one cannot
}

// TestBaseFails: its error comes as it is, unless the body is used up.
func TestBaseFails(t *testing.T) {
	broken := &net.OpError{Op: "dial", Err: errors.New("broken")}
	for name, c := range map[string]struct {
		failAt int
		body   io.Reader
		hidden bool
	}{
		"first":              {1, strings.NewReader("content"), false},
		"second":             {2, nil, false},
		"second with a body": {2, strings.NewReader("content"), true},
	} {
		n := 0
		tr := &bearer.Transport{
			Source: newSource(t, tokensource.Config{}),
			Base: roundTripper(func(req *http.Request) (*http.Response, error) {
				if n++; n == c.failAt {
					if req.Body != nil {
						_ = req.Body.Close()
					}
					return nil, broken
				}
				if req.Body != nil {
					_, _ = io.Copy(io.Discard, req.Body)
					_ = req.Body.Close()
				}
				return answer(http.StatusUnauthorized, ""), nil
			}),
		}
		var b *body
		var content io.Reader
		if c.body != nil {
			b = &body{Reader: c.body}
			content = b
		}
		_, err := tr.RoundTrip(request(t, target, content))
		if err == nil || err.Error() != broken.Error() || errors.Is(err, broken) == c.hidden {
			t.Errorf("%s: got %#v", name, err)
		}
		if b != nil && !b.closed {
			t.Errorf("%s: the body is not closed", name)
		}
	}
}

// TestCallerGone: it gets its own error, and the body is closed.
func TestCallerGone(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	b, counts := &body{Reader: strings.NewReader("content")}, new(counted)
	tr := &bearer.Transport{Source: newSource(t, tokensource.Config{}), Base: new(api), Observer: counts}
	_, err := tr.RoundTrip(request(t, target, b).WithContext(ctx))
	var e *bearer.Error
	if !errors.Is(err, context.Canceled) || errors.As(err, &e) || !b.closed || !slices.Equal(*counts, []string{"error"}) {
		t.Errorf("got %v; body closed: %v; counted %q", err, b.closed, *counts)
	}
}

// BenchmarkRoundTrip is what the transport costs around an API that answers
// at once.
func BenchmarkRoundTrip(b *testing.B) {
	res := &http.Response{StatusCode: http.StatusOK, Header: http.Header{"Cache-Control": {"private"}}, Body: http.NoBody}
	base := roundTripper(func(req *http.Request) (*http.Response, error) {
		if req.Body != nil {
			_, _ = io.Copy(io.Discard, req.Body)
			_ = req.Body.Close()
		}
		return res, nil
	})
	alice := tokensource.NewKey("alice")
	for name, c := range map[string]struct {
		keyNames []string
		content  string
	}{
		"plain": {}, "body": {content: strings.Repeat("x", 1000)}, "keyed": {keyNames: []string{"user"}},
	} {
		b.Run(name, func(b *testing.B) {
			tr := &bearer.Transport{Source: newSource(b, tokensource.Config{KeyNames: c.keyNames}), Base: base}
			req := request(b, target, nil)
			req = req.WithContext(bearer.WithKey(req.Context(), alice))
			src := strings.NewReader("")
			b.ReportAllocs()
			for b.Loop() {
				if c.content != "" {
					src.Reset(c.content)
					req.Body = io.NopCloser(src)
				}
				if _, err := tr.RoundTrip(req); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
