package main

import (
	"fmt"
	"slices"
	"strings"
)

// report is what a run has shown: figures, some of which must hold.
type report struct {
	title string
	rows  []figure
	// details are told in any case, evidence if a figure does not hold.
	details  []string
	evidence []string
}

type figure struct {
	name, measured, must string
	fails                bool
	machine              bool // it is of the clock or of memory
}

// note adds a figure of which nothing is expected.
func (r *report) note(name, format string, args ...any) {
	r.rows = append(r.rows, figure{name: name, measured: fmt.Sprintf(format, args...)})
}

// must adds a figure that has to hold.
func (r *report) must(holds bool, name string, measured any, must string) {
	r.rows = append(r.rows, figure{name: name, measured: fmt.Sprint(measured), must: must, fails: !holds})
}

// bound adds a figure of the clock or of memory that has to hold: on a machine that does nothing else at the time. A test,
// which may run on any, does not ask for it.
func (r *report) bound(holds bool, name string, measured any, must string) {
	r.rows = append(r.rows, figure{name: name, measured: fmt.Sprint(measured), must: must, fails: !holds, machine: true})
}

// exactly adds a count that has to be one certain number.
func (r *report) exactly(name string, measured, want int) {
	r.must(measured == want, name, measured, fmt.Sprint(want))
}

// tell adds what explains a figure that does not hold.
func (r *report) tell(what, text string) {
	r.evidence = append(r.evidence, what+"\n"+text)
}

func (r *report) holds() bool {
	return !slices.ContainsFunc(r.rows, func(f figure) bool { return f.fails })
}

// holdsAnywhere leaves out what depends on the machine.
func (r *report) holdsAnywhere() bool {
	return !slices.ContainsFunc(r.rows, func(f figure) bool { return f.fails && !f.machine })
}

// String is the table, and the evidence if a figure does not hold.
func (r *report) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n\n", r.title)
	width, wide := len("figure"), len("measured")
	for _, f := range r.rows {
		width = max(width, len([]rune(f.name)))
		if f.must != "" {
			wide = max(wide, len([]rune(f.measured)))
		}
	}
	line := func(name, measured, must, verdict string) {
		fmt.Fprintln(&b, strings.TrimRight(fmt.Sprintf("  %-*s  %-*s  %-*s  %s", width, name, wide, measured, 12, must, verdict), " "))
	}
	line("figure", "measured", "must be", "")
	for _, f := range r.rows {
		switch {
		case f.fails:
			line(f.name, f.measured, f.must, "FAILS")
		case f.must != "":
			line(f.name, f.measured, f.must, "holds")
		default:
			line(f.name, f.measured, "", "")
		}
	}
	for _, d := range r.details {
		fmt.Fprintf(&b, "\n%s", d)
	}
	if !r.holds() {
		for _, e := range r.evidence {
			fmt.Fprintf(&b, "\n\n%s", e)
		}
	}
	return b.String()
}
