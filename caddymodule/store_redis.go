package caddymodule

import (
	"cmp"
	"context"
	"crypto/tls"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"github.com/caddyserver/caddy/v2/modules/caddytls"
	"github.com/redis/go-redis/v9"

	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenendpoint"
	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenstore/redisstore"

	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenstore"
)

func init() {
	caddy.RegisterModule(new(RedisStore))
}

// logRedis makes the Redis client log to Caddy. By default it prints its errors to
// stderr. The client has one logger for the whole process. So this is done only if a
// config has a Redis store, and not when a program imports the package.
var logRedis = sync.OnceFunc(func() { redis.SetLogger(redisLogger{}) })

type redisLogger struct{}

// Printf logs messages of the client about its connections.
func (redisLogger) Printf(_ context.Context, format string, v ...any) {
	caddy.Log().Named("token_sources.redis").Sugar().Debugf(format, v...)
}

// RedisStore keeps tokens in Redis, for a fleet that shares them. Package redisstore
// says what it guarantees, and which of that depends on Redis's own settings. Text
// may hold {env.*} and {file.*}. No connection is made before a token is needed.
type RedisStore struct {
	// The servers, as host:port. One is a server, several are nodes of a
	// cluster; with master they are Sentinels. Required.
	Addresses []string `json:"addresses,omitempty"`

	// The name under which the Sentinels know the server.
	Master string `json:"master,omitempty"`

	// The user. Default: Redis's default user.
	Username string `json:"username,omitempty"`

	// The user's password. Write a placeholder, {env.NAME} or {file.PATH}: the
	// config can be read through the admin API.
	Password string `json:"password,omitempty"`

	// The number of the database. Default: 0.
	DB int `json:"db,omitempty"`

	// Encrypts the connections. The settings are those of the http transport's tls.
	// Default: they are not encrypted.
	TLS *reverseproxy.TLSConfig `json:"tls,omitempty"`

	// The prefix of the Redis keys. Default: token_sources/.
	Prefix string `json:"prefix,omitempty"`

	// How many replicas must hold a token before it is used. Default: 0.
	Replicas int `json:"replicas,omitempty"`

	// How long one command may take. A call may need two. Default: 3s.
	Timeout caddy.Duration `json:"timeout,omitempty"`

	// Where the Caddyfile says it.
	Origin *Origin `json:"origin,omitempty"`

	tls *liveTLS[*tls.Config] // nil: no TLS
}

// CaddyModule returns the Caddy module information.
func (*RedisStore) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "token_sources.stores.redis",
		New: func() caddy.Module { return new(RedisStore) },
	}
}

// Provision reads what TLS needs.
func (rs *RedisStore) Provision(ctx caddy.Context) (err error) {
	logRedis()
	if rs.TLS == nil {
		return nil
	}
	if unverified(rs.TLS) {
		warn(ctx, rs.Origin, "tls", noVerification)
	}
	settings := copyTLS(rs.TLS)
	rs.tls, err = newLiveTLS(ctx, rs.TLS, func(ctx caddy.Context) (*tls.Config, error) {
		cfg, err := copyTLS(settings).MakeTLSClientConfig(ctx)
		if err != nil {
			return nil, err
		}
		if cfg == nil { // Caddy returns nil if there are no settings
			cfg = new(tls.Config)
		}
		cfg.MinVersion = tls.VersionTLS12
		return cfg, nil
	})
	if err != nil {
		return rs.Origin.errorf("tls", "%w", err)
	}
	return nil
}

// Validate checks the settings.
func (rs *RedisStore) Validate() error {
	switch {
	case len(rs.Addresses) == 0:
		return rs.Origin.errorf("", "store redis: address is missing: expected address <host:port...>")
	case rs.DB < 0:
		return rs.Origin.errorf("db", "%d: expected a whole number from 0", rs.DB)
	case rs.DB > 0 && rs.Master == "" && len(rs.Addresses) > 1:
		return rs.Origin.errorf("db", "%d: several addresses are a cluster, which has only 0: expected one address, or master <name>", rs.DB)
	case rs.Replicas < 0:
		return rs.Origin.errorf("replicas", "%d: expected a whole number from 0", rs.Replicas)
	case rs.Timeout < 0:
		return rs.Origin.errorf("timeout", "%v: expected a duration above 0", time.Duration(rs.Timeout))
	}
	return nil
}

