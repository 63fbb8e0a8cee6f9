// Command licences lists the licences of all that is linked into Go packages, and
// fails if one of them is not allowed, or if there is something without one. A
// licence is found in the file that is nearest to the code, by its text.
//
//	licences [-list FILE] [-texts FILE] PACKAGE...
//
// -list writes the list, as CSV. -texts writes the licences themselves, which go
// with every binary that is given away: most of them ask for that.
package main

import (
	"cmp"
	"context"
	"encoding/csv"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/go-licenses/v2/licenses"
	"k8s.io/klog/v2"
)

// allowed are the licences that ask for no more than to be told of.
var allowed = []string{"Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "ISC", "MIT"}

// exceptions are further licences of single modules, with the reason. Each is here
// because somebody has read it: a new one fails.
var exceptions = map[exception]string{
	{"github.com/alecthomas/chroma/v2", "OFL-1.1"}: "of fonts that come with it; the code is MIT",
	{"github.com/go-sql-driver/mysql", "MPL-2.0"}:  "asks for the source of its own files only, which are not changed; Caddy's PKI links it in",
	{"github.com/zeebo/blake3", "CC0-1.0"}:         "gives up all rights",
}

type exception struct{ module, licence string }

// library is what one licence file is for.
type library struct {
	name, version string
	file          string   // its licence; empty: none was found
	licences      []string // SPDX names
}

func main() {
	list := flag.String("list", "", "the `file` to write the list to, as CSV")
	texts := flag.String("texts", "", "the `file` to write the licences' texts to")
	flag.Parse()
	klog.LogToStderr(false) // it warns of each assembly file
	klog.SetOutput(io.Discard)
	if err := run(os.Stdout, flag.Args(), *list, *texts); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(out io.Writer, packages []string, list, texts string) error {
	libraries, err := find(packages)
	if err != nil {
		return err
	}
	if err := write(list, func(w io.Writer) error { return writeList(w, libraries) }); err != nil {
		return err
	}
	if err := write(texts, func(w io.Writer) error { return writeTexts(w, libraries) }); err != nil {
		return err
	}
	if err := errors.Join(judge(libraries)...); err != nil {
		return err
	}
	count := map[string]int{}
	for _, l := range libraries {
		for _, licence := range l.licences {
			count[licence]++
		}
	}
	for _, licence := range slices.Sorted(maps.Keys(count)) {
		fmt.Fprintf(out, "%4d %s\n", count[licence], licence)
	}
	return nil
}

// find lists the libraries that are linked into packages, the Go standard library
// among them.
func find(packages []string) ([]library, error) {
	classifier, err := licenses.NewClassifier()
	if err != nil {
		return nil, err
	}
	found, err := licenses.Libraries(context.Background(), classifier, false, nil, packages...)
	if err != nil {
		return nil, err
	}
	std, err := standardLibrary(classifier)
	if err != nil {
		return nil, err
	}
	all := []library{std}
	for _, f := range found {
		all = append(all, library{f.Name(), f.Version(), f.LicenseFile, names(f.Licenses)})
	}
	slices.SortFunc(all, func(a, b library) int { return cmp.Or(cmp.Compare(a.name, b.name), cmp.Compare(a.file, b.file)) })
	return all, nil
}

func standardLibrary(classifier licenses.Classifier) (library, error) {
	out, err := exec.Command("go", "env", "GOROOT", "GOVERSION").Output()
	if err != nil {
		return library{}, fmt.Errorf("go env: %w", err)
	}
	root, version, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	file := filepath.Join(root, "LICENSE")
	found, err := classifier.Identify(file)
	if err != nil {
		return library{}, err
	}
	return library{"std", version, file, names(found)}, nil
}

func names(found []licenses.License) (names []string) {
	for _, licence := range found {
		names = append(names, licence.Name)
	}
	slices.Sort(names)
	return names
}

// judge says what is wrong with libraries; nothing: all are allowed. An exception
// that nothing needs any more is wrong, too.
func judge(libraries []library) (wrong []error) {
	needed := map[exception]bool{}
	for _, l := range libraries {
		if l.file == "" || len(l.licences) == 0 {
			wrong = append(wrong, fmt.Errorf("%s: no licence that is known: expected one of %s", l.name, strings.Join(allowed, ", ")))
		}
		for _, licence := range l.licences {
			if slices.Contains(allowed, licence) {
				continue
			}
			e, ok := exceptionFor(l.name, licence)
			if !ok {
				wrong = append(wrong, fmt.Errorf("%s: licence %s: expected one of %s", l.name, licence, strings.Join(allowed, ", ")))
			}
			needed[e] = true
		}
	}
	for _, e := range slices.SortedFunc(maps.Keys(exceptions), func(a, b exception) int { return cmp.Compare(a.module, b.module) }) {
		if !needed[e] {
			wrong = append(wrong, fmt.Errorf("%s: the exception for %s is not needed: expected it to be removed", e.module, e.licence))
		}
	}
	return wrong
}

func exceptionFor(name, licence string) (exception, bool) {
	for e := range exceptions {
		if e.licence == licence && (name == e.module || strings.HasPrefix(name, e.module+"/")) {
			return e, true
		}
	}
	return exception{}, false
}

// write writes a file, if there is a name for it.
func write(name string, content func(io.Writer) error) error {
	if name == "" {
		return nil
	}
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	return errors.Join(content(f), f.Close())
}

func writeList(w io.Writer, libraries []library) error {
	c := csv.NewWriter(w)
	_ = c.Write([]string{"library", "version", "licences"}) // Error has it
	for _, l := range libraries {
		_ = c.Write([]string{l.name, l.version, strings.Join(l.licences, " ")})
	}
	c.Flush()
	return c.Error()
}

// writeTexts writes the licences, with the notices beside them (Apache-2.0, section
// 4(d)).
func writeTexts(w io.Writer, libraries []library) error {
	for _, l := range libraries {
		if l.file == "" {
			continue
		}
		notices, err := filepath.Glob(filepath.Join(filepath.Dir(l.file), "NOTICE*"))
		if err != nil {
			return err
		}
		for _, file := range append([]string{l.file}, notices...) {
			text, err := os.ReadFile(file)
			if err != nil {
				return err
			}
			if _, err := fmt.Fprintf(w, "== %s %s: %s\n\n%s\n\n", l.name, l.version, filepath.Base(file), text); err != nil {
				return err
			}
		}
	}
	return nil
}
