package tests

import (
	"os"
	"path/filepath"
	"testing"
)

// TestFault36LeftOvers: a process that was killed in mid-write leaves half a file beside the record, under another name. The
// next one finds the record, and asks the provider for nothing.
func TestFault36LeftOvers(t *testing.T) {
	s := launch(t, setup{})
	first := s.get(t).wantOK(t)
	record := s.records(t)[0]
	half := mustRead(t, record)[:40]
	for _, name := range []string{"1234567890", ".tmp-1", filepath.Base(record) + ".tmp", filepath.Base(record) + "~"} {
		for _, dir := range []string{filepath.Dir(record), filepath.Dir(filepath.Dir(record))} {
			if err := os.WriteFile(filepath.Join(dir, name), half, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	stop(t)
	s.load(t, s.config)
	if again := s.get(t).wantOK(t); again.Serial != first.Serial {
		t.Errorf("token %d, want %d as before", again.Serial, first.Serial)
	}
	if n := s.p.TokenCount(); n != 1 {
		t.Errorf("%d token calls, want 1", n)
	}
}
