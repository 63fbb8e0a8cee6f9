//go:build !linux

package rig

import (
	"context"
	"errors"
)

// Footprint is what a process holds.
type Footprint struct{ Goroutines, Descriptors, Heap int }

var errLinux = errors.New("what a process holds is read from /proc, which is Linux's")

// Footprint is not known here.
func (*Replica) Footprint(context.Context) (Footprint, error) { return Footprint{}, errLinux }

// Memory is not known here.
func (*Replica) Memory() (now, highest int, err error) { return 0, 0, errLinux }
