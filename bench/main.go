// Command bench compares Caddy with the module to plain Caddy, and
// to the peer one would otherwise write with golang.org/x/oauth2.
//
// Two proxies are only ever compared while both are under load at the same
// moment on the same core: the clock of a core changes by the second, on
// rented machines above all, and a ratio taken in one moment survives that
// where two numbers taken one after the other do not.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

const usage = `usage: go run ./bench SUBCOMMAND [flags]

  sidebyside   CPU per request, then p50 and p99 at a fixed rate, against plain Caddy
  tls          the same with a TLS upstream, by number of connections
  handshakes   of bearer_intercept, with a thousand hosts
  scenarios    rollover, revocation, outage and a burst of first calls

Each takes -h.
`

// commands holds what a person may run and, after them, what bench runs of
// itself in processes of their own.
var commands = map[string]func(context.Context, []string) error{
	"sidebyside": sideBySide,
	"tls":        overTLS,
	"handshakes": handshakes,
	"scenarios":  scenarios,
	"upstream":   serveUpstream,
	"peer":       servePeer,
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if len(os.Args) < 2 || commands[os.Args[1]] == nil {
		fmt.Fprint(os.Stderr, usage)
		os.Exit(2)
	}
	err := commands[os.Args[1]](ctx, os.Args[2:])
	switch {
	case errors.Is(err, flag.ErrHelp):
		os.Exit(2)
	case err != nil:
		stop()
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}
