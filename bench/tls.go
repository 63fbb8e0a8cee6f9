package main

import (
	"context"
	"flag"
	"fmt"
	"strconv"
	"strings"
)

// overTLS compares by number of connections with an upstream that speaks TLS,
// where a connection that is not kept costs a handshake: plain Caddy keeps 32
// idle ones for each host, so more clients than that make it reconnect.
func overTLS(ctx context.Context, args []string) error {
	var c comparison
	fs := flag.NewFlagSet("tls", flag.ContinueOnError)
	c.flags(fs)
	list := fs.String("conns", "64,256", "connections to each, one measurement for each number")
	h2 := fs.Bool("h2", false, "the upstream offers HTTP/2")
	if err := fs.Parse(args); err != nil {
		return err
	}
	var conns []int
	for s := range strings.SplitSeq(*list, ",") {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 {
			return fmt.Errorf("-conns: %q is not a number of connections", s)
		}
		conns = append(conns, n)
	}
	if err := c.open(); err != nil {
		return err
	}
	defer c.close()
	m, err := c.setUp(ctx, []string{plain, plain256, bearer}, true, *h2)
	if err != nil {
		return err
	}
	for _, n := range conns {
		fmt.Printf("%s over TLS: core %d shared, GOMAXPROCS=1, %d connections to each\n\n", names(m.contenders), c.proxyCore, n)
		rounds, err := c.cpu(ctx, m, n)
		if err != nil {
			return err
		}
		printConnections(m, rounds)
	}
	if err := c.latency(ctx, m); err != nil {
		return err
	}
	return c.profiles(ctx, m, conns[len(conns)-1])
}

// printConnections adds up all rounds: connections are opened in bursts, and
// a single round may miss them.
func printConnections(m *meter, rounds [][]round) {
	fmt.Printf("%-12s%12s%12s%14s%14s%12s\n", "", "requests", "p99 ms", "connections", "handshakes", "resumed")
	for i, c := range m.contenders {
		var sum round
		var p99 []float64
		for _, r := range rounds {
			sum.finished += r[i].finished
			sum.conns.Conns += r[i].conns.Conns
			sum.conns.Handshakes += r[i].conns.Handshakes
			sum.conns.Resumed += r[i].conns.Resumed
			p99 = append(p99, micros(r[i].latency.p99)/1000)
		}
		fmt.Printf("%-12s%12d%12.1f%14d%14d%12d\n", c.name, sum.finished, median(p99),
			sum.conns.Conns, sum.conns.Handshakes, sum.conns.Resumed)
	}
	fmt.Println()
}
