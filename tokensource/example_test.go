package tokensource_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"

	"golang.org/x/oauth2"

	"github.com/caddy-bearer/caddy-bearer/tokensource"
	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenendpoint"
)

// A Source feeds golang.org/x/oauth2's Transport: the http.Client adds a
// token to each request, and the source keeps it alive.
func Example() {
	idp := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id, secret, _ := r.BasicAuth()
		fmt.Printf("token call: %s of %q, %s:%s\n", r.FormValue("grant_type"), r.FormValue("scope"), id, secret)
		_, _ = io.WriteString(w, `{"access_token":"a-token","token_type":"Bearer","expires_in":3600}`)
	}))
	defer idp.Close()
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprintf(w, "hello, %s\n", r.Header.Get("Authorization"))
	}))
	defer api.Close()

	source, err := tokensource.New(tokensource.Config{
		Name:  "example",
		Grant: tokensource.ClientCredentials(tokenendpoint.New(idp.URL, "me", "hush"), "read", "write"),
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx := context.Background()
	defer func() { _ = source.Close(ctx) }()

	client := &http.Client{Transport: &oauth2.Transport{
		Base:   api.Client().Transport,
		Source: source.TokenSource(ctx, tokensource.Key{}),
	}}
	for range 2 {
		res, err := client.Get(api.URL)
		if err != nil {
			fmt.Println(err)
			return
		}
		_, _ = io.Copy(os.Stdout, res.Body)
		_ = res.Body.Close()
	}
	// Output:
	// token call: client_credentials of "read write", me:hush
	// hello, Bearer a-token
	// hello, Bearer a-token
}
