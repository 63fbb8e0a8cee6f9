package main

import (
	"fmt"
	"strings"
)

// table prints a line per round as it comes: a value per contender and its
// ratio to the first one's, with the medians of both at the end.
type table struct {
	width  int
	values [][]float64 // per contender
	ratios [][]float64
	lines  []string
}

func newTable(cs []*contender, labels ...string) *table {
	t := &table{width: 10 * len(labels), values: make([][]float64, len(cs)), ratios: make([][]float64, len(cs))}
	var b strings.Builder
	for _, l := range labels {
		fmt.Fprintf(&b, "%-10s", l)
	}
	for i, c := range cs {
		fmt.Fprintf(&b, "%12s", c.name)
		if i > 0 {
			fmt.Fprintf(&b, "%8s", "ratio")
		}
	}
	t.lines = append(t.lines, b.String())
	return t
}

func (t *table) row(labels []any, values []float64) {
	var b strings.Builder
	for _, l := range labels {
		fmt.Fprintf(&b, "%-10v", l)
	}
	for i, v := range values {
		t.values[i] = append(t.values[i], v)
		fmt.Fprintf(&b, "%12.1f", v)
		if i > 0 {
			ratio := v / values[0]
			t.ratios[i] = append(t.ratios[i], ratio)
			fmt.Fprintf(&b, "%8.3f", ratio)
		}
	}
	t.lines = append(t.lines, b.String())
}

// medians prints the table. The last line's ratios are the medians of the
// rounds' ratios, not ratios of medians: only what ran at one moment compares.
func (t *table) medians(unit string) {
	var b strings.Builder
	fmt.Fprintf(&b, "%-*s", t.width, "median "+unit)
	for i := range t.values {
		fmt.Fprintf(&b, "%12.1f", median(t.values[i]))
		if i > 0 {
			fmt.Fprintf(&b, "%8.3f", median(t.ratios[i]))
		}
	}
	fmt.Println(strings.Join(append(t.lines, b.String()), "\n") + "\n")
}
