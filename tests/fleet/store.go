package main

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/caddy-bearer/caddy-bearer/tests/fleet/rig"
	"github.com/caddy-bearer/caddy-bearer/tests/redistest"
)

// store is what the replicas share.
type store struct {
	// lines gives the lines of replica i's global options; nil: the shared folder.
	lines func(i int) string
	watch func() *rig.Watch
	close func()
}

// openStore makes a store of a kind: file or redis.
func openStore(ctx context.Context, kind, dir string) (*store, error) {
	switch kind {
	case "file":
		return &store{
			watch: func() *rig.Watch { return rig.WatchRecord(filepath.Join(dir, "storage")) },
			close: func() {},
		}, nil
	case "redis":
		o := &outside{dir: dir}
		var server *redistest.Server
		if err := o.try(func() { server = redistest.Start(o, durable...) }); err != nil {
			o.close()
			return nil, err
		}
		return &store{
			lines: func(int) string { return redisLines(server.Addr) },
			watch: func() *rig.Watch { return watchRedis(ctx, server.Addr) },
			close: o.close,
		}, nil
	}
	return nil, fmt.Errorf("-store %s: expected file or redis", kind)
}

// durable has Redis keep what it has said that it wrote.
var durable = []string{"--appendonly", "yes", "--appendfsync", "always"}

// redisLines are the global options of a replica that uses a Redis.
func redisLines(addr string, more ...string) string {
	return fmt.Sprintf("token_sources {\n\t\tstore redis {\n\t\t\taddress %s\n\t\t\t%s\n\t\t}\n\t}", addr, strings.Join(more, "\n\t\t\t"))
}

// watchRedis watches the one record of a token in a Redis.
func watchRedis(ctx context.Context, addr string) *rig.Watch {
	redis.SetLogger(quiet{}) // a server that is down is what is wanted
	client := redis.NewClient(&redis.Options{Addr: addr, MaxRetries: -1, DialerRetries: 1})
	key, last := "", ""
	w := rig.Look(func() bool {
		if key == "" {
			if found, err := client.Keys(ctx, "token_sources/*").Result(); err == nil && len(found) > 0 {
				key = found[0]
			}
		}
		now, err := client.Get(ctx, key).Result()
		if err != nil || now == last {
			return false
		}
		last = now
		return true
	})
	w.AtEnd(func() { _ = client.Close() })
	return w
}

type quiet struct{}

func (quiet) Printf(context.Context, string, ...any) {}
