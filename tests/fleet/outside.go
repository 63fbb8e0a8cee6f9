package main

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"testing"
)

// outside lets what is made for tests be used by a command.
type outside struct {
	testing.TB // nil: what is not written below is not to be used

	dir      string
	cleanups []func()
}

// failed is the panic by which a test would end.
type failed struct{ error }

func (o *outside) Helper()           {}
func (o *outside) Cleanup(f func())  { o.cleanups = append(o.cleanups, f) }
func (o *outside) Fatal(args ...any) { panic(failed{errors.New(fmt.Sprint(args...))}) }

func (o *outside) Fatalf(format string, args ...any) { o.Fatal(fmt.Sprintf(format, args...)) }

// TempDir gives a folder that goes with the run's.
func (o *outside) TempDir() string {
	dir, err := os.MkdirTemp(o.dir, "")
	if err != nil {
		o.Fatal(err)
	}
	return dir
}

// try makes an error of a test's end.
func (o *outside) try(f func()) (err error) {
	defer func() {
		switch r := recover().(type) {
		case nil:
		case failed:
			err = r.error
		default:
			panic(r)
		}
	}()
	f()
	return nil
}

// close does what the end of a test does.
func (o *outside) close() {
	for _, f := range slices.Backward(o.cleanups) {
		f()
	}
	o.cleanups = nil
}
