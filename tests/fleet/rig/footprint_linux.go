package rig

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"strconv"
)

// Footprint is what a process holds.
type Footprint struct {
	Goroutines, Descriptors int
	Heap                    int // bytes, after a garbage collection
}

var (
	goroutineTotal = regexp.MustCompile(`^goroutine profile: total (\d+)`)
	heapAlloc      = regexp.MustCompile(`(?m)^# HeapAlloc = (\d+)$`)
)

// Footprint collects the garbage and looks.
func (r *Replica) Footprint(ctx context.Context) (Footprint, error) {
	var f Footprint
	for what, into := range map[string]*int{"goroutine?debug=1": &f.Goroutines, "heap?gc=1&debug=1": &f.Heap} {
		status, text, err := r.Admin(ctx, "/debug/pprof/"+what, nil, nil)
		if err != nil {
			return f, err
		}
		pattern := goroutineTotal
		if into == &f.Heap {
			pattern = heapAlloc
		}
		m := pattern.FindSubmatch(text)
		if m == nil {
			return f, fmt.Errorf("%s: status %d, and no count in it", what, status)
		}
		if *into, err = strconv.Atoi(string(m[1])); err != nil {
			return f, err
		}
	}
	open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", r.Pid()))
	f.Descriptors = len(open)
	return f, err
}

// Memory gives the resident memory of a process, in bytes: now, and at its highest.
func (r *Replica) Memory() (now, highest int, err error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", r.Pid()))
	if err != nil {
		return 0, 0, err
	}
	for name, into := range map[string]*int{"VmRSS": &now, "VmHWM": &highest} {
		m := regexp.MustCompile(`(?m)^` + name + `:\s+(\d+) kB$`).FindSubmatch(text)
		if m == nil {
			return 0, 0, fmt.Errorf("%s is not told of", name)
		}
		kB, err := strconv.Atoi(string(m[1]))
		if err != nil {
			return 0, 0, err
		}
		*into = kB << 10
	}
	return now, highest, nil
}
