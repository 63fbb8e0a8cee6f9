package caddymodule

import (
	"bufio"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddytls"
	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// tunnel is a connection that a CONNECT has opened to a route.
type tunnel struct {
	ic     *Intercept
	route  *InterceptRoute
	target target
	user   string
	remote string
	conn   net.Conn // the client's, under TLS

	requests atomic.Int64
}

type (
	tunnelKey  struct{}
	reachedKey struct{} // its value notes that a request has come back to the Intercept
)

func tunnelOf(r *http.Request) *tunnel {
	t, _ := r.Context().Value(tunnelKey{}).(*tunnel)
	return t
}

// serveInside serves a request inside a tunnel.
func (ic *Intercept) serveInside(w http.ResponseWriter, r *http.Request, t *tunnel) error {
	t.requests.Add(1)
	if reached, ok := r.Context().Value(reachedKey{}).(*atomic.Bool); ok {
		reached.Store(true)
	}
	host, err := parseTarget(r.Host, "https")
	if err != nil || host.name != t.target.name || (host.port != t.target.port && host.port != "443" && host.port != "80") {
		return (&problem{
			name: problemMisdirected, status: http.StatusMisdirectedRequest,
			detail: "the request is for another host than the connection, which is for " + t.target.hostport(),
		}).write(w, r)
	}
	seenProxy.count(r, t.user, t.target, t.route.Host, seenRequest)
	return ic.serveRoute(w, r, t.route, t.target, t.user)
}

// insideServer serves what is inside intercepted connections. Each request goes through
// the site's routes again, and so comes back to the Intercept.
type insideServer struct {
	ic     *Intercept
	http   *http.Server
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
	certs  *certmagic.Config // makes certificates on demand
	// wildcards makes those for all names of a domain, which certmagic does not make on
	// demand.
	wildcards *certmagic.Config
	cache     *certmagic.Cache
	tls       *tls.Config

	closing atomic.Bool
	mu      sync.Mutex
	waiting map[net.Conn]struct{} // tunnels in which no byte has come yet
}

const (
	// drainTimeout is how long requests may go on that are under way when a config is
	// replaced.
	drainTimeout = 10 * time.Minute
	// drainHandshakes is how long handshakes may take that are. The sources of the old
	// config stay open for longer, see retireAfter.
	drainHandshakes = 3 * time.Second
	// firstByteTimeout is how long a client may leave a tunnel empty that it has asked
	// for. Some open tunnels ahead of need.
	firstByteTimeout = time.Minute
	// maxCertificates are kept in memory; the others come from the storage.
	maxCertificates = 10_000
)

func newInsideServer(ctx caddy.Context, ic *Intercept, server *caddyhttp.Server) (*insideServer, error) {
	issuer := &caddytls.InternalIssuer{CA: ic.CA}
	if err := issuer.Provision(ctx); err != nil {
		return nil, ic.Origin.errorf("ca", "bearer_intercept: %w", err)
	}
	s := &insideServer{ic: ic, conns: make(chan net.Conn), closed: make(chan struct{}), waiting: make(map[net.Conn]struct{})}
	log := ctx.Logger().Named("certificates").WithOptions(zap.IncreaseLevel(zapcore.WarnLevel))
	s.cache = certmagic.NewCache(certmagic.CacheOptions{
		GetConfigForCert: func(cert certmagic.Certificate) (*certmagic.Config, error) {
			if slices.ContainsFunc(cert.Names, func(name string) bool { return strings.HasPrefix(name, "*.") }) {
				return s.wildcards, nil
			}
			return s.certs, nil
		},
		Logger:   log,
		Capacity: maxCertificates,
	})
	config := certmagic.Config{Storage: ctx.Storage(), Issuers: []certmagic.Issuer{issuer}, Logger: log}
	s.wildcards = certmagic.New(s.cache, config)
	config.OnDemand = &certmagic.OnDemandConfig{DecisionFunc: func(context.Context, string) error { return nil }} // only names of routes come here
	s.certs = certmagic.New(s.cache, config)
	// One for all tunnels: it has the keys with which sessions are resumed.
	s.tls = &tls.Config{
		MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"},
		GetConfigForClient: checkName, GetCertificate: s.certificate,
	}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true) // gRPC's plaintext channels, too, ask for a tunnel
	s.http = &http.Server{
		Handler: s.handler(server), Protocols: protocols,
		// Caddy fills in the server's own defaults, which are these, only later
		ReadHeaderTimeout: cmp.Or(time.Duration(server.ReadHeaderTimeout), time.Minute),
		IdleTimeout:       cmp.Or(time.Duration(server.IdleTimeout), 5*time.Minute),
		ReadTimeout:       time.Duration(server.ReadTimeout), WriteTimeout: time.Duration(server.WriteTimeout),
		MaxHeaderBytes: server.MaxHeaderBytes,
		ErrorLog:       zap.NewStdLog(zap.NewNop()),
		ConnContext:    s.connContext,
		ConnState:      s.connState,
	}
	go func() { _ = s.http.Serve((*insideListener)(s)) }()
	return s, nil
}