// TokenStore implements [Store].
func (rs *RedisStore) TokenStore(ctx caddy.Context) (tokenstore.Store, error) {
	r := &resolver{repl: caddy.NewReplacer()}
	cfg := redisstore.Config{DB: rs.DB, Replicas: rs.Replicas, Timeout: time.Duration(rs.Timeout)}
	for _, text := range rs.Addresses {
		address, err := r.plain(text)
		if err != nil {
			return nil, rs.Origin.errorf("address", "%w", err)
		}
		if _, port, err := net.SplitHostPort(address); err != nil || port == "" {
			return nil, rs.Origin.errorf("address", "%q: expected host:port", address)
		}
		cfg.Addresses = append(cfg.Addresses, address)
	}
	var password string
	for option, field := range map[string]struct {
		text string
		to   *string
	}{
		"master": {rs.Master, &cfg.Master}, "username": {rs.Username, &cfg.Username},
		"password": {rs.Password, &password}, "prefix": {rs.Prefix, &cfg.Prefix},
	} {
		var err error
		if *field.to, err = r.plain(field.text); err != nil {
			return nil, rs.Origin.errorf(option, "%w", err)
		}
	}
	cfg.Password = tokenendpoint.NewSecret(password)
	if rs.tls != nil {
		cfg.Dial = rs.dialTLS
	}
	store, err := redisstore.New(cfg)
	if err != nil {
		return nil, rs.Origin.errorf("", "store redis: %w", err)
	}
	if rs.tls == nil {
		return store, nil
	}
	watching, unwatch := context.WithCancel(context.Background())
	go rs.tls.run(watching, ctx.Slogger(), func(*tls.Config) {})
	return &watchedStore{store, unwatch}, nil
}

// dialTLS connects with what the TLS files hold now.
func (rs *RedisStore) dialTLS(ctx context.Context, network, addr string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(time.Duration(rs.Timeout), redisstore.DefaultTimeout))
	defer cancel()
	d := &tls.Dialer{Config: rs.tls.get()}
	return d.DialContext(ctx, network, addr)
}

// watchedStore is a store whose TLS files are watched until it is closed.
type watchedStore struct {
	*redisstore.Store
	unwatch context.CancelFunc
}

// Close implements io.Closer.
func (s *watchedStore) Close() error {
	s.unwatch()
	return s.Store.Close()
}

// UnmarshalCaddyfile sets up the store from Caddyfile tokens. Syntax:
//
//	store redis {
//	    address  <host:port...>
//	    master   <name>
//	    username <name>
//	    password <password>
//	    db       <number>
//	    tls      [{
//	        ca <files...>
//	    }]
//	    prefix   <text>
//	    replicas <number>
//	    timeout  <duration>
//	}
func (rs *RedisStore) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // redis
	rs.Origin = originAt(d)
	return options{
		"address":  listOption(&rs.Addresses, "<host:port...>"),
		"master":   textOption(&rs.Master, "<name>"),
		"username": textOption(&rs.Username, "<name>"),
		"password": textOption(&rs.Password, "<password>"),
		"db": {usage: "<number>", min: 1, max: 1, parse: func(d *caddyfile.Dispenser, args []string) error {
			n, err := strconv.Atoi(args[0])
			if err != nil || n < 0 {
				return d.Errf("%q is not a database: expected a whole number from 0", args[0])
			}
			rs.DB = n
			return nil
		}},
		"tls":      {usage: "[{ ca <files...> }]", max: 0, parse: rs.parseTLS},
		"prefix":   textOption(&rs.Prefix, "<text>"),
		"replicas": countOption(&rs.Replicas),
		"timeout":  positiveOption(&rs.Timeout),
	}.parse(d, "store redis", rs.Origin, nil)
}

func (rs *RedisStore) parseTLS(d *caddyfile.Dispenser, _ []string) error {
	rs.TLS = new(reverseproxy.TLSConfig)
	var files []string
	if err := (options{"ca": listOption(&files, "<files...>")}).parse(d, "tls", nil, nil); err != nil {
		return err
	}
	if len(files) > 0 {
		rs.TLS.CARaw = caddyconfig.JSONModuleObject(caddytls.FileCAPool{TrustedCACertPEMFiles: files}, "provider", "file", nil)
	}
	return nil
}

// Interface guards
var (
	_ Store                 = (*RedisStore)(nil)
	_ caddy.Provisioner     = (*RedisStore)(nil)
	_ caddy.Validator       = (*RedisStore)(nil)
	_ caddyfile.Unmarshaler = (*RedisStore)(nil)
)
