#!/usr/bin/env bash
# Caddy 2.11.9: the error of its HTTP transport for a failed connection hides what it is made of.
#
# reverseproxy.DialError says that an error happened while connecting. It embeds the error, but has no Unwrap. So errors.Is
# and errors.As see nothing behind it: a refused connection is no ECONNREFUSED, an unknown name is no *net.DNSError, and a
# timeout is no net.Error that times out. Whoever wraps the transport and wants to tell a refused connection from a timeout has
# only the text. (Caddy's own reverse_proxy asks the same question for its status: 504 for a timeout, else 502.)
#
# Seen: the text has "connection refused"; "is ECONNREFUSED: false", "has a *net.OpError: false", "is a net.Error: false". The
# same dial by package net answers true to all three.
#
# Needs Go. It fails if the behaviour is another.
set -euo pipefail
folder=$(mktemp -d)
trap 'chmod -R u+w "$folder"; rm -rf "$folder"' EXIT
cd "$folder"
cat >main.go <<'GO'
package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"syscall"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

func report(who string, err error) {
	var op *net.OpError
	var ne net.Error
	fmt.Printf("%s: text has \"connection refused\": %v; is ECONNREFUSED: %v; has a *net.OpError: %v; is a net.Error: %v\n", who,
		strings.Contains(err.Error(), "connection refused"), errors.Is(err, syscall.ECONNREFUSED), errors.As(err, &op), errors.As(err, &ne))
}

func main() {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	address := listener.Addr().String()
	listener.Close() // nobody listens there now

	_, err = net.Dial("tcp", address)
	report("net", err)

	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	defer cancel()
	transport := new(reverseproxy.HTTPTransport)
	if err := transport.Provision(ctx); err != nil {
		panic(err)
	}
	req, err := http.NewRequest(http.MethodGet, "http://"+address+"/", nil)
	if err != nil {
		panic(err)
	}
	_, err = transport.RoundTrip(req)
	report("caddy", err)
}
GO
go mod init look >/dev/null 2>&1
go get github.com/caddyserver/caddy/v2@v2.11.9 >/dev/null 2>&1
go mod tidy >/dev/null 2>&1
seen=$(go run .)
echo "$seen"
want='net: text has "connection refused": true; is ECONNREFUSED: true; has a *net.OpError: true; is a net.Error: true
caddy: text has "connection refused": true; is ECONNREFUSED: false; has a *net.OpError: false; is a net.Error: false'
[ "$seen" = "$want" ] || { echo "it is another now"; exit 1; }
