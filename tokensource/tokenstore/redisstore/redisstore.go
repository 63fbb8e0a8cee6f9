// Package redisstore keeps a source's records in Redis, for a fleet that
// shares them. It is the smallest [tokenstore.Store]: a compare-and-swap, and
// a read that knows "not there" from "does not answer". It needs Redis 6 or
// what speaks like it: one server, one that Sentinel watches, or a cluster.
//
// # How durable a written record is
//
// Redis answers before anything is on disk or on a replica. What a server is
// told to do about that is not this package's to decide, but a token that is
// lost may have to be replaced by a person, so:
//
//   - appendonly yes: else a restart brings back the last snapshot. With
//     appendfsync everysec a power failure loses up to a second (a crash of the
//     process alone loses nothing), with always none.
//   - Where there are replicas, [Config.Replicas] makes a write wait until that
//     many have it, by WAIT: in their memory, not on their disks. With fewer the
//     write is an error, though the value may stay. A fail-over by Sentinel or a
//     cluster prefers the replica that is the furthest, which then has it. It is
//     no consensus: a master that was cut off goes on taking writes until it is
//     told, unless min-replicas-to-write stops it.
//   - maxmemory-policy noeviction (the default), or records go when memory is
//     short.
//
// After a fail-over that lost the last write an older record comes back. That
// is noticed by its generation, but not mended here.
//
// Whether a process that shares the store still runs is not known: a key that
// expires says that it has not spoken for a while, not that it is dead.
package redisstore

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenendpoint"

	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenstore"
)

// Config says where Redis is.
type Config struct {
	// Addresses are host:port. One is a server; several are nodes of a cluster;
	// with Master they are Sentinels. Required.
	Addresses []string
	// Master is the name under which Sentinels know the server.
	Master string
	// Username and Password authenticate at the server.
	Username string
	Password tokenendpoint.Secret
	// DB is the number of the database. Default: 0. A cluster has no other.
	DB int
	// TLS, if not nil, encrypts the connections.
	TLS *tls.Config
	// Dial makes the connections, in place of TCP and TLS: it has to encrypt them,
	// too, if they are to be. For settings that change while the program runs.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// Prefix begins the keys. Default: "token_sources/".
	Prefix string
	// Replicas is how many replicas must have a record before it counts as
	// written. Default: 0.
	Replicas int
	// Timeout bounds the dialing, and each exchange with the server. Two fit into
	// a call: a new connection begins with one. Default: 3s, so that a server
	// which needs 2 s for a response serves.
	Timeout time.Duration
}

// Default values of a [Config].
const (
	DefaultPrefix  = "token_sources/"
	DefaultTimeout = 3 * time.Second
)

// Store is a [tokenstore.Store] in Redis.
type Store struct {
	cfg    Config
	client redis.UniversalClient
}

// New makes a store. It calls nobody; the first use does.
func New(cfg Config) (*Store, error) {
	switch {
	case len(cfg.Addresses) == 0:
		return nil, errors.New("no address")
	case cfg.Replicas < 0:
		return nil, fmt.Errorf("replicas: %d is not a count", cfg.Replicas)
	case cfg.DB != 0 && cfg.Master == "" && len(cfg.Addresses) > 1:
		return nil, fmt.Errorf("db %d: a cluster has only 0", cfg.DB)
	}
	if cfg.Prefix == "" {
		cfg.Prefix = DefaultPrefix
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = DefaultTimeout
	}
	return &Store{cfg: cfg, client: redis.NewUniversalClient(&redis.UniversalOptions{
		Addrs: cfg.Addresses, MasterName: cfg.Master,
		Username: cfg.Username, Password: cfg.Password.Reveal(), DB: cfg.DB, TLSConfig: cfg.TLS, Dialer: cfg.Dial,
		DialTimeout: cfg.Timeout, ReadTimeout: cfg.Timeout, WriteTimeout: cfg.Timeout,
		ContextTimeoutEnabled: true,
		// do repeats what may be repeated: it must know which attempts may have
		// written. Repeated dialing would only make a server that is down slow.
		MaxRetries: -1, DialerRetries: 1,
		// one exchange less for a new connection, when each takes long
		DisableIdentity:          true,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	})}, nil
}

// String names the place, without credentials.
func (s *Store) String() string {
	return fmt.Sprintf("redis:%s/%s/%d/%s", strings.Join(s.cfg.Addresses, ","), s.cfg.Master, s.cfg.DB, s.cfg.Prefix)
}

// Close ends the connections.
func (s *Store) Close() error { return s.client.Close() }

// load reads a value. To say that there is none, the server must show that it
// is one that takes writes: a replica that has not caught up, or one that was
// demoted, may lack what was written. DEL of nothing changes nothing. "None" is
// a number here, since Redis's nil is also what a Sentinel says of a server that
// it does not know.
const load = `local v = redis.call('GET', KEYS[1])
if v then return v end
redis.call('DEL', KEYS[1])
return 0`

