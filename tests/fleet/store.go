package main

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/caddy-bearer/caddy-bearer/tests/fleet/rig"
)

// store is what the replicas share.
type store struct {
	// lines gives the lines of replica i's global options; nil: the shared folder.
	lines   func(i int) string
	options string
	watch   func() *rig.Watch
	close   func()
}

// openStore makes a store of a kind: file or redis.
func openStore(_ context.Context, kind, dir string) (*store, error) {
	if kind == "file" {
		return &store{
			watch: func() *rig.Watch { return rig.WatchRecord(filepath.Join(dir, "storage")) },
			close: func() {},
		}, nil
	}
	return nil, fmt.Errorf("-store %s: expected file", kind)
}
