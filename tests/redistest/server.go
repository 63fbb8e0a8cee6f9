// Package redistest runs Redis servers for tests: real processes, in a folder
// and on a port of their own, that can be paused, killed and started again.
// A proxy in front of one gives the faults of a network.
package redistest

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Server is a Redis server.
type Server struct {
	// Addr is where it listens, also after a restart.
	Addr string
	// Dir holds its files.
	Dir string

	first string // the configuration's file, if there is one
	args  []string
	mu    sync.Mutex
	cmd   *exec.Cmd
	done  chan struct{}
	out   bytes.Buffer
}

// Start runs redis-server with further arguments, and waits until it answers.
// Where redis-server is not installed the test fails: a store that was not
// tried is not known to work. The server ends with the test.
func Start(t testing.TB, args ...string) *Server {
	t.Helper()
	return start(t, &Server{args: append(common(), args...)})
}

// StartSentinel runs a Sentinel, which writes into its configuration's file.
func StartSentinel(t testing.TB, config string) *Server {
	t.Helper()
	return start(t, &Server{first: config, args: []string{"--sentinel"}})
}

func start(t testing.TB, s *Server) *Server {
	t.Helper()
	s.Dir = t.TempDir()
	t.Cleanup(s.Kill)
	// a port may be taken between its choice and its use
	for attempt := 0; ; attempt++ {
		s.Addr = "127.0.0.1:" + FreePort(t)
		s.spawn(t)
		if s.answers("") {
			return s
		}
		s.Kill()
		if attempt == 4 {
			t.Fatalf("redis-server does not answer:\n%s", s.out.String())
		}
	}
}

// SetArgs gives the next start other arguments.
func (s *Server) SetArgs(args ...string) { s.args = append(common(), args...) }

// common saves nothing unless told to, and lets a replica start at once.
func common() []string { return []string{"--save", "", "--repl-diskless-sync-delay", "0"} }

// FreePort is one that nobody listens on.
func FreePort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

// Eventually waits for something to become true.
func Eventually(t testing.TB, within time.Duration, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(within); !ok(); {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", within, what)
		}
		<-time.After(10 * time.Millisecond)
	}
}

func (s *Server) spawn(t testing.TB) {
	t.Helper()
	host, port, err := net.SplitHostPort(s.Addr)
	if err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var args []string
	if s.first != "" {
		args = append(args, s.first)
	}
	args = append(args, "--bind", host, "--port", port, "--dir", s.Dir)
	s.cmd = exec.Command("redis-server", append(args, s.args...)...)
	s.cmd.Stdout, s.cmd.Stderr = &s.out, &s.out
	if err := s.cmd.Start(); err != nil {
		s.cmd = nil
		t.Fatalf("redis-server is required (apt-get install redis-server): %v", err)
	}
	cmd, done := s.cmd, make(chan struct{})
	s.done = done
	go func() {
		_ = cmd.Wait() // killed, as a rule
		close(done)
	}()
}

// answers waits for the server to listen and, if reply is not empty, for PING
// to be answered by it.
func (s *Server) answers(reply string) bool {
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
		select {
		case <-s.done:
			return false
		case <-time.After(5 * time.Millisecond):
		}
		answer, err := s.Try("PING")
		if err == nil && strings.HasPrefix(answer, reply) {
			return true
		}
	}
	return false
}

// Try sends one command, written as for redis-cli without quotes, and returns
// the answer: a line with its mark, as ":1", or the text of a bulk string.
func (s *Server) Try(command string) (string, error) {
	conn, err := net.DialTimeout("tcp", s.Addr, time.Second)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return "", err
	}
	if _, err := io.WriteString(conn, command+"\r\n"); err != nil {
		return "", err
	}
	r := bufio.NewReader(conn)
	line, err := r.ReadString('\n')
	line = strings.TrimSpace(line)
	size, bulk := strings.CutPrefix(line, "$")
	if n, _ := strconv.Atoi(size); err == nil && bulk && n > 0 {
		text := make([]byte, n)
		_, err = io.ReadFull(r, text)
		line = string(text)
	}
	return line, err
}

// Do is Try, and fails the test if the answer is an error.
func (s *Server) Do(t testing.TB, command string) string {
	t.Helper()
	answer, err := s.Try(command)
	if err != nil || strings.HasPrefix(answer, "-") {
		t.Fatalf("%s: %q, %v", command, answer, err)
	}
	return answer
}

// Follow makes the server a replica of another, and waits until writes come
// through.
func (s *Server) Follow(t testing.TB, addr string) {
	t.Helper()
	host, port, _ := net.SplitHostPort(addr)
	s.Do(t, "REPLICAOF "+host+" "+port)
	Eventually(t, 20*time.Second, "the replica has a link", func() bool {
		return strings.Contains(s.Do(t, "INFO replication"), "master_link_status:up")
	})
	// until a new replica has acknowledged something nothing is sent to it, so
	// the first write would seem lost
	const key = "redistest:follow"
	(&Server{Addr: addr}).Do(t, "SET "+key+" "+s.Addr)
	Eventually(t, 20*time.Second, "a write comes through", func() bool {
		return s.Do(t, "GET "+key) == s.Addr
	})
	(&Server{Addr: addr}).Do(t, "DEL "+key)
}

// Promote makes a replica a server of its own.
func (s *Server) Promote(t testing.TB) {
	t.Helper()
	s.Do(t, "REPLICAOF NO ONE")
}

func (s *Server) signal(sig syscall.Signal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cmd != nil {
		_ = s.cmd.Process.Signal(sig)
	}
}

// Pause stops the process: connections stay, nothing answers.
func (s *Server) Pause() { s.signal(syscall.SIGSTOP) }

// Resume undoes Pause.
func (s *Server) Resume() { s.signal(syscall.SIGCONT) }

// Kill ends the process at once. What is not on disk is lost.
func (s *Server) Kill() {
	s.mu.Lock()
	cmd, done := s.cmd, s.done
	s.cmd = nil
	s.mu.Unlock()
	if cmd == nil {
		return
	}
	_ = cmd.Process.Kill()
	<-done
}

// Restart starts the server again, on the same port and folder, and waits
// until it serves. It kills one that runs.
func (s *Server) Restart(t testing.TB) {
	t.Helper()
	s.RestartLoading(t)
	if !s.answers("+PONG") {
		t.Fatalf("redis-server does not serve:\n%s", s.out.String())
	}
}

// RestartLoading is Restart for one with much to read (or with
// --key-load-delay): it returns as soon as it answers, if only with LOADING.
func (s *Server) RestartLoading(t testing.TB) {
	t.Helper()
	s.Kill()
	s.spawn(t)
	if !s.answers("") {
		t.Fatalf("redis-server does not answer:\n%s", s.out.String())
	}
}
