package caddymodule

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/certmagic"

	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenstore"
)

func openFiles(t *testing.T, dir string) *fileStore {
	t.Helper()
	s := newFileStore(&certmagic.FileStorage{Path: dir})
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestHelperProcess is what other tests start as processes of their own.
func TestHelperProcess(t *testing.T) {
	dir := os.Getenv("HELPER_DIR")
	if dir == "" {
		return
	}
	s := newFileStore(&certmagic.FileStorage{Path: dir})
	say := func(text string) { _, _ = os.Stdout.WriteString("> " + text + "\n") }
	ctx := context.Background()
	switch os.Getenv("HELPER") {
	case "count":
		must(t, countUp(ctx, s, 25))
	case "lock":
		_, err := s.lock(ctx, "a")
		must(t, err)
		say("locked")
		select {}
	case "live":
		must(t, s.Swap(ctx, "of-"+s.Instance(), nil, []byte("x")))
		say(s.Instance())
		_, _ = io.ReadAll(os.Stdin)
		must(t, s.Close())
	case "dead":
		say(strconv.FormatBool(s.Dead(ctx, os.Getenv("HELPER_ID"))))
	}
}

// helper is a process that plays a role.
type helper struct {
	*exec.Cmd
	in  io.Closer
	out *bufio.Scanner
}

func startHelper(t *testing.T, role, dir string, env ...string) *helper {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestHelperProcess$")
	cmd.Env = append(append(os.Environ(), "HELPER="+role, "HELPER_DIR="+dir), env...)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return &helper{cmd, in, bufio.NewScanner(out)}
}

// says waits for the next thing that the process has to say.
func (h *helper) says(t *testing.T) string {
	t.Helper()
	for h.out.Scan() {
		if text, ok := strings.CutPrefix(h.out.Text(), "> "); ok {
			return text
		}
	}
	t.Fatal("the helper process said nothing")
	return ""
}

func (h *helper) kill(t *testing.T) {
	t.Helper()
	must(t, h.Process.Kill())
	_ = h.Wait()
}

// countUp counts a number up, each step however often others are faster. As
// with records, no two write the same.
func countUp(ctx context.Context, s tokenstore.Store, steps int) error {
	for done := 0; done < steps; {
		old, err := s.Load(ctx, "n")
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		switch err := s.Swap(ctx, "n", old, fmt.Appendf(nil, "%d %s", count(old)+1, randomHex())); {
		case err == nil:
			done++
		case !errors.Is(err, tokenstore.ErrConflict):
			return err
		}
	}
	return nil
}

func count(value []byte) int {
	var n int
	_, _ = fmt.Sscan(string(value), &n) // nothing is 0
	return n
}

func TestFileStore(t *testing.T) {
	dir := t.TempDir()
	s := openFiles(t, dir)
	ctx := t.Context()
	if _, err := s.Load(ctx, "p/a"); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("of nothing: %v", err)
	}
	for _, step := range []struct {
		old      []byte
		value    string
		conflict bool
	}{
		{[]byte("x"), "one", true},
		{nil, "one", false},
		{nil, "two", true},
		{[]byte("one"), "two", false},
		{[]byte("one"), "three", true},
		{[]byte("two"), "two", false},
		{[]byte("two"), "", false},
		{nil, "x", true},
	} {
		err := s.Swap(ctx, "p/a", step.old, []byte(step.value))
		if step.conflict != errors.Is(err, tokenstore.ErrConflict) || (!step.conflict && err != nil) {
			t.Errorf("from %q to %q: %v", step.old, step.value, err)
		}
	}
	// where records have always been, and for nobody else to read
	for path, mode := range map[string]fs.FileMode{
		"token_sources/p/a.json": 0o600, "token_sources/p": fs.ModeDir | 0o700,
		"token_sources/locks": fs.ModeDir | 0o700, "token_sources/instances": fs.ModeDir | 0o700,
		"token_sources/instances/" + instanceID + ".lock": 0o600,
	} {
		info, err := os.Stat(filepath.Join(dir, path))
		if err != nil || info.Mode() != mode {
			t.Errorf("%s: %v, %v", path, info, err)
		}
	}
	locks, err := filepath.Glob(filepath.Join(dir, "token_sources/locks/*"))
	if info, _ := os.Stat(locks[0]); err != nil || info.Mode() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
}

// TestFileStoreCounts: processes and goroutines share a record, and no step
// of anybody's is lost.
func TestFileStoreCounts(t *testing.T) {
	dir := t.TempDir()
	s := openFiles(t, dir)
	var helpers []*helper
	for range 3 {
		helpers = append(helpers, startHelper(t, "count", dir))
	}
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if err := countUp(t.Context(), s, 5); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, h := range helpers {
		must(t, h.Wait())
	}
	if got, err := s.Load(t.Context(), "n"); count(got) != 175 {
		t.Errorf("got %s, %v: want 175", got, err)
	}
}

// TestFault32_LockHolderKilled: the record is free at once. So it is when the
// killed process has left a lock file of Caddy's behind.
func TestFault32_LockHolderKilled(t *testing.T) {
	dir := t.TempDir()
	s := openFiles(t, dir)
	h := startHelper(t, "lock", dir)
	h.says(t)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := s.Swap(ctx, "a", nil, []byte("one")); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("under another's lock: %v", err)
	}
	h.kill(t)
	// a lock of Caddy's would be another's for 10 s more
	started := time.Now()
	must(t, s.Swap(t.Context(), "a", nil, []byte("one")))
	if took := time.Since(started); took > 9*time.Second {
		t.Errorf("took %v", took)
	}
}

// TestFault33_LockKeptAlive: a lock of Caddy's on the record, whose file is
// touched for ever, stops nobody.
func TestFault33_LockKeptAlive(t *testing.T) {
	s := openFiles(t, t.TempDir())
	for _, name := range []string{storagePrefix + "a", recordName("a")} {
		must(t, s.storage.Lock(t.Context(), name))
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // a lock that is waited for is waited for until then
	defer cancel()
	must(t, s.Swap(ctx, "a", nil, []byte("one")))
	for _, name := range []string{storagePrefix + "a", recordName("a")} {
		must(t, s.storage.Unlock(t.Context(), name)) // nobody has taken it away
	}
}

// TestFault28_NothingWritten: a folder that cannot be written to is an error,
// and leaves what is there.
func TestFault28_NothingWritten(t *testing.T) {
	dir := t.TempDir()
	s := openFiles(t, dir)
	must(t, s.Swap(t.Context(), "p/a", nil, []byte("one")))
	// in place of a read-only disk, which root would write to all the same
	must(t, os.RemoveAll(filepath.Join(dir, "token_sources/locks")))
	must(t, os.WriteFile(filepath.Join(dir, "token_sources/locks"), nil, 0o600))
	err := s.Swap(t.Context(), "p/a", []byte("one"), []byte("two"))
	if err == nil || errors.Is(err, tokenstore.ErrConflict) || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	if got, _ := s.Load(t.Context(), "p/a"); string(got) != "one" {
		t.Errorf("got %q", got)
	}
}