// handler sends a request through the site's routes. If it does not come back to the
// Intercept, because a matcher has kept it away or another directive has answered, and
// nothing was written, Caddy would send an empty 200, which an app takes for the API's.
func (s *insideServer) handler(site http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.closing.Load() {
			w.Header().Set("Connection", "close") // the next request is for the next config
		}
		noting := &notingWriter{ResponseWriter: w}
		reached := new(atomic.Bool)
		site.ServeHTTP(noting, r.WithContext(context.WithValue(r.Context(), reachedKey{}, reached)))
		if !reached.Load() && !noting.wrote {
			_ = (&problem{
				name: problemNotFound, status: http.StatusNotFound,
				detail: "the site's routes do not lead requests inside of a tunnel to bearer_intercept: expected it without a matcher",
			}).write(w, r)
		}
	})
}

// notingWriter notes whether anything was written.
type notingWriter struct {
	http.ResponseWriter
	wrote bool
}

// WriteHeader implements http.ResponseWriter.
func (w *notingWriter) WriteHeader(status int) {
	w.wrote = w.wrote || status >= 200 || status == http.StatusSwitchingProtocols
	w.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (w *notingWriter) Write(p []byte) (int, error) {
	w.wrote = true
	return w.ResponseWriter.Write(p)
}

// Unwrap is for http.ResponseController.
func (w *notingWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// tunnelConn is a connection of the inside server.
type tunnelConn struct {
	net.Conn
	tunnel *tunnel
}

// tunnelOf returns the tunnel of a connection, which may have TLS over it.
func (s *insideServer) tunnelOf(conn net.Conn) *tunnel {
	if over, ok := conn.(*tls.Conn); ok {
		conn = over.NetConn()
	}
	if c, ok := conn.(*tunnelConn); ok {
		return c.tunnel
	}
	return nil
}

func (s *insideServer) connContext(ctx context.Context, conn net.Conn) context.Context {
	t := s.tunnelOf(conn)
	ctx = context.WithValue(ctx, tunnelKey{}, t)
	return context.WithValue(ctx, caddyhttp.ConnCtxKey, t.conn)
}

// connState notices a client that ends the connection after the handshake, without a
// request. Some clients do so when they do not trust the certificate.
func (s *insideServer) connState(conn net.Conn, state http.ConnState) {
	if t := s.tunnelOf(conn); state == http.StateClosed && t != nil && t.requests.Load() == 0 && !s.closing.Load() {
		if _, over := conn.(*tls.Conn); over {
			s.distrusted(t, errors.New("the connection ended without a request"))
		}
	}
}

// serve prepares a connection: it does the TLS handshake, and then lets the HTTP server
// have it.
func (s *insideServer) serve(conn net.Conn, t *tunnel) {
	t.conn = conn
	in := bufio.NewReader(conn)
	_ = conn.SetDeadline(time.Now().Add(firstByteTimeout))
	s.wait(conn, true)
	first, err := in.Peek(1)
	s.wait(conn, false)
	if err != nil {
		_ = conn.Close() // a client that opens tunnels ahead of need; nothing is known of its trust
		return
	}
	_ = conn.SetDeadline(time.Now().Add(connectTimeout))
	var ready net.Conn = &tunnelConn{&peekedConn{Conn: conn, in: in}, t}
	if first[0] == recordTypeHandshake {
		over := tls.Server(ready, s.tls)
		ctx, cancel := context.WithTimeout(context.Background(), connectTimeout)
		defer cancel()
		if err := over.HandshakeContext(ctx); err != nil {
			s.handshakeFailed(t, err)
			_ = conn.Close()
			return
		}
		ready = over
	}
	_ = conn.SetDeadline(time.Time{})
	select {
	case s.conns <- ready:
	case <-s.closed: // the config was replaced a moment ago
		_ = conn.Close()
	}
}

// wait notes that a connection waits for its first byte, or does no longer.
func (s *insideServer) wait(conn net.Conn, waiting bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if waiting && !s.closing.Load() {
		s.waiting[conn] = struct{}{}
		return
	}
	delete(s.waiting, conn)
	if waiting {
		_ = conn.Close()
	}
}

const recordTypeHandshake = 22 // RFC 8446, section 5.1

// errOtherName ends a handshake for another name than the CONNECT's.
var errOtherName = errors.New("the handshake (SNI) is for another name than CONNECT")

// checkName ends a handshake for another name than that of its tunnel.
func checkName(hello *tls.ClientHelloInfo) (*tls.Config, error) {
	name := strings.TrimSuffix(strings.ToLower(hello.ServerName), ".")
	if c, ok := hello.Conn.(*tunnelConn); !ok || (name != "" && name != c.tunnel.target.name) {
		return nil, errOtherName
	}
	return nil, nil //nolint:nilnil // the settings stay as they are
}

// certificate returns the certificate for the name of the tunnel. A client that was asked
// to call an address names none in the handshake.
func (s *insideServer) certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	c, ok := hello.Conn.(*tunnelConn)
	if !ok {
		return nil, errOtherName
	}
	named := *hello
	named.ServerName = c.tunnel.target.name
	// One certificate serves all names of a domain, so that an app cannot fill the storage
	// with those that it makes up. Clients refuse *.com and its like.
	route := c.tunnel.route
	if name := route.name(); strings.HasPrefix(name, "*.") && strings.Count(name, ".") > 1 {
		if err := s.makeWildcard(hello.Context(), route); err != nil {
			return nil, err
		}
	}
	return s.certs.GetCertificate(&named)
}

// makeWildcard sees to it that there is a certificate for all names of a route's domain.
// Meanwhile only other handshakes of this route wait.
func (s *insideServer) makeWildcard(ctx context.Context, route *InterceptRoute) error {
	route.making.Lock()
	defer route.making.Unlock()
	if route.made {
		return nil
	}
	err := s.wildcards.ManageSync(ctx, []string{route.name()})
	route.made = err == nil
	return err
}

// handshakeFailed logs a handshake that failed.
func (s *insideServer) handshakeFailed(t *tunnel, err error) {
	if errors.Is(err, errOtherName) {
		seenProxy.countTunnel(t, seenRefused)
		s.ic.log.Warn("handshake refused", zap.String("target", t.target.hostport()), zap.String("remote", t.remote), zap.Error(err))
		return
	}
	s.distrusted(t, err)
}

// trustVariables are how clients are told of a CA; see `caddy token env`.
const trustVariables = "NODE_EXTRA_CA_CERTS, SSL_CERT_FILE, REQUESTS_CA_BUNDLE, CURL_CA_BUNDLE, GIT_SSL_CAINFO, AWS_CA_BUNDLE or DENO_CERT"

// distrusted logs what looks like a client that does not trust the CA. Each client ends
// the handshake in its own way, and none says why.
func (s *insideServer) distrusted(t *tunnel, err error) {
	seenProxy.countTunnel(t, seenDistrusted)
	s.ic.log.Warn("the client may not trust the sidecar's CA: set the variable that it reads; `caddy token env` prints them",
		zap.String("target", t.target.hostport()), zap.String("remote", t.remote), zap.String("proxy_user", t.user),
		zap.String("variables", trustVariables), zap.Error(err))
}

// close lets requests end that are under way, and those come whose handshake is under way
// or that are being sent on an idle connection: each connection gets one more answer, and
// ends with it. Tunnels in which nothing has come yet end at once, so that a client with a
// pool of them notices.
func (s *insideServer) close() {
	s.once.Do(func() {
		s.closing.Store(true)
		s.mu.Lock()
		for conn := range s.waiting {
			_ = conn.Close()
		}
		s.mu.Unlock()
		after := drainHandshakes
		if stopping() {
			after = 0
		}
		time.AfterFunc(after, func() {
			close(s.closed)
			s.cache.Stop()
			ctx, cancel := context.WithTimeout(context.Background(), drainTimeout)
			defer cancel()
			if s.http.Shutdown(ctx) != nil {
				_ = s.http.Close()
			}
		})
	})
}

// insideListener is where the HTTP server takes its connections from.
type insideListener insideServer

// Accept implements net.Listener.
func (l *insideListener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.conns:
		return conn, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (l *insideListener) Close() error { return nil }

// Addr implements net.Listener.
func (l *insideListener) Addr() net.Addr { return insideAddr{} }

type insideAddr struct{}

func (insideAddr) Network() string { return "tcp" }
func (insideAddr) String() string  { return "bearer_intercept" }