// swap compares and sets: ARGV is the new value, whether an earlier attempt may
// have written it, and the old value if there is to be one. What such an attempt
// has written is written once more: WAIT looks at a connection's own writes.
const swap = `local v = redis.call('GET', KEYS[1])
if v ~= (ARGV[3] or false) and not (ARGV[2] == '1' and v == ARGV[1]) then return 0 end
redis.call('SET', KEYS[1], ARGV[1])
return 1`

// Load implements [tokenstore.Store].
func (s *Store) Load(ctx context.Context, key string) ([]byte, error) {
	var value []byte
	err := s.do(ctx, key, func(ctx context.Context, node *redis.Client, name string) error {
		answer, err := node.Eval(ctx, load, []string{name}).Result()
		if err != nil {
			return err
		}
		text, ok := answer.(string)
		if !ok {
			return fs.ErrNotExist
		}
		value = []byte(text)
		return nil
	})
	return value, err
}

// Swap implements [tokenstore.Store]. When a response is lost, it looks whether
// its value is there; so no two processes should write the same.
func (s *Store) Swap(ctx context.Context, key string, old, value []byte) error {
	args := []any{value, 0}
	if old != nil {
		args = append(args, old)
	}
	unsure := false // an earlier attempt may have written
	return s.do(ctx, key, func(ctx context.Context, node *redis.Client, name string) error {
		// one connection sends both, and in one go
		pipe := node.Pipeline()
		set := pipe.Eval(ctx, swap, []string{name}, args...)
		var wait *redis.Cmd
		if s.cfg.Replicas > 0 {
			wait = pipe.Do(ctx, "WAIT", s.cfg.Replicas, (s.cfg.Timeout / 2).Milliseconds())
		}
		_, _ = pipe.Exec(ctx) // its error is the first of the commands'
		swapped, err := set.Int()
		switch {
		case err != nil:
			if maybeDone(err) {
				unsure, args[1] = true, 1
			}
			return err
		case swapped == 0 && unsure:
			return errUnsure
		case swapped == 0:
			return tokenstore.ErrConflict
		case wait == nil:
			return nil
		}
		unsure, args[1] = true, 1
		return s.waited(wait)
	})
}

var errUnsure = errors.New("a response was lost, and something else is there now: whether the value was written is not known")

// waited reports whether enough replicas have the write.
func (s *Store) waited(wait *redis.Cmd) error {
	got, err := wait.Int()
	if err != nil {
		return fmt.Errorf("written, but not known to be on replicas: %w", err)
	}
	if got < s.cfg.Replicas {
		return fewReplicasError{got, s.cfg.Replicas}
	}
	return nil
}

// fewReplicasError: to write once more would not make them more.
type fewReplicasError struct{ got, want int }

func (e fewReplicasError) Error() string {
	return "written, but only " + strconv.Itoa(e.got) + " of " + strconv.Itoa(e.want) + " replicas have it"
}

// do makes a call of the node that has the key, and makes it again after a
// failure that a new connection or a look at the cluster mends. One that took
// long is not made again: the caller waits.
func (s *Store) do(ctx context.Context, key string, call func(context.Context, *redis.Client, string) error) error {
	ctx, cancel := context.WithTimeout(ctx, 2*s.cfg.Timeout)
	defer cancel()
	name := s.cfg.Prefix + key
	for started, attempt := time.Now(), 1; ; attempt++ {
		node, err := s.node(ctx, name)
		if err == nil {
			err = call(ctx, node, name)
		}
		if err == nil || attempt == attempts || !mendable(err) || time.Since(started) > s.cfg.Timeout/2 {
			return err
		}
		if cluster, ok := s.client.(*redis.ClusterClient); ok {
			cluster.ReloadState(ctx) // in the background
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(time.Duration(attempt) * retryDelay):
		}
	}
}

const (
	attempts   = 3
	retryDelay = 50 * time.Millisecond
)

// node is who has the key. In a cluster we ask for it, since WAIT has no key
// by which it would find the same node.
func (s *Store) node(ctx context.Context, name string) (*redis.Client, error) {
	switch c := s.client.(type) {
	case *redis.Client:
		return c, nil
	case *redis.ClusterClient:
		return c.MasterForKey(ctx, name)
	}
	return nil, fmt.Errorf("no client of a kind that is known: %T", s.client)
}

// mendable tells failures that may be gone the next moment: a connection that
// broke, a server that has become a replica, a key that lives elsewhere now.
func mendable(err error) bool {
	var answer redis.Error
	if errors.As(err, &answer) {
		_, moved := redis.IsMovedError(err)
		return moved || redis.IsReadOnlyError(err) || redis.IsClusterDownError(err) || redis.IsTryAgainError(err)
	}
	for _, final := range []error{fs.ErrNotExist, tokenstore.ErrConflict, errUnsure, redis.ErrClosed} {
		if errors.Is(err, final) {
			return false
		}
	}
	var few fewReplicasError
	return !errors.As(err, &few)
}

// maybeDone reports whether a call that failed may have done its work: neither
// the server has said no, nor was there no connection.
func maybeDone(err error) bool {
	var answer redis.Error
	var op *net.OpError
	return !errors.As(err, &answer) && !(errors.As(err, &op) && op.Op == "dial")
}

// Interface guard
var _ tokenstore.Store = (*Store)(nil)
