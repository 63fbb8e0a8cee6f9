package caddymodule_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
)

// sent is one request that an API got.
type sent struct{ token, body string }

// bodyAPI refuses the first token, reading of the body as much as it is told.
type bodyAPI struct {
	*httptest.Server
	mu     sync.Mutex
	got    []sent
	onFail func()
	unread bool
	always bool // refuses every token
}

func newBodyAPI(t *testing.T) *bodyAPI {
	t.Helper()
	a := &bodyAPI{}
	a.Server = httptest.NewServer(a)
	t.Cleanup(a.Close)
	return a
}

func (a *bodyAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	refused := a.always || r.Header.Get("Authorization") == "Bearer t1"
	var body []byte
	if !refused || !a.unread {
		body, _ = io.ReadAll(r.Body)
	}
	a.mu.Lock()
	a.got = append(a.got, sent{r.Header.Get("Authorization"), string(body)})
	a.mu.Unlock()
	if refused {
		if a.onFail != nil {
			a.onFail()
		}
		w.Header().Set("Connection", "close")
		w.WriteHeader(http.StatusUnauthorized)
	}
	_, _ = io.WriteString(w, "answer")
}

func (a *bodyAPI) requests() []sent {
	a.mu.Lock()
	defer a.mu.Unlock()
	return append([]sent{}, a.got...)
}

// post sends a body, without its length when it is chunked.
func (s *sidecar) post(t *testing.T, body string, chunked bool) *http.Response {
	t.Helper()
	var r io.Reader = strings.NewReader(body)
	if chunked {
		r = io.MultiReader(r)
	}
	res, err := s.client.Post("http://localhost/", "text/plain", r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = res.Body.Close() })
	return res
}

func proxied(tokens *fakeAPI, upstreams, options string) string {
	text := strings.Replace(reload(tokens, "", ""), "reverse_proxy "+tokens.URL, "reverse_proxy "+upstreams, 1)
	text = strings.Replace(text, "token_source api {", "token_source api {\n\t\tmin_interval 1ns", 1)
	return strings.Replace(text, "transport bearer api", options+"\n\t\ttransport bearer api {\n\t\t\tsettle off\n\t\t}", 1)
}

// TestReplay is fault 22: the second sending has the whole body, whether the
// refusal came before or after the first was read.
func TestReplay(t *testing.T) {
	body := strings.Repeat("0123456789", 6000)
	for _, unread := range []bool{true, false} {
		for _, chunked := range []bool{true, false} {
			t.Run(fmt.Sprintf("unread %v/chunked %v", unread, chunked), func(t *testing.T) {
				tokens, api := newFakeAPI(t, httptest.NewServer), newBodyAPI(t)
				api.unread = unread
				s := newSidecar(t)
				s.mustLoad(t, proxied(tokens, api.URL, ""))
				if res := s.post(t, body, chunked); res.StatusCode != http.StatusOK || res.Header.Get("Proxy-Status") != "" {
					t.Errorf("status %d, Proxy-Status %q", res.StatusCode, res.Header.Get("Proxy-Status"))
				}
				got := api.requests()
				if len(got) != 2 || got[1] != (sent{"Bearer t2", body}) {
					t.Errorf("%d requests; the last has %d bytes of %d", len(got), len(got[len(got)-1].body), len(body))
				}
			})
		}
	}
}

// TestSecondRefusal: it is passed on as it came, with its reason, and nothing
// is sent a third time.
func TestSecondRefusal(t *testing.T) {
	tokens, api := newFakeAPI(t, httptest.NewServer), newBodyAPI(t)
	api.always = true
	s := newSidecar(t)
	s.mustLoad(t, proxied(tokens, api.URL, ""))
	res := s.post(t, "whole", false)
	body, err := io.ReadAll(res.Body)
	if why := res.Header.Get("Proxy-Status"); err != nil || res.StatusCode != 401 || string(body) != "answer" || !strings.Contains(why, "refused again") {
		t.Errorf("status %d, %q, Proxy-Status %q, %v", res.StatusCode, body, why, err)
	}
	if got := api.requests(); len(got) != 2 || got[1] != (sent{"Bearer t2", "whole"}) {
		t.Errorf("requests %v", got)
	}
}

// TestNoReplayOfLongBodies: the refusal is passed on with its reason, and the
// body was not touched.
func TestNoReplayOfLongBodies(t *testing.T) {
	body := strings.Repeat("0123456789", 20000)
	for _, chunked := range []bool{true, false} {
		t.Run(fmt.Sprintf("chunked %v", chunked), func(t *testing.T) {
			tokens, api := newFakeAPI(t, httptest.NewServer), newBodyAPI(t)
			s := newSidecar(t)
			s.mustLoad(t, proxied(tokens, api.URL, ""))
			res := s.post(t, body, chunked)
			if why := res.Header.Get("Proxy-Status"); res.StatusCode != 401 || !strings.Contains(why, "cannot be sent again") {
				t.Errorf("status %d, Proxy-Status %q", res.StatusCode, why)
			}
			if got := api.requests(); len(got) != 1 || got[0].body != body {
				t.Errorf("%d requests", len(got))
			}
		})
	}
}

// TestReplayIsTheLastSending: when the second sending finds nobody to connect
// to, the body has been read. Caddy takes a failed dial for proof that it has
// not, and would send the next upstream an empty one.
func TestReplayIsTheLastSending(t *testing.T) {
	tokens, first, second := newFakeAPI(t, httptest.NewServer), newBodyAPI(t), newBodyAPI(t)
	first.onFail = func() { _ = first.Listener.Close() }
	s := newSidecar(t)
	s.mustLoad(t, proxied(tokens, first.URL+" "+second.URL, "lb_policy first\n\t\tlb_retries 3\n\t\tfail_duration 10s"))
	res := s.post(t, "whole", true)
	if got := first.requests(); len(got) != 1 {
		t.Fatalf("%d requests to the first", len(got))
	}
	for _, got := range second.requests() {
		if got.body != "whole" {
			t.Errorf("the app saw %d; the next upstream got the body %q", res.StatusCode, got.body)
		}
	}
}

// TestUpstreamsOfNestedProxies: a transport looks at the upstreams of its own
// reverse proxy, not at those of one that it is nested in.
func TestUpstreamsOfNestedProxies(t *testing.T) {
	tokens := newFakeAPI(t, httptest.NewServer)
	nested := func(outer, inner string) string {
		return strings.Replace(reload(tokens, "", ""), "reverse_proxy "+tokens.URL+" {\n\t\ttransport bearer api\n\t}",
			"reverse_proxy "+outer+" {\n\t\thandle_response {\n\t\t\treverse_proxy "+inner+" {\n\t\t\t\ttransport bearer api\n\t\t\t}\n\t\t}\n\t}", 1)
	}
	s := newSidecar(t)
	if err := s.load(t, nested("http://site.example", tokens.URL)); err != nil {
		t.Errorf("the token goes to loopback alone: %v", err)
	}
	if err := s.load(t, nested(tokens.URL, "http://api.example")); err == nil {
		t.Error("loaded, though the token would go out in the clear")
	}
}
