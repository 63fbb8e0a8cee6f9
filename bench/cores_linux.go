package main

import (
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// pinSelf moves every thread of this process to one core; threads that the
// runtime starts later inherit it. It reads the list twice, because a thread
// may be started by one that has not been moved yet.
func pinSelf(core int) error {
	set := cpuSet(core)
	for range 2 {
		tasks, err := os.ReadDir("/proc/self/task")
		if err != nil {
			return err
		}
		for _, t := range tasks {
			tid, err := strconv.Atoi(t.Name())
			if err != nil {
				return err
			}
			if err := unix.SchedSetaffinity(tid, &set); err != nil && err != unix.ESRCH {
				return err
			}
		}
	}
	return nil
}

// startPinned starts a child on a core. A child inherits the affinity of the
// thread that forks it; moving it afterwards would miss the threads that it
// has already started.
func startPinned(cmd *exec.Cmd, core int) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var before unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		return err
	}
	set := cpuSet(core)
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		return err
	}
	// No proxy may be left running when bench is killed.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	err := cmd.Start()
	if restore := unix.SchedSetaffinity(0, &before); err == nil {
		err = restore
	}
	return err
}

func cpuSet(core int) unix.CPUSet {
	var set unix.CPUSet
	set.Set(core)
	return set
}

// cpuTime is the user and system time of a process, threads that ended
// included. The kernel's clock of a process counts nanoseconds, where
// /proc/PID/stat counts hundredths of a second.
func cpuTime(pid int) (time.Duration, error) {
	const wholeProcess = 2 // CPUCLOCK_SCHED, as in clock_getcpuclockid(3)
	var ts unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|wholeProcess), &ts); err != nil {
		return 0, err
	}
	return time.Duration(ts.Nano()), nil
}

// preciseSleep sleeps in the kernel. The runtime's own timers are rounded up
// to a millisecond while nothing else is due, which is as long as the requests
// that are being timed.
func preciseSleep(d time.Duration) {
	ts := unix.NsecToTimespec(int64(d))
	for unix.Nanosleep(&ts, &ts) == unix.EINTR {
	}
}
