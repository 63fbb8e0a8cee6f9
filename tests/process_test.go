package tests

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

// buildCaddy builds a Caddy with the module, once however many tests want it.
var buildCaddy = sync.OnceValues(func() (string, error) {
	binary := filepath.Join(binaries, "caddy")
	out, err := exec.Command("go", "build", "-o", binary, "./testcaddy").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("building Caddy: %w\n%s", err, out)
	}
	return binary, nil
})

// process is a Caddy of its own.
type process struct {
	cmd    *exec.Cmd
	output printed
	done   chan struct{} // closed when it has exited
}

// printed is what a process has printed so far.
type printed struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

// Write implements io.Writer.
func (p *printed) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.buf.Write(b)
}

// String is all of it.
func (p *printed) String() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.buf.String()
}

// configFile puts a configuration into a file.
func configFile(t *testing.T, config []byte) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "config.json")
	if err := os.WriteFile(file, config, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// startProcess runs a configuration in a process of its own and waits until it listens on an address.
func startProcess(t *testing.T, config []byte, vars map[string]string, address string) *process {
	t.Helper()
	binary, err := buildCaddy()
	if err != nil {
		t.Fatal(err)
	}
	p := &process{cmd: exec.Command(binary, "run", "--config", configFile(t, config)), done: make(chan struct{})}
	p.cmd.Env = environ(vars)
	p.cmd.Stdout, p.cmd.Stderr = &p.output, &p.output
	if err := p.cmd.Start(); err != nil {
		t.Fatalf("starting Caddy: %v", err)
	}
	go func() {
		_ = p.cmd.Wait() // killed, as a rule
		close(p.done)
	}()
	t.Cleanup(func() { p.kill(t) })
	eventually(t, "Caddy listens on "+address, func() bool {
		select {
		case <-p.done:
			t.Fatalf("Caddy has exited:\n%s", p.output.String())
		default:
		}
		conn, err := net.Dial("tcp", address)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	return p
}

// command runs one of Caddy's commands, which finds the process by the admin endpoint of the configuration.
func (p *process) command(t *testing.T, config []byte, args ...string) (string, error) {
	t.Helper()
	cmd := exec.Command(p.cmd.Path, append(args, "--config", configFile(t, config))...)
	cmd.Env = p.cmd.Env
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// validate has `caddy validate` load a configuration. It logs to where that says.
func validate(t *testing.T, config []byte, vars map[string]string) {
	t.Helper()
	binary, err := buildCaddy()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(binary, "validate", "--config", configFile(t, config))
	cmd.Env = environ(vars)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("caddy validate: %v: %s", err, out)
	}
}

// kill ends the process with no chance to tidy up, and gives what it had printed.
func (p *process) kill(t *testing.T) string {
	t.Helper()
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("killing Caddy: %v", err)
	}
	<-p.done
	return p.output.String()
}

// commandIn is one of Caddy's commands, run in a folder.
func commandIn(t *testing.T, dir, binary string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), binary, args...)
	cmd.Dir = dir
	return cmd
}
