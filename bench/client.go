package main

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

// doer does one request and says how it was answered.
type doer interface {
	do() (status int, err error)
	close()
}

// client is one app's keep-alive connection. It is written on the connection
// itself because http.Client costs about as much as the proxies that it would
// measure, on the core that the upstream needs too.
type client struct {
	addr    string
	request []byte
	dial    func() (net.Conn, error)
	conn    net.Conn
	answers *bufio.Reader
}

// interceptedClient is a client that calls the API at its own address, through a proxy: CONNECT, and then TLS.
type interceptedClient struct {
	client
	api string
}

func newInterceptedClient(proxy, api string) doer {
	c := &interceptedClient{client: *newClient(proxy).(*client), api: api}
	c.request = bytes.Replace(c.request, []byte("Host: "+proxy), []byte("Host: "+api), 1)
	c.dial = func() (net.Conn, error) {
		over, err := openTunnel(proxy, api, new(tls.Config))
		if err != nil {
			return nil, err
		}
		return over, over.Handshake()
	}
	return c
}

// openTunnel has a proxy connect to a target. The handshake is still to be done.
func openTunnel(proxy, target string, conf *tls.Config) (*tls.Conn, error) {
	conn, err := net.DialTimeout("tcp", proxy, patience)
	if err != nil {
		return nil, err
	}
	_ = conn.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(conn, "CONNECT "+target+" HTTP/1.1\r\nHost: "+target+"\r\n\r\n"); err != nil {
		return nil, err
	}
	answer, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: http.MethodConnect})
	if err != nil {
		return nil, err
	}
	if answer.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("CONNECT: %s", answer.Status)
	}
	conf.InsecureSkipVerify = true // whom it trusts is not what is measured
	conf.NextProtos = []string{"http/1.1"}
	return tls.Client(conn, conf), nil
}

// patience is when an app gives up on one request, which is then a failed one.
const patience = 5 * time.Second

func newClient(addr string) doer {
	return &client{
		addr: addr, dial: func() (net.Conn, error) { return net.DialTimeout("tcp", addr, patience) },
		request: []byte("GET /payments/1 HTTP/1.1\r\nHost: " + addr + "\r\nUser-Agent: bench\r\nAccept: application/json\r\n\r\n"),
	}
}

func (c *client) do() (int, error) {
	if err := c.send(); err != nil {
		return 0, err
	}
	return c.receive()
}

func (c *client) send() error {
	if c.conn == nil {
		conn, err := c.dial()
		if err != nil {
			return err
		}
		c.conn, c.answers = conn, bufio.NewReader(conn)
	}
	_ = c.conn.SetDeadline(time.Now().Add(patience))
	if _, err := c.conn.Write(c.request); err != nil {
		c.close()
		return err
	}
	return nil
}

func (c *client) receive() (int, error) {
	resp, err := http.ReadResponse(c.answers, nil)
	if err != nil {
		c.close()
		return 0, err
	}
	_, err = io.Copy(io.Discard, resp.Body)
	if err != nil || resp.Close {
		c.close()
	}
	return resp.StatusCode, err
}

func (c *client) close() {
	if c.conn != nil {
		_ = c.conn.Close()
		c.conn = nil
	}
}
