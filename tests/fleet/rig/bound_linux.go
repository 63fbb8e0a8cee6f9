package rig

import (
	"os/exec"
	"runtime"
	"sync"
	"syscall"
)

// startBound starts a child that dies with this process: no Caddy may be left running when this one is killed. The
// kernel watches the thread that forks, so that must be one that lasts.
func startBound(cmd *exec.Cmd) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	forks.Do(func() { go forkAll() })
	toFork <- fork{cmd, started}
	return <-started
}

// fork is a child to start.
type fork struct {
	cmd     *exec.Cmd
	started chan<- error
}

var (
	forks  sync.Once
	toFork = make(chan fork)
)

func forkAll() {
	runtime.LockOSThread()
	for f := range toFork {
		f.started <- f.cmd.Start()
	}
}
