package caddymodule

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

func writeFile(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestLiveFile: what is read is what is there, and what was there while a new one
// is on its way.
func TestLiveFile(t *testing.T) {
	name := filepath.Join(t.TempDir(), "secret")
	read := func(want string) {
		t.Helper()
		if got, err := readLiveFile(name); err != nil || got != want {
			t.Errorf("%q, %v, want %q", got, err, want)
		}
	}
	if _, err := readLiveFile(name); err == nil {
		t.Error("a file that was never there is read")
	}
	writeFile(t, name, "one\n")
	read("one")
	writeFile(t, name, "two")
	read("two")
	writeFile(t, name, "")
	read("two")
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
	read("two")
}

// TestWatchFiles notices a file that is written, renamed over, or behind a
// symbolic link that is replaced, and nothing that leaves the contents alone.
func TestWatchFiles(t *testing.T) {
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	for _, version := range []string{"..v1", "..v2"} {
		if err := os.Mkdir(path(version), 0o700); err != nil {
			t.Fatal(err)
		}
		writeFile(t, filepath.Join(path(version), "token"), "of "+version)
	}
	link := func(to string) {
		t.Helper()
		if err := os.Symlink(to, path("..tmp")); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path("..tmp"), path("..data")); err != nil {
			t.Fatal(err)
		}
	}
	link("..v1")
	if err := os.Symlink(filepath.Join("..data", "token"), path("token")); err != nil {
		t.Fatal(err)
	}
	writeFile(t, path("plain"), "a")
	writeFile(t, path("renamed"), "a")
	writeFile(t, path("other"), "a")
	files := []string{path("token"), path("plain"), path("renamed"), path("other"), path("not yet")}
	ctx, cancel := context.WithCancel(t.Context())
	changes, done := make(chan []string, 100), make(chan struct{})
	watch := newFileWatch(files)
	go func() {
		defer close(done)
		watch.run(ctx, func(names []string) error {
			changes <- names
			return nil
		})
	}()
	defer func() { cancel(); <-done }()
	want := func(name string) {
		t.Helper()
		select {
		case names := <-changes:
			if !slices.Equal(names, []string{path(name)}) {
				t.Errorf("%s changed, and %v is told", name, names)
			}
		case <-time.After(2 * time.Minute):
			t.Fatalf("that %s changed is not noticed", name)
		}
	}
	writeFile(t, path("plain"), "b")
	want("plain")
	writeFile(t, path("new"), "c")
	if err := os.Rename(path("new"), path("renamed")); err != nil {
		t.Fatal(err)
	}
	want("renamed")
	link("..v2")
	want("token")
	if err := os.Chtimes(path("other"), time.Now(), time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	writeFile(t, path("not yet"), "d")
	want("not yet")
}
