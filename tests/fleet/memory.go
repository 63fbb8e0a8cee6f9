package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-bearer/caddy-bearer/tests/fleet/rig"
	"github.com/caddy-bearer/caddy-bearer/tests/provider"
)

// memory is a run with a token for each of many keys.
type memory struct {
	keys     int
	size     int
	resident int
	bound    string
	more     int
	maxKeys  int
	overhead int
	profile  string
}

func (s *memory) flags(f *flag.FlagSet) {
	f.IntVar(&s.keys, "keys", 100_000, "tokens in one process")
	f.IntVar(&s.size, "size", 1000, "of an access token, and of a refresh token, in bytes")
	f.IntVar(&s.resident, "resident", 200, "MB of resident memory that this process must stay under")
	f.StringVar(&s.bound, "max-memory", "48MiB", "the source's max_memory; 0 keeps every key, and takes a larger -resident")
	f.IntVar(&s.more, "more", 1_000_000, "keys under eviction, of the library alone")
	f.IntVar(&s.maxKeys, "max-keys", 100_000, "how many of those are kept in memory")
	f.IntVar(&s.overhead, "overhead", 1000, "bytes of heap that a key may take besides its access token")
	f.StringVar(&s.profile, "profile", "", "a `file` for a heap profile of the process")
}

func memoryCommand(f *flag.FlagSet) func(context.Context, lab) (*report, error) {
	s := &memory{}
	s.flags(f)
	return s.run
}

// keyedFile takes the access token for the refresh token as well: the provider's own are short, and here long ones matter. None
// is used, for the tokens outlive the run.
const keyedFile = `{
	admin "unix/THE_HOME/admin"
	persist_config off
	auto_https off
	storage file_system {
		root THE_HOME/storage
	}
	log {
		output stdout
		level WARN
	}
	token_source users {
		grant password {
			token_url THE_API/token
			client_id THE_CLIENT
			client_secret {env.FLEET_SECRET}
			username {key.user}
			password {env.FLEET_PASSWORD}
			response {
				refresh_token access_token
			}
		}
		key user {header.X-User}
		max_memory THE_BOUND
	}
}

http://localhost {
	bind "unix/THE_HOME/site"
	reverse_proxy THE_API {
		transport bearer users
	}
}
`

func (s *memory) run(ctx context.Context, l lab) (*report, error) {
	p, err := rig.StartProvider(24 * time.Hour)
	if err != nil {
		return nil, err
	}
	defer p.Close()
	p.SetAnyUser(true)
	p.SetTokenSize(s.size)
	caddyfile := strings.NewReplacer("THE_API", p.URL, "THE_CLIENT", p.ClientID, "THE_BOUND", s.bound).Replace(keyedFile)
	env := []string{"FLEET_SECRET=" + p.ClientSecret, "FLEET_PASSWORD=" + p.Password}
	c, err := rig.NewReplica(l.program, filepath.Join(l.dir, "keyed"), "keyed", env, caddyfile)
	if err != nil {
		return nil, err
	}
	if err := c.Start(ctx); err != nil {
		return nil, err
	}
	r := &report{title: fmt.Sprintf("memory: %d keys with tokens of %d bytes in one process; %d keys in the library, %d of them in memory",
		s.keys, s.size, s.more, s.maxKeys)}
	err = s.inProcess(ctx, r, c, p)
	if err = errors.Join(err, c.Stop()); err != nil {
		return nil, err
	}
	return r, s.inLibrary(ctx, r)
}

// inProcess uses every key of a real process twice.
func (s *memory) inProcess(ctx context.Context, r *report, c *rig.Replica, p *provider.Server) error {
	atFirst, _, err := c.Memory()
	if err != nil {
		return err
	}
	for _, pass := range []string{"first", "second"} {
		start := time.Now()
		wrong, err := everyKey(ctx, s.keys, func(user string) error {
			return useKey(ctx, c, user)
		})
		if err != nil {
			return err
		}
		r.must(wrong == nil, pass+" use of every key", result(wrong), "its own token")
		r.note("  time", "%.0f s", time.Since(start).Seconds())
		now, _, err := c.Memory()
		if err != nil {
			return err
		}
		r.bound(now < s.resident<<20, "  resident memory after it", mb(now), fmt.Sprintf("< %d MB", s.resident))
	}
	r.exactly("token calls", p.TokenCount(), s.keys)
	r.exactly("requests that the provider found malformed", len(p.Violations()), 0)
	_, highest, err := c.Memory()
	if err != nil {
		return err
	}
	r.note("resident memory at first, at its highest", "%s, %s", mb(atFirst), mb(highest))
	if s.profile != "" {
		_, text, err := c.Admin(ctx, "/debug/pprof/heap?gc=1", nil, nil)
		if err = errors.Join(err, os.WriteFile(s.profile, text, 0o600)); err != nil {
			return err
		}
	}
	f, err := c.Footprint(ctx)
	if err != nil {
		return err
	}
	now, _, err := c.Memory()
	r.note("heap after a collection, and the resident memory then", "%s, %s", mb(f.Heap), mb(now))
	r.note("  heap per key", "%d bytes", f.Heap/s.keys)
	return err
}

func mb(bytes int) string { return fmt.Sprintf("%d MB", bytes>>20) }

func result(err error) string {
	if err != nil {
		return err.Error()
	}
	return "its own token"
}

// useKey calls the API for a user, and wants that user's token to have come with the call.
func useKey(ctx context.Context, c *rig.Replica, user string) error {
	status, body, err := c.Get(ctx, "/things", http.Header{"X-User": {user}})
	if err != nil {
		return err
	}
	if status != http.StatusOK {
		return fmt.Errorf("status %d: %.200s", status, body)
	}
	echo, err := provider.ReadEcho(body)
	if err == nil && echo.Holder != user {
		err = fmt.Errorf("another's token: %q's", echo.Holder)
	}
	return err
}

// everyKey does something for every key, in a random order and some at once. It gives the first thing that was wrong;
// the error is the context's.
func everyKey(ctx context.Context, keys int, do func(user string) error) (wrong, err error) {
	const atOnce = 16
	order := rand.Perm(keys)
	var next atomic.Int64
	var once sync.Once
	var all sync.WaitGroup
	for range atOnce {
		all.Go(func() {
			for ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= keys {
					return
				}
				user := fmt.Sprintf("user-%d", order[i])
				if err := do(user); err != nil {
					once.Do(func() { wrong = fmt.Errorf("%s: %w", user, err) })
				}
			}
		})
	}
	all.Wait()
	return wrong, ctx.Err()
}
