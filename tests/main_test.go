package tests

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// binaries is where TestMain lets buildCaddy put what it builds.
var binaries string

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

// run lets the deferred call happen before the exit.
func run(m *testing.M) int {
	flag.Parse()
	dir, err := os.MkdirTemp("", "caddy-bearer-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	binaries = dir
	if !whole() {
		return m.Run()
	}
	parts := []*part{
		startPart("the tests of the faults", "-test.run="+faultTests),
		startPart("the tests through the transport", "-test.run="+transportTests, "-way=transport"),
	}
	if err := flag.Set("test.skip", faultTests); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code := m.Run()
	for _, p := range parts {
		code = max(code, p.wait())
	}
	return code
}

// faultTests are about half of the tests, by the time that they take.
const faultTests = "^TestFaults?[0-9]"

// transportTests run a second time, through transport bearer: they are those of bodies, streams and what a request may
// bring, where the two ways differ.
const transportTests = "^TestFault(2[0-9]|48|60|61)|^TestAttack[1-7][A-Z]|^TestNothingIsTold"

// whole reports whether all tests are to run. Caddy's state is one for a process, so the tests in a process run one after
// another, and most of them wait most of the time. So half of them run in a second process.
func whole() bool {
	for _, name := range []string{"run", "skip", "list", "bench", "fuzz", "coverprofile", "cpuprofile", "memprofile", "blockprofile", "mutexprofile", "trace"} {
		if f := flag.Lookup("test." + name); f != nil && f.Value.String() != "" {
			return false
		}
	}
	return true
}

// part is a further process of these tests.
type part struct {
	name   string
	output bytes.Buffer
	cmd    *exec.Cmd
	err    error
}

// startPart runs some of the tests, with the flags that this process has.
func startPart(name string, flags ...string) *part {
	args := slices.DeleteFunc(slices.Clone(os.Args[1:]), func(arg string) bool {
		return strings.HasPrefix(strings.TrimLeft(arg, "-"), "test.testlogfile=") // that is this process's own
	})
	p := &part{name: name, cmd: exec.Command(os.Args[0], append(flags, args...)...)}
	p.cmd.Stdout, p.cmd.Stderr = &p.output, &p.output
	p.err = p.cmd.Start()
	return p
}

// wait prints what the process has printed, and gives what it ended with.
func (p *part) wait() int {
	if p.err == nil {
		p.err = p.cmd.Wait()
	}
	_, _ = os.Stdout.Write(bytes.TrimSuffix(p.output.Bytes(), []byte("PASS\n")))
	if p.err != nil {
		fmt.Printf("%s: %v\n", p.name, p.err)
		return 1
	}
	return 0
}
