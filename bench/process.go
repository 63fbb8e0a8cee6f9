package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// process is a child on a core of its own choosing, with a home of its own.
type process struct {
	cmd  *exec.Cmd
	log  string
	done chan struct{}
}

// start runs a program until stop. Its environment is built from nothing: a
// GOGC or an HTTP_PROXY of the person who measures would change what is
// measured, and a Caddy must not find another's certificates.
func (l *lab) start(name, path string, args []string, core int, stdout *os.File) (*process, error) {
	l.count++
	home := filepath.Join(l.dir, fmt.Sprintf("%03d-%s", l.count, name))
	if err := os.MkdirAll(home, 0o700); err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(home, "log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command(path, args...)
	cmd.Dir = home
	cmd.Env = []string{
		"HOME=" + home, "XDG_DATA_HOME=" + home, "XDG_CONFIG_HOME=" + home,
		"PATH=" + os.Getenv("PATH"), "GOMAXPROCS=1",
	}
	cmd.Env = append(cmd.Env, l.env[name]...)
	cmd.Stdout, cmd.Stderr = log, log
	if stdout != nil {
		cmd.Stdout = stdout
	}
	if err := startPinned(cmd, core); err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	p := &process{cmd: cmd, log: log.Name(), done: make(chan struct{})}
	go func() {
		_ = cmd.Wait()
		close(p.done)
	}()
	l.started = append(l.started, p)
	return p, nil
}

// self runs a hidden subcommand of this very binary.
func (l *lab) self(name string, args []string, core int, stdout *os.File) (*process, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return l.start(name, exe, append([]string{name}, args...), core, stdout)
}

// listening waits until the process answers on addr. It only connects: a
// request would already fetch the token whose fetching is to be measured.
func (p *process) listening(ctx context.Context, addr string) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for {
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			return conn.Close()
		}
		select {
		case <-p.done:
			return fmt.Errorf("%s ended before it listened:\n%s", p.cmd.Path, p.tail())
		case <-ctx.Done():
			return fmt.Errorf("%s does not listen on %s: %w\n%s", p.cmd.Path, addr, ctx.Err(), p.tail())
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func (p *process) tail() string {
	text, _ := os.ReadFile(p.log)
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(lines[max(0, len(lines)-3):], "\n")
}

func (p *process) cpu() (time.Duration, error) { return cpuTime(p.cmd.Process.Pid) }

// resident is the process's resident memory, in bytes.
func (p *process) resident() (int64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", p.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	var size, resident int64
	if _, err := fmt.Sscan(string(text), &size, &resident); err != nil {
		return 0, err
	}
	return resident * int64(os.Getpagesize()), nil
}

func (p *process) stop() {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); errors.Is(err, os.ErrProcessDone) {
		return
	}
	select {
	case <-p.done:
	case <-time.After(2 * time.Second): // Caddy waits for the load's open connections
		_ = p.cmd.Process.Kill()
		<-p.done
	}
}

// freeAddr finds a port for a process that cannot tell which one it was given.
func freeAddr() (string, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer ln.Close()
	return ln.Addr().String(), nil
}
