package rig

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// Replica is one Caddy, in a process of its own.
type Replica struct {
	// Name is what it calls itself when it asks the provider for a token.
	Name string
	// Log is the file that it logs to, over all its starts.
	Log string

	program string
	home    string
	config  string // file
	env     []string
	client  *http.Client
	admin   *http.Client

	cmd   *exec.Cmd
	done  chan struct{}
	life  atomic.Int64 // counts starts and deaths: odd while it is to be alive
	reset func()       // closes the idle connections of its clients
}

// Site is the root of a replica's site, for requests through its Client.
const Site = "http://localhost"

// Home stands for a replica's own folder in its Caddyfile. Its site has to be bound to the unix socket site in there,
// its admin endpoint to admin.
const Home = "THE_HOME"

// NewReplica makes one that runs a Caddyfile, with further variables in its environment.
func NewReplica(program, home, name string, env []string, caddyfile string) (*Replica, error) {
	if err := os.MkdirAll(home, 0o700); err != nil {
		return nil, err
	}
	site, resetSite := overSocket(filepath.Join(home, "site"))
	admin, resetAdmin := overSocket(filepath.Join(home, "admin"))
	r := &Replica{
		Name: name, Log: filepath.Join(home, "log"), program: program, home: home,
		config: filepath.Join(home, "Caddyfile"), client: site, admin: admin,
		reset: func() { resetSite(); resetAdmin() },
	}
	// From nothing: a GOGC or an HTTP_PROXY of the person who runs this would change what is measured.
	r.env = append([]string{
		"HOME=" + home, "XDG_DATA_HOME=" + home, "XDG_CONFIG_HOME=" + home, "PATH=" + os.Getenv("PATH"),
	}, env...)
	return r, os.WriteFile(r.config, []byte(strings.ReplaceAll(caddyfile, Home, home)), 0o600)
}

// overSocket makes a client that connects to a unix socket, whatever the host.
func overSocket(path string) (*http.Client, func()) {
	t := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		},
		MaxIdleConnsPerHost: 64,
	}
	return &http.Client{Transport: t, Timeout: callTimeout}, t.CloseIdleConnections
}

// callTimeout is when an app gives up.
const callTimeout = 20 * time.Second

// Hang is after how long something that is waited for never comes. A busy machine is slow, and that is no failure.
const Hang = 2 * time.Minute

// Start starts it, and waits until its site answers.
func (r *Replica) Start(ctx context.Context) error {
	log, err := os.OpenFile(r.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	// A socket that a killed one left behind would look as if it listened.
	_ = os.Remove(filepath.Join(r.home, "site"))
	cmd := exec.Command(r.program, "run", "--config", r.config, "--adapter", "caddyfile")
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = r.home, r.env, log, log
	if err := startBound(cmd); err != nil {
		return fmt.Errorf("starting %s: %w", r.Name, err)
	}
	r.cmd, r.done = cmd, make(chan struct{})
	go func(done chan struct{}) {
		_ = cmd.Wait()
		close(done)
	}(r.done)
	err = Until(ctx, Hang, r.Name+" listens", func() bool {
		conn, err := net.Dial("unix", filepath.Join(r.home, "site"))
		if err == nil {
			_ = conn.Close()
		}
		return err == nil || r.dead()
	})
	if r.dead() {
		err = fmt.Errorf("%s has exited:\n%s", r.Name, r.tail())
	}
	if err == nil {
		r.life.Add(1)
	}
	return err
}

func (r *Replica) dead() bool {
	select {
	case <-r.done:
		return true
	default:
		return false
	}
}

func (r *Replica) tail() []byte {
	text, _ := os.ReadFile(r.Log)
	text = bytes.TrimSpace(text)
	return text[bytes.LastIndexByte(text, '\n')+1:]
}

// Death is when a process died: at some time between the two.
type Death struct{ Killed, Gone time.Time }

// Kill kills it by SIGKILL.
func (r *Replica) Kill() Death {
	r.life.Add(1)
	d := Death{Killed: time.Now()}
	_ = r.cmd.Process.Kill()
	<-r.done
	d.Gone = time.Now()
	r.reset()
	return d
}

// Stop ends it as an operator would; one that does not obey is killed.
func (r *Replica) Stop() error {
	if r.cmd == nil || r.dead() {
		return nil
	}
	r.life.Add(1)
	_ = r.cmd.Process.Signal(syscall.SIGTERM)
	r.reset()
	select {
	case <-r.done:
		return nil
	case <-time.After(20 * time.Second):
		_ = r.cmd.Process.Kill()
		<-r.done
		return fmt.Errorf("%s did not end within 20 s of SIGTERM", r.Name)
	}
}

// Idle closes the connections to it that are not in use.
func (r *Replica) Idle() { r.reset() }

// Pid is its process.
func (r *Replica) Pid() int { return r.cmd.Process.Pid }

// Get calls its site and gives status and body.
func (r *Replica) Get(ctx context.Context, path string, header http.Header) (int, []byte, error) {
	return do(ctx, r.client, http.MethodGet, Site+path, header, nil)
}

// Post sends a body to its site.
func (r *Replica) Post(ctx context.Context, path string, header http.Header, body []byte) (int, []byte, error) {
	return do(ctx, r.client, http.MethodPost, Site+path, header, body)
}

// Admin calls its admin endpoint; with a body, it is a POST.
func (r *Replica) Admin(ctx context.Context, path string, header http.Header, body []byte) (int, []byte, error) {
	method := http.MethodGet
	if body != nil {
		method = http.MethodPost
	}
	return do(ctx, r.admin, method, "http://localhost"+path, header, body)
}

func do(ctx context.Context, c *http.Client, method, url string, header http.Header, body []byte) (int, []byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	if header != nil {
		req.Header = header
	}
	res, err := c.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(io.LimitReader(res.Body, 1<<24))
	return res.StatusCode, text, err
}

// Until polls until a condition holds.
func Until(ctx context.Context, within time.Duration, what string, holds func() bool) error {
	ctx, cancel := context.WithTimeoutCause(ctx, within, errTooLong)
	defer cancel()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-ctx.Done():
			if errors.Is(context.Cause(ctx), errTooLong) {
				return fmt.Errorf("not within %v: %s", within, what)
			}
			return ctx.Err()
		case <-tick.C:
		}
	}
	return nil
}

var errTooLong = errors.New("too long")
