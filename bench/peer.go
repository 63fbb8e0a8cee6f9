package main

import (
	"context"
	"flag"
	"net/http"
	"net/http/httputil"
	"net/url"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"
)

// peerArgs are the arguments of servePeer in front of one lane of a provider.
func peerArgs(listen string, p *provider, lane int) []string {
	return []string{
		"-listen", listen, "-to", "http://" + p.Lanes[lane],
		"-token-url", p.TokenURL, "-client-id", p.ClientID, "-client-secret", p.ClientSecret,
	}
}

// servePeer is what one writes without this module: the standard library's
// reverse proxy over the transport of golang.org/x/oauth2, both as they come.
func servePeer(ctx context.Context, args []string) error {
	fs := flag.NewFlagSet("peer", flag.ContinueOnError)
	listen := fs.String("listen", "", "address to listen on")
	tokenURL := fs.String("token-url", "", "token endpoint")
	clientID := fs.String("client-id", "", "at the token endpoint")
	clientSecret := fs.String("client-secret", "", "at the token endpoint")
	to := fs.String("to", "", "URL of the API")
	if err := fs.Parse(args); err != nil {
		return err
	}
	target, err := url.Parse(*to)
	if err != nil {
		return err
	}
	grant := clientcredentials.Config{ClientID: *clientID, ClientSecret: *clientSecret, TokenURL: *tokenURL}
	proxy := &httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(target) },
		Transport: &oauth2.Transport{Source: grant.TokenSource(ctx)},
	}
	srv := &http.Server{Addr: *listen, Handler: proxy}
	context.AfterFunc(ctx, func() { _ = srv.Close() })
	return srv.ListenAndServe()
}
