package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"testing"

	"github.com/caddy-bearer/caddy-bearer/tests/fleet/rig"
)

// program is a Caddy with the module, built once.
var program string

func TestMain(m *testing.M) {
	os.Exit(testMain(m))
}

// testMain lets the deferred call happen before the exit.
func testMain(m *testing.M) int {
	dir, err := os.MkdirTemp("", "fleet-")
	if err == nil {
		defer os.RemoveAll(dir)
		program, err = rig.Build(context.Background(), dir)
	}
	if err == nil {
		// By default as many run at once as there are processors. These wait more than they work.
		flag.Parse()
		err = flag.Set("test.parallel", "4")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// short runs a command with the flags of its short form, as a person could.
func short(t *testing.T, name string, args ...string) {
	t.Helper()
	t.Parallel()
	flags := flag.NewFlagSet(name, flag.ContinueOnError)
	play := commands[name](flags)
	if err := flags.Parse(args); err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "fleet-") // a test's own is too long for the names of sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	r, err := play(t.Context(), lab{program: program, dir: dir})
	if r != nil {
		t.Log(r)
	}
	if err != nil {
		t.Fatal(err)
	}
	if !r.holdsAnywhere() {
		t.Error("a figure does not hold")
	}
}

// What follows is true whatever the clock does. The figures of time and of memory are printed, and held to what they should be
// where the commands run alone: .ci/run has the same short forms.

// The tokens fall due at once and live for much longer than their use takes: none expires on its way, however slow the machine.
func TestFault44Rotations(t *testing.T) {
	short(t, "rotations", "-rotations", "50", "-lifetime", "60s", "-ahead", "99%")
}

// longGrace is longer than a killed Caddy takes to start again, however slow the machine.
const longGrace = "-grace=10m"

func TestFault37KillsLenient(t *testing.T) {
	short(t, "kills", "-kills", "25", "-ahead", "90%", longGrace)
}

func TestFault37KillsStrict(t *testing.T) {
	short(t, "kills", "-kills", "10", "-ahead", "90%", "-grace", "0s", "-aim", "answer")
}

func TestFault32KillsFleet(t *testing.T) {
	short(t, "kills", "-kills", "10", "-ahead", "90%", "-replicas", "3", longGrace)
}

func TestFault41Reloads(t *testing.T) {
	short(t, "reloads", "-reloads", "100", "-every", "30ms")
}

func TestFault47Memory(t *testing.T) {
	short(t, "memory", "-keys", "1000", "-more", "20000", "-max-keys", "3000")
}
