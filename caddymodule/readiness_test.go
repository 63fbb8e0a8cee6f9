package caddymodule

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-bearer/caddy-bearer/tokensource"
)

func TestReadinessOf(t *testing.T) {
	stats := func(tokens, failing, overdue, person, unstored int) sourceState {
		return sourceState{Stats: tokensource.Stats{Tokens: tokens, Failing: failing, Overdue: overdue, NeedPerson: person, Unstored: unstored}}
	}
	with := func(s sourceState, change func(*sourceState)) sourceState {
		change(&s)
		return s
	}
	keyed := func(s *sourceState) { s.keyed = true }
	eager := func(s *sourceState) { s.eager = true }
	trouble := func(f tokensource.Fault) func(*sourceState) {
		return func(s *sourceState) { s.troubles = append(s.troubles, tokensource.Trouble{Fault: f, Keys: 1}) }
	}
	down := trouble(tokensource.FaultStore)
	for name, c := range map[string]struct {
		state   sourceState
		status  string
		reasons []string
	}{
		"lazy, never used":              {stats(0, 0, 0, 0, 0), statusReady, nil},
		"the first token is on the way": {with(stats(0, 0, 0, 0, 0), eager), statusStarting, nil},
		"serves":                        {with(stats(1, 0, 0, 0, 0), eager), statusReady, nil},
		"not stored":                    {stats(1, 0, 0, 0, 1), statusDegraded, []string{reasonUnstored}},
		"lost, and valid":               {stats(1, 0, 0, 1, 0), statusDegraded, []string{reasonConsentLost}},
		"lost, and expired":             {stats(0, 0, 0, 1, 0), statusUnavailable, []string{reasonConsentLost}},
		"another source's fault":        {stats(0, 1, 0, 0, 0), statusUnavailable, []string{reasonEndpointDown}},
		"endpoint down":                 {with(stats(0, 1, 0, 0, 0), trouble(tokensource.FaultEndpoint)), statusUnavailable, []string{reasonEndpointDown}},
		"endpoint down, serves":         {with(stats(1, 0, 0, 0, 0), trouble(tokensource.FaultEndpoint)), statusDegraded, []string{reasonEndpointDown}},
		"endpoint down, in its grace":   {with(stats(0, 0, 1, 0, 0), trouble(tokensource.FaultEndpoint)), statusDegraded, []string{reasonEndpointDown}},
		"client refused at the start":   {with(with(stats(0, 1, 0, 0, 0), eager), trouble(tokensource.FaultClient)), statusUnavailable, []string{reasonClientRefused}},
		"store down, never used":        {with(stats(0, 0, 0, 0, 0), down), statusDegraded, []string{reasonStoreDown}},
		"store down":                    {with(stats(1, 0, 0, 0, 0), down), statusDegraded, []string{reasonStoreDown}},
		"store down, and no token":      {with(stats(0, 1, 0, 0, 0), down), statusUnavailable, []string{reasonStoreDown}},
		"API's breaker half-open":       {with(stats(1, 0, 0, 0, 0), func(s *sourceState) { s.api = tokensource.BreakerHalfOpen }), statusDegraded, []string{reasonAPIRefuses}},
		"keyed, all lost":               {with(stats(0, 3, 0, 3, 0), keyed), statusDegraded, []string{reasonConsentLost}},
		"keyed, some suspected":         {with(with(stats(5, 1, 0, 0, 0), keyed), trouble(tokensource.FaultSuspected)), statusDegraded, []string{reasonConsentLost}},
		"record refused":                {with(stats(0, 1, 0, 0, 0), trouble(tokensource.FaultRecord)), statusUnavailable, []string{reasonRecordRefused}},
		"record refused, serves":        {with(stats(1, 0, 0, 0, 0), trouble(tokensource.FaultRecord)), statusDegraded, []string{reasonRecordRefused}},
		"keyed, one record refused":     {with(with(stats(0, 0, 0, 0, 0), keyed), trouble(tokensource.FaultRecord)), statusDegraded, []string{reasonRecordRefused}},
		"keyed, one user refused":       {with(with(stats(0, 1, 0, 0, 0), keyed), trouble(tokensource.FaultUser)), statusDegraded, []string{reasonUserRefused}},
		"keyed, the client refused":     {with(with(stats(0, 1, 0, 0, 0), keyed), trouble(tokensource.FaultClient)), statusUnavailable, []string{reasonClientRefused}},
		"keyed, refused, some serve":    {with(with(stats(2, 1, 0, 0, 0), keyed), trouble(tokensource.FaultClient)), statusDegraded, []string{reasonClientRefused}},
	} {
		got := readinessOf(c.state)
		if got.Status != c.status || !slices.Equal(got.Reasons, c.reasons) || got.Reasons == nil {
			t.Errorf("%s: %s %v, want %s %v", name, got.Status, got.Reasons, c.status, c.reasons)
		}
	}
}

