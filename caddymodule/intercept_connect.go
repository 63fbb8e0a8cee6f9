package caddymodule

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"reflect"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
)

// serveConnect answers a CONNECT. It always answers with a complete response: clients
// hang or retry on anything else.
func (ic *Intercept) serveConnect(w http.ResponseWriter, r *http.Request) error {
	if p := ic.callers.checkPeer(r); p != nil {
		return refuseConnect(w, r, p)
	}
	t, err := parseTarget(r.URL.Host, "")
	if err != nil {
		return refuseConnect(w, r, &problem{name: problemBadRequest, status: http.StatusBadRequest, detail: err.Error()})
	}
	route, near := ic.route(t)
	user := proxyUser(r)
	switch {
	case r.ProtoMajor != 1:
		return refuseConnect(w, r, &problem{name: problemMethodRefused, status: http.StatusMethodNotAllowed, detail: "CONNECT is served over HTTP/1.1 alone"})
	case route != nil:
		seenProxy.count(r, user, t, route.Host, seenConnect)
		return ic.intercept(w, r, &tunnel{ic: ic, route: route, target: t, user: user})
	case near || !ic.mayTunnel(t):
		seenProxy.count(r, user, t, "", seenRefused)
		return refuseConnect(w, r, notCallable(t, near))
	}
	return ic.tunnelThrough(w, r, t, user)
}

// refuseConnect answers a CONNECT with a problem whose detail stands in the status line,
// too. Few clients show a proxy's body, and many its status line.
func refuseConnect(w http.ResponseWriter, r *http.Request, p *problem) error {
	if r.ProtoMajor != 1 {
		return p.write(w, r)
	}
	conn, err := hijack(w)
	if err != nil {
		return p.write(w, r)
	}
	defer conn.Close()
	body := p.body()
	var b strings.Builder
	fmt.Fprintf(&b, "HTTP/1.1 %d %s (caddy-bearer: %s)\r\n", p.status, http.StatusText(p.status), p.detail)
	header := p.header()
	header.Set("Content-Length", fmt.Sprint(len(body)))
	header.Set("Connection", "close")
	_ = header.Write(&b)
	b.WriteString("\r\n")
	_ = conn.SetDeadline(time.Now().Add(connectTimeout))
	_, _ = conn.Write(append([]byte(b.String()), body...))
	closeGracefully(conn)
	return nil
}

// connectTimeout bounds each step before a connection has its tunnel: an answer, the
// client's first byte, a TLS handshake.
const connectTimeout = 10 * time.Second

// closeGracefully lets the client read what was written: a connection that is closed
// while the client is still sending is reset.
func closeGracefully(conn net.Conn) {
	if half, ok := conn.(interface{ CloseWrite() error }); ok && half.CloseWrite() == nil {
		_ = conn.SetReadDeadline(time.Now().Add(time.Second))
		_, _ = io.Copy(io.Discard, io.LimitReader(conn, 256<<10))
	}
}

// hijack takes over a connection, with what was read of it already.
func hijack(w http.ResponseWriter) (net.Conn, error) {
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil, err
	}
	// Caddy's wrappers count bytes for the access log and for metrics, which are written
	// when the handler returns. The connection is used for longer.
	for reflect.TypeOf(conn).String() == "*caddyhttp.hijackedConn" {
		conn = embeddedConn(conn)
	}
	if err := conn.SetDeadline(time.Time{}); err != nil {
		_ = conn.Close()
		return nil, err
	}
	n := buffered.Reader.Buffered()
	if n == 0 {
		return conn, nil
	}
	early, err := buffered.Reader.Peek(n)
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return &peekedConn{Conn: conn, in: bufio.NewReader(io.MultiReader(bytes.NewReader(bytes.Clone(early)), conn))}, nil
}

// peekedConn is a connection of which something was read already.
type peekedConn struct {
	net.Conn
	in *bufio.Reader
}

// Read implements net.Conn.
func (c *peekedConn) Read(p []byte) (int, error) { return c.in.Read(p) }

// CloseWrite closes the sending direction, if the connection can do that.
func (c *peekedConn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}

// NetConn returns the connection itself.
func (c *peekedConn) NetConn() net.Conn { return c.Conn }

const established = "HTTP/1.1 200 Connection established\r\n\r\n"

// intercept accepts a CONNECT for a route, and hands the connection to the server for
// its inside.
func (ic *Intercept) intercept(w http.ResponseWriter, r *http.Request, t *tunnel) error {
	conn, err := hijack(w)
	if err != nil {
		return err
	}
	t.remote = r.RemoteAddr
	_ = conn.SetDeadline(time.Now().Add(connectTimeout))
	if _, err := io.WriteString(conn, established); err != nil {
		_ = conn.Close()
		return nil //nolint:nilerr // the client has gone
	}
	go ic.inside.serve(conn, t)
	return nil
}

// tunnelThrough connects a client to a host without a route.
func (ic *Intercept) tunnelThrough(w http.ResponseWriter, r *http.Request, t target, user string) error {
	ctx, cancel := context.WithTimeout(r.Context(), connectTimeout)
	defer cancel()
	there, err := ic.dialer.DialContext(ctx, "tcp", t.hostport())
	if err != nil {
		p := upstreamProblem(err, false, true)
		p.detail = t.hostport() + ": " + p.detail
		ic.log.Warn("no tunnel", zap.String("target", t.hostport()), zap.Error(err))
		seenProxy.count(r, user, t, "", seenRefused)
		return refuseConnect(w, r, p)
	}
	defer there.Close()
	here, err := hijack(w)
	if err != nil {
		return err
	}
	defer here.Close()
	seenProxy.count(r, user, t, "", seenTunnel)
	if _, err := io.WriteString(here, established); err != nil {
		return nil //nolint:nilerr // the client has gone
	}
	relay(here, there)
	return nil
}

// relay copies in both directions until both have ended. When one direction ends, the
// other side is told.
func relay(a, b net.Conn) {
	var both sync.WaitGroup
	one := func(dst, src net.Conn) {
		_, err := io.Copy(dst, src)
		half, ok := dst.(interface{ CloseWrite() error })
		if err != nil || !ok || half.CloseWrite() != nil {
			_ = dst.Close()
			_ = src.Close()
		}
	}
	both.Go(func() { one(a, b) })
	both.Go(func() { one(b, a) })
	both.Wait()
}
