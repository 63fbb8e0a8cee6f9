#!/usr/bin/env bash
# Go 1.26.8: net/http/httputil.ReverseProxy announces a request's trailers to the backend, and never sends them.
#
# A client that streams a body may say what it only knows at the end (a checksum, a status) in trailers, and announces their names
# before the body. ReverseProxy clones the request, its map of trailers included, before the server has read the body, which is when the
# values come. So they land in the original map, and the clone keeps the names alone: the backend is told of trailers, over
# HTTP/1.1 in a chunked body, and gets none. Nothing is logged.
#
# Seen: "announced: [X-Sum]" both ways; direct "received: map[X-Sum:[42]]", through the proxy "received: map[X-Sum:[]]".
# (Setting Out.Trailer = In.Trailer in Rewrite mends it.)
#
# Needs Go. It fails if the behaviour is another.
set -euo pipefail
folder=$(mktemp -d)
trap 'chmod -R u+w "$folder"; rm -rf "$folder"' EXIT
cd "$folder"
cat >main.go <<'GO'
package main

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
)

func main() {
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var announced []string
		for name := range r.Trailer {
			announced = append(announced, name)
		}
		_, _ = io.Copy(io.Discard, r.Body)
		fmt.Fprintf(w, "announced: %v; received: %v", announced, r.Trailer)
	}))
	target, err := url.Parse(backend.URL)
	if err != nil {
		panic(err)
	}
	proxy := httptest.NewServer(&httputil.ReverseProxy{Rewrite: func(pr *httputil.ProxyRequest) { pr.SetURL(target) }})
	for _, to := range []struct{ name, url string }{{"direct", backend.URL}, {"through ReverseProxy", proxy.URL}} {
		req, err := http.NewRequest(http.MethodPost, to.url, io.MultiReader(strings.NewReader("body")))
		if err != nil {
			panic(err)
		}
		req.Trailer = http.Header{"X-Sum": {"42"}}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			panic(err)
		}
		text, err := io.ReadAll(res.Body)
		if err != nil {
			panic(err)
		}
		res.Body.Close()
		fmt.Printf("%s: %s\n", to.name, text)
	}
}
GO
go mod init look >/dev/null 2>&1
seen=$(go run .)
echo "$seen"
want='direct: announced: [X-Sum]; received: map[X-Sum:[42]]
through ReverseProxy: announced: [X-Sum]; received: map[X-Sum:[]]'
[ "$seen" = "$want" ] || { echo "it is another now"; exit 1; }
