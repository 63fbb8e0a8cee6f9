package tests

import (
	"io"
	"net/http"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/caddy-bearer/caddy-bearer/tests/provider"
)

// troubles are what a token endpoint may be in, by the name that a test asks for them.
var troubles = map[string]func(w http.ResponseWriter, r *http.Request){
	"timeout": func(_ http.ResponseWriter, r *http.Request) {
		<-r.Context().Done()
	},
	"500":       func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) },
	"502":       func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) },
	"malformed": func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"access_token":"abc`) },
	"page":      func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<!doctype html><p>Sign in") },
	"cut": func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "1000")
		_, _ = io.WriteString(w, `{"access_token":"abc`)
		panic(http.ErrAbortHandler)
	},
	"reset": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
	"redirect": func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Location", "http://127.0.0.1:1/")
		w.WriteHeader(http.StatusTemporaryRedirect)
	},
	"huge": func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, 1<<20)) },
}

// TestFaults1To12AfterTheToken: each trouble outlasts a token. It serves until it expires; then comes a 503 that says when
// to ask again, and no call goes out without a token. Each user meets a trouble of his own.
func TestFaults1To12AfterTheToken(t *testing.T) {
	s := newSidecar(t, setup{
		grant:  "header X-Trouble {key.user}\ntimeout 500ms",
		source: alwaysDue + "\nkey user {header.X-User}\nbreaker {\ntrip_after 10000\n}",
	})
	s.p.SetExpiresIn(2)
	s.start(t)
	for name := range troubles {
		s.as(t, name).wantOK(t)
	}
	s.p.ScriptToken(provider.Always(provider.Function(func(w http.ResponseWriter, r *http.Request) bool {
		troubles[r.Header.Get("X-Trouble")](w, r)
		return true
	})))
	began := time.Now()
	var wg sync.WaitGroup
	for name := range troubles {
		wg.Go(func() {
			var got answer
			for got = s.quietly(t, name); got.status == http.StatusOK; got = s.quietly(t, name) {
				if time.Since(began) > hang {
					t.Errorf("%s: the token serves for ever", name)
					return
				}
			}
			if got.status != http.StatusServiceUnavailable || got.problem() != "token-unavailable" || time.Since(began) < time.Second {
				t.Errorf("%s: status %d after %v: %s", name, got.status, time.Since(began), got.body)
			}
			if n, err := strconv.Atoi(got.header.Get("Retry-After")); err != nil || n < 1 || n > 300 {
				t.Errorf("%s: Retry-After is %q", name, got.header.Get("Retry-After"))
			}
		})
	}
	wg.Wait()
	for _, call := range s.p.APICalls() {
		if call.Serial == 0 || call.Status != http.StatusOK {
			t.Errorf("a call with token %d was answered %d", call.Serial, call.Status)
		}
	}
}

// quietly is as for use by several goroutines at once.
func (s *sidecar) quietly(t *testing.T, user string) answer {
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.base+"/", nil)
	if err != nil {
		t.Error(err)
		return answer{}
	}
	req.Header.Set("X-User", user)
	resp, err := s.client.Do(req)
	if err != nil {
		t.Error(err)
		return answer{}
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Error(err)
	}
	return answer{status: resp.StatusCode, header: resp.Header, body: string(text)}
}
