package main

import (
	"bufio"
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
	conn    net.Conn
	answers *bufio.Reader
}

// patience is when an app gives up on one request, which is then a failed one.
const patience = 5 * time.Second

func newClient(addr string) doer {
	return &client{addr: addr, request: []byte(
		"GET /payments/1 HTTP/1.1\r\nHost: " + addr + "\r\nUser-Agent: bench\r\nAccept: application/json\r\n\r\n")}
}

func (c *client) do() (int, error) {
	if err := c.send(); err != nil {
		return 0, err
	}
	return c.receive()
}

func (c *client) send() error {
	if c.conn == nil {
		conn, err := net.DialTimeout("tcp", c.addr, patience)
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
