package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
)

const module = "github.com/caddy-bearer/caddy-bearer"

// lab is what every subcommand needs: where the proxies and the load run, the
// binaries, and a folder that is gone afterwards.
type lab struct {
	proxyCore, loadCore int
	plain, sidecar      string // binaries; built when empty
	old                 string // binary of an older sidecar, if there is one to compare to
	keep                bool
	env                 map[string][]string // further environment of a process, by its name
	apart               bool                // every proxy runs a file of its own
	running             map[string]bool
	dir                 string
	started             []*process
	count               int // of processes ever started: each has a folder of its own
}

func (l *lab) flags(fs *flag.FlagSet) {
	fs.StringVar(&l.plain, "a", "", "ready binary of plain Caddy (default: built from bench/plain)")
	fs.StringVar(&l.sidecar, "b", "", "ready binary of Caddy with the module (default: built from bench/sidecar)")
	fs.IntVar(&l.proxyCore, "proxy-core", 0, "core that all proxies share")
	fs.IntVar(&l.loadCore, "load-core", min(1, runtime.NumCPU()-1), "core of the load generator and the upstream")
	fs.BoolVar(&l.keep, "keep", false, "keep the work folder, with each process's config and log")
}

// open makes the work folder.
func (l *lab) open() error {
	dir, err := os.MkdirTemp("", "bench-")
	if err != nil {
		return err
	}
	l.dir = dir
	// Each process runs in a folder of its own.
	for _, binary := range []*string{&l.plain, &l.sidecar, &l.old} {
		if *binary == "" {
			continue
		}
		if *binary, err = filepath.Abs(*binary); err != nil {
			return err
		}
	}
	if l.proxyCore == l.loadCore {
		fmt.Println("warning: proxies and load share one core, so latencies include the load generator")
	}
	return nil
}

// pin moves this process to the load core. A build before it has all cores.
func (l *lab) pin() error {
	if err := pinSelf(l.loadCore); err != nil {
		return fmt.Errorf("pinning the load generator to core %d: %w", l.loadCore, err)
	}
	// Dispatchers sleep in a system call, and each holds a P while it does.
	runtime.GOMAXPROCS(4)
	return nil
}

func (l *lab) close() {
	l.stopAll()
	if l.keep {
		fmt.Println("kept", l.dir)
		return
	}
	_ = os.RemoveAll(l.dir)
}

func (l *lab) stopAll() {
	for _, p := range l.started {
		p.stop()
	}
	l.started = nil
}

// build fills in the binaries that were not given and that are needed; then
// this process goes to its core.
func (l *lab) build(ctx context.Context, sidecar bool) error {
	if err := build(ctx, &l.plain, filepath.Join(l.dir, "plain"), "bench/plain"); err != nil {
		return err
	}
	if sidecar {
		if err := build(ctx, &l.sidecar, filepath.Join(l.dir, "sidecar"), "bench/sidecar"); err != nil {
			return err
		}
	}
	return l.pin()
}

func build(ctx context.Context, binary *string, out, pkg string) error {
	if *binary != "" {
		return nil
	}
	cmd := exec.CommandContext(ctx, "go", "build", "-o", out, module+"/"+pkg)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("building %s: %w", pkg, err)
	}
	*binary = out
	return nil
}

// ownFile returns a copy of a binary that a proxy runs already. Two processes
// of one file share the memory of its code, and so keep it in the cache for
// each other; beside two plain Caddys the module took 4 % more CPU and 6 % more
// time than beside one, for being the only one to run its own.
func (l *lab) ownFile(binary string) (string, error) {
	if !l.apart {
		return binary, nil
	}
	if !l.running[binary] {
		if l.running == nil {
			l.running = make(map[string]bool)
		}
		l.running[binary] = true
		return binary, nil
	}
	text, err := os.ReadFile(binary)
	if err != nil {
		return "", err
	}
	own := filepath.Join(l.dir, fmt.Sprintf("%03d-%s", l.count+1, filepath.Base(binary)))
	return own, os.WriteFile(own, text, 0o700)
}
