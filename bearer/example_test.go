package bearer_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"

	"github.com/caddy-bearer/caddy-bearer/bearer"
	"github.com/caddy-bearer/caddy-bearer/tokensource"

	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenendpoint"
)

// provider is a token endpoint that issues token-1, token-2 and so on.
func provider() *httptest.Server {
	n := 0
	return httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n++
		w.Header().Set("Content-Type", "application/json")
		_, _ = fmt.Fprintf(w, `{"access_token": "token-%d%s", "expires_in": 3600}`, n, r.FormValue("user"))
	}))
}

// A client whose token is revoked behind its back does not notice: the token is
// renewed, and the request sent again with its whole body.
func Example() {
	idp := provider()
	defer idp.Close()
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		token := r.Header.Get("Authorization")
		if token == "Bearer token-1" && r.Method == http.MethodPost { // revoked by now
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		body, _ := io.ReadAll(r.Body)
		_, _ = fmt.Fprintf(w, "%s %s %s\n", r.Method, token, body)
	}))
	defer api.Close()

	source, err := tokensource.New(tokensource.Config{
		Name:  "example",
		Grant: tokensource.ClientCredentials(tokenendpoint.New(idp.URL, "me", "hush")),
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = source.Close(context.Background()) }()

	client := &http.Client{Transport: &bearer.Transport{Source: source}}
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		req, err := http.NewRequest(method, api.URL, strings.NewReader("hello"))
		if err != nil {
			fmt.Println(err)
			return
		}
		res, err := client.Do(req)
		if err != nil {
			fmt.Println(err)
			return
		}
		_, _ = io.Copy(os.Stdout, res.Body)
		_ = res.Body.Close()
	}
	// Output:
	// GET Bearer token-1 hello
	// POST Bearer token-2 hello
}

// Each user has a token of their own. The request's context says whose it
// gets; a request of nobody is not sent.
func ExampleWithKey() {
	idp := provider()
	defer idp.Close()
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprintln(w, "hello,", r.Header.Get("Authorization"))
	}))
	defer api.Close()

	user, err := tokenendpoint.ParseTemplate("-for-{key.user}")
	if err != nil {
		fmt.Println(err)
		return
	}
	endpoint := tokenendpoint.New(idp.URL, "me", "hush")
	endpoint.Params = []tokenendpoint.Param{{Name: "user", Value: user}}
	source, err := tokensource.New(tokensource.Config{
		Name:     "example",
		Grant:    tokensource.ClientCredentials(endpoint),
		KeyNames: []string{"user"},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = source.Close(context.Background()) }()

	client := &http.Client{Transport: &bearer.Transport{Source: source}}
	get := func(ctx context.Context) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, api.URL, nil)
		if err != nil {
			fmt.Println(err)
			return
		}
		res, err := client.Do(req)
		if errors.Is(err, bearer.ErrKey) {
			fmt.Println("whose request is this?")
			return
		}
		if err != nil {
			fmt.Println(err)
			return
		}
		_, _ = io.Copy(os.Stdout, res.Body)
		_ = res.Body.Close()
	}
	get(bearer.WithKey(context.Background(), tokensource.NewKey("ann")))
	get(bearer.WithKey(context.Background(), tokensource.NewKey("bob")))
	get(bearer.WithKey(context.Background(), tokensource.NewKey("ann")))
	get(context.Background())
	// Output:
	// hello, Bearer token-1-for-ann
	// hello, Bearer token-2-for-bob
	// hello, Bearer token-1-for-ann
	// whose request is this?
}
