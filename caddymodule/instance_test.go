package caddymodule

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/certmagic"
)

// TestDead: a process is dead when it has been killed or has ended, and not
// before; of others nothing is known.
func TestDead(t *testing.T) {
	dir := t.TempDir()
	s := openFiles(t, dir)
	ctx := t.Context()
	file := func(id string) string { return filepath.Join(dir, "token_sources/instances", id+".lock") }

	h := startHelper(t, "live", dir)
	id := h.says(t)
	if id == s.Instance() || !validInstance(id) {
		t.Fatalf("its name is %q, ours %q", id, s.Instance())
	}
	if s.Dead(ctx, id) {
		t.Error("a process that runs is dead")
	}
	h.kill(t)
	if !s.Dead(ctx, id) {
		t.Error("a process that was killed is not dead")
	}
	if _, err := os.Stat(file(id)); err == nil {
		t.Error("its file is still there")
	}
	if !s.Dead(ctx, id) {
		t.Error("a dead process is dead no more")
	}

	h = startHelper(t, "live", dir)
	id = h.says(t)
	must(t, h.in.Close())
	must(t, h.Wait())
	if _, err := os.Stat(file(id)); err == nil {
		t.Error("a process that ended well has left its file")
	}
	if !s.Dead(ctx, id) {
		t.Error("a process that ended is not dead")
	}

	for _, other := range []string{
		s.Instance(), "", "-", "../../x", strings.Repeat("0", 32) + "-" + strings.Repeat("0", 32),
		hostPart(instanceID) + "../" + strings.Repeat("0", 29), hostPart(instanceID), "redis-1",
	} {
		if s.Dead(ctx, other) {
			t.Errorf("%q is dead", other)
		}
	}
}

// TestDeadNeedsTheFolder: where our own file cannot be, nobody's absence says
// anything.
func TestDeadNeedsTheFolder(t *testing.T) {
	dir := t.TempDir()
	s := openFiles(t, dir)
	must(t, os.Mkdir(filepath.Join(dir, "token_sources"), 0o700))
	must(t, os.WriteFile(filepath.Join(dir, "token_sources/instances"), nil, 0o600))
	if s.Dead(t.Context(), hostPart(instanceID)+strings.Repeat("0", 32)) {
		t.Error("dead")
	}
}

// TestInstanceOverReloads: the configs of one process share its file, and the
// last takes it away. One that somebody else took away is put back.
func TestInstanceOverReloads(t *testing.T) {
	dir := t.TempDir()
	files := &certmagic.FileStorage{Path: dir}
	first, second := newFileStore(files), newFileStore(files)
	dead := func() bool { return startHelper(t, "dead", dir, "HELPER_ID="+instanceID).says(t) == "true" }
	must(t, first.Swap(t.Context(), "a", nil, []byte("one")))
	if dead() {
		t.Error("dead")
	}
	must(t, first.Close())
	if dead() {
		t.Error("dead after the first of two configs has ended")
	}
	must(t, os.RemoveAll(filepath.Join(dir, "token_sources/instances")))
	must(t, second.Swap(t.Context(), "a", []byte("one"), []byte("two")))
	if dead() {
		t.Error("dead after its file was taken away")
	}
	must(t, second.Close())
	if !dead() {
		t.Error("not dead after the last config has ended")
	}
}
