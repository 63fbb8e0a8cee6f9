package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/licenseclassifier/v2/assets"
)

// except puts other exceptions in the place of the real ones.
func except(t *testing.T, others map[exception]string) {
	t.Helper()
	saved := exceptions
	exceptions = others
	t.Cleanup(func() { exceptions = saved })
}

func TestJudge(t *testing.T) {
	except(t, map[exception]string{{"example.com/m", "MPL-2.0"}: "read"})
	needed := library{name: "example.com/m/sub", file: "LICENSE", licences: []string{"MPL-2.0"}}
	for what, c := range map[string]struct {
		library library
		wrong   string
	}{
		"allowed":             {library{"example.com/a", "v1.0.0", "LICENSE", []string{"MIT"}}, ""},
		"two that are":        {library{"example.com/a", "v1.0.0", "LICENSE", []string{"MIT", "Apache-2.0"}}, ""},
		"one of two is not":   {library{"example.com/a", "v1.0.0", "LICENSE", []string{"MIT", "GPL-2.0"}}, "example.com/a: licence GPL-2.0: expected"},
		"GPL":                 {library{"example.com/a", "v1.0.0", "COPYING", []string{"GPL-3.0"}}, "example.com/a: licence GPL-3.0: expected"},
		"AGPL":                {library{"example.com/a", "v1.0.0", "LICENSE", []string{"AGPL-3.0"}}, "example.com/a: licence AGPL-3.0: expected"},
		"excepted elsewhere":  {library{"example.com/more", "v1.0.0", "LICENSE", []string{"MPL-2.0"}}, "example.com/more: licence MPL-2.0: expected"},
		"no file":             {library{"example.com/a", "v1.0.0", "", nil}, "example.com/a: no licence that is known"},
		"a text of their own": {library{"example.com/a", "v1.0.0", "LICENSE", nil}, "example.com/a: no licence that is known"},
	} {
		err := errors.Join(judge([]library{needed, c.library})...)
		if (err == nil) != (c.wrong == "") || (err != nil && !strings.HasPrefix(err.Error(), c.wrong)) {
			t.Errorf("%s: %v, want %q", what, err, c.wrong)
		}
	}
	if err := errors.Join(judge(nil)...); err == nil || !strings.Contains(err.Error(), "example.com/m: the exception for MPL-2.0 is not needed") {
		t.Errorf("an exception that nothing needs: %v", err)
	}
}

// TestRun looks at a real program that links a library in.
func TestRun(t *testing.T) {
	except(t, nil)
	for what, c := range map[string]struct{ licence, wrong string }{
		"MIT":        {text(t, "MIT/pristine.txt"), ""},
		"Apache-2.0": {text(t, "Apache-2.0/pristine.txt"), ""},
		"GPL-3.0":    {text(t, "GPL-3.0/license.txt"), "example.com/library: licence GPL-3.0"},
		"AGPL-3.0":   {text(t, "AGPL-3.0/license.txt"), "example.com/library: licence AGPL-3.0"},
		"none":       {"", "example.com/library: no licence that is known"},
		"their own":  {"You may look at it.", "example.com/library: no licence that is known"},
	} {
		t.Run(what, func(t *testing.T) {
			program(t, c.licence)
			var out strings.Builder
			err := run(&out, []string{"."}, "list.csv", "texts.txt")
			if (err == nil) != (c.wrong == "") || (err != nil && !strings.Contains(err.Error(), c.wrong)) {
				t.Fatalf("%v, want %q", err, c.wrong)
			}
			list := read(t, "list.csv") // also of what is not allowed
			for _, line := range []string{"library,version,licences\n", "example.com/library,", "example.com/program,", "std,go1."} {
				if !strings.Contains(list, line) {
					t.Errorf("the list lacks %q:\n%s", line, list)
				}
			}
			if c.wrong == "" && !strings.Contains(read(t, "texts.txt"), c.licence) {
				t.Error("the licence's text is not among the texts")
			}
		})
	}
}

// program writes a program that links a library in, and goes there. The library has
// the licence; for an empty one it has no such file.
func program(t *testing.T, licence string) {
	t.Helper()
	dir := t.TempDir()
	for name, content := range map[string]string{
		"go.mod":             "module example.com/program\n\ngo 1.26\n\nrequire example.com/library v0.0.0\n\nreplace example.com/library => ./library\n",
		"main.go":            "package main\n\nimport \"example.com/library\"\n\nfunc main() { library.Do() }\n",
		"LICENSE":            text(t, "MIT/pristine.txt"),
		"library/go.mod":     "module example.com/library\n\ngo 1.26\n",
		"library/library.go": "package library\n\nfunc Do() {}\n",
		"library/LICENSE":    licence,
	} {
		if content == "" {
			continue
		}
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(dir)
}

// text is a licence's own.
func text(t *testing.T, name string) string {
	t.Helper()
	b, err := assets.ReadLicenseFile("License/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func read(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