// TestReadinessIsTheWorst of the sources', in its own words.
func TestReadinessIsTheWorst(t *testing.T) {
	app := metricsApp(t, "well", "failing")
	app.Sources = map[string]*TokenSource{"well": {}, "failing": {}}
	read := func() (int, string) {
		w := httptest.NewRecorder()
		if err := app.readiness().write(w); err != nil {
			t.Fatal(err)
		}
		if w.Header().Get("Content-Type") != "application/json" || w.Header().Get("Cache-Control") != "no-store" {
			t.Errorf("headers %v", w.Header())
		}
		return w.Code, w.Body.String()
	}
	const well = `{"status":"ready","reasons":[],"tokens":0,"unstored":0,"needs_person":0,"breaker":"closed","store":"up"}`
	if status, body := read(); status != 200 || body != `{"status":"ready","sources":{"failing":`+well+`,"well":`+well+"}}\n" {
		t.Errorf("got %d %s", status, body)
	}
	src := testSource(t, tokensource.Config{Grant: testGrant(func(*http.Request) (int, string) { return 400, `{"error": "invalid_client"}` })})
	if _, err := src.Token(t.Context(), tokensource.Key{}); err == nil {
		t.Fatal("a token")
	}
	app.built["failing"].Source = src
	status, body := read()
	var got readiness
	if err := json.Unmarshal([]byte(body), &got); err != nil {
		t.Fatal(err)
	}
	if status != 503 || got.Status != statusUnavailable || got.Sources["failing"].Status != statusUnavailable || got.Sources["well"].Status != statusReady {
		t.Errorf("got %d %s", status, body)
	}
}

func TestAdminAPI(t *testing.T) {
	routes := adminAPI{}.Routes()
	if len(routes) != 1 {
		t.Fatalf("%d routes", len(routes))
	}
	ask := func(method, path string) (*httptest.ResponseRecorder, int) {
		w := httptest.NewRecorder()
		err := routes[0].Handler.ServeHTTP(w, httptest.NewRequest(method, path, nil))
		var api caddy.APIError
		if errors.As(err, &api) {
			return w, api.HTTPStatus
		}
		if err != nil {
			t.Fatal(err)
		}
		return w, w.Code
	}
	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	if w, status := ask(http.MethodGet, "/token_sources/readiness"); status != 503 || w.Body.String() != `{"status":"unavailable","sources":{}}`+"\n" {
		t.Errorf("no config runs: %d %s", status, w.Body)
	}
	for _, method := range []string{http.MethodPost, http.MethodPut, http.MethodDelete, http.MethodOptions, http.MethodTrace} {
		if w, status := ask(method, "/token_sources/readiness"); status != 405 || w.Header().Get("Allow") != "GET, HEAD" {
			t.Errorf("%s: %d, Allow %q", method, status, w.Header().Get("Allow"))
		}
	}
	for _, path := range []string{"/token_sources/", "/token_sources/readiness/", "/token_sources/api", "/token_sources/readiness/api"} {
		if _, status := ask(http.MethodGet, path); status != 404 {
			t.Errorf("%s: %d", path, status)
		}
	}
}

// TestReadinessCallers: source names and counts are for this host, as its
// tokens are.
func TestReadinessCallers(t *testing.T) {
	ctx, cancel := caddy.NewContext(caddy.Context{Context: t.Context()})
	defer cancel()
	tr := &TokenReadiness{ctx: ctx, callers: *mustCallers(t, nil, nil)}
	serve := func(req *http.Request) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		if err := tr.ServeHTTP(w, req, nil); err != nil {
			t.Fatal(err)
		}
		return w
	}
	if w := serve(call("127.0.0.1:1", "localhost:9")); w.Code != 200 || w.Body.String() != `{"status":"ready","sources":{}}`+"\n" {
		t.Errorf("no sources: %d %s", w.Code, w.Body)
	}
	page := call("127.0.0.1:1", "localhost:9")
	page.Header.Set("Origin", "https://evil.example")
	for name, req := range map[string]*http.Request{
		"another host": call("10.1.2.3:1", "localhost:9"), "a rebound name": call("127.0.0.1:1", "evil.example"), "a page": page,
	} {
		if w := serve(req); w.Code != 403 || !strings.Contains(w.Body.String(), problemCallerRefused) {
			t.Errorf("%s: %d %s", name, w.Code, w.Body)
		}
	}
	for _, method := range []string{http.MethodPost, http.MethodTrace, http.MethodOptions} {
		req := call("127.0.0.1:1", "localhost:9")
		req.Method = method
		if w := serve(req); w.Code != 405 || w.Header().Get("Allow") != "GET, HEAD" {
			t.Errorf("%s: %d, Allow %q", method, w.Code, w.Header().Get("Allow"))
		}
	}
}

// TestReadinessNamedCallers: who names ranges lets them ask, and nobody else.
func TestReadinessNamedCallers(t *testing.T) {
	ctx, cancel := caddy.NewContext(caddy.Context{Context: t.Context()})
	defer cancel()
	tr := &TokenReadiness{Callers: []string{"10.42.0.0/16"}}
	if err := tr.Provision(ctx); err != nil {
		t.Fatal(err)
	}
	for peer, want := range map[string]int{"10.42.0.1:1": 200, "10.43.0.1:1": 403, "127.0.0.1:1": 403, "@": 403, "socket": 200} {
		req := call(peer, "10.42.7.7:9001")
		if peer == "socket" {
			req = overSocket("10.42.7.7:9001")
		}
		w := httptest.NewRecorder()
		if err := tr.ServeHTTP(w, req, nil); err != nil {
			t.Fatal(err)
		}
		if w.Code != want {
			t.Errorf("%s: %d %s", peer, w.Code, w.Body)
		}
	}
	for _, wrong := range []string{"all", "10.0.0.0/33", ""} {
		err := (&TokenReadiness{Callers: []string{wrong}}).Provision(ctx)
		if err == nil || !strings.Contains(err.Error(), "token_readiness: callers: ") {
			t.Errorf("callers %q: %v", wrong, err)
		}
	}
}
