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
	if !r.holds() {
		t.Error("a figure does not hold")
	}
}

func TestFault44Rotations(t *testing.T) {
	short(t, "rotations", "-rotations", "50")
}

// Where the CPU is shared with other tests, the time from answer to write says little.
const window = "-window=500ms"

func TestFault37KillsLenient(t *testing.T) {
	short(t, "kills", window, "-kills", "25")
}

func TestFault37KillsStrict(t *testing.T) {
	short(t, "kills", window, "-kills", "10", "-grace", "0s", "-aim", "answer")
}

func TestFault32KillsFleet(t *testing.T) {
	short(t, "kills", window, "-kills", "10", "-replicas", "3")
}

func TestFault41Reloads(t *testing.T) {
	short(t, "reloads", "-reloads", "100", "-every", "30ms")
}

// A process without keys takes some 55 MB.
// The heap of this process is that of the other runs, too, which come and go: spread over so few keys it says little, and the long
// form is held to less.
func TestFault47Memory(t *testing.T) {
	short(t, "memory", "-keys", "2000", "-resident", "100", "-more", "20000", "-max-keys", "3000", "-overhead", "5000")
}
