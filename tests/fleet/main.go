// Command fleet shows what becomes of tokens when many replicas share them, are killed, lose their store, or are
// reloaded: with real processes, against a provider that revokes the grant when a used refresh token comes again.
//
// Each run prints a table of figures, and exits with 1 if one that has to hold does not.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/caddy-bearer/caddy-bearer/tests/fleet/rig"
)

const usage = `usage: go run ./tests/fleet SUBCOMMAND [flags]

  rotations    many replicas share one rotating refresh token
  kills        replicas are killed in the middle of renewals
  redis        the Redis that they share fails in one way after another
  reloads      one Caddy is reloaded under load, beside a plain one
  memory       a token for each of many keys

Each takes -h.
`

// commands are what can be run: each adds its flags and gives what runs it.
var commands = map[string]func(*flag.FlagSet) func(context.Context, lab) (*report, error){
	"rotations": rotationsCommand,
	"kills":     killsCommand,
	"redis":     redisCommand,
	"reloads":   reloadsCommand,
	"memory":    memoryCommand,
}

// lab is where a run takes place.
type lab struct {
	program string // a Caddy with the module
	dir     string // of its own, and short
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	holds, err := run(ctx, os.Args[1:])
	switch {
	case errors.Is(err, flag.ErrHelp):
		os.Exit(2)
	case err != nil:
		fmt.Fprintln(os.Stderr, "fleet:", err)
		os.Exit(1)
	case !holds:
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) (holds bool, err error) {
	if len(args) < 1 || commands[args[0]] == nil {
		if len(args) > 0 {
			fmt.Fprintf(os.Stderr, "fleet: %q: expected one of the words below\n\n", args[0])
		}
		fmt.Fprint(os.Stderr, usage)
		return false, flag.ErrHelp
	}
	flags := flag.NewFlagSet("fleet "+args[0], flag.ContinueOnError)
	program := flags.String("caddy", "", "a ready `binary` of Caddy with the module; otherwise one is built")
	keep := flags.Bool("keep", false, "keep the folder with configurations, logs and stores, and name it")
	play := commands[args[0]](flags)
	if err := flags.Parse(args[1:]); err != nil {
		return false, flag.ErrHelp
	}
	if *program != "" { // it is started from other folders
		if *program, err = filepath.Abs(*program); err != nil {
			return false, err
		}
	}
	dir, err := os.MkdirTemp("", "fleet-")
	if err != nil {
		return false, err
	}
	if *keep {
		fmt.Println(dir)
	} else {
		defer os.RemoveAll(dir)
	}
	if *program == "" {
		if *program, err = rig.Build(ctx, dir); err != nil {
			return false, err
		}
	}
	r, err := play(ctx, lab{program: *program, dir: dir})
	if r != nil {
		fmt.Println(r)
		holds = r.holds()
	}
	return holds, err
}
