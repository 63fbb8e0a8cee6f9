//go:build !linux

package main

import (
	"errors"
	"os/exec"
	"time"
)

// errLinux: without cores to pin to and a process clock to read, the figures
// would look the same and mean nothing.
var errLinux = errors.New("bench pins processes to cores and needs Linux")

func pinSelf(int) error { return errLinux }

func startPinned(*exec.Cmd, int) error { return errLinux }

func cpuTime(int) (time.Duration, error) { return 0, errLinux }

func preciseSleep(d time.Duration) { time.Sleep(d) }
