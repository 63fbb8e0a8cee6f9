// Package reloadtest helps tests that call a Caddy which has just been
// reloaded or stopped.
package reloadtest

import (
	"errors"
	"io"
	"net/http"
	"sync/atomic"
	"syscall"
)

// Client is a transport that knows of reloads. The first requests
// after one may meet the old server: Caddy's reload returns when the old
// server's shutdown is about to start (App.Stop: "the scheduler might still
// pause them right before calling Shutdown"), so that its listener may take one
// more connection; and net/http hangs up, without a word, on a request that it
// has read when the shutdown began (conn.serve). A plain Caddy with nothing but
// `respond` failed 6 requests of 400 that way, one after each reload, on a busy
// machine.
//
// So a request that came to nothing this way is sent again: a GET without a
// body, to which not one byte was answered, no more than a few times for each
// reload. At any other time it fails, as it does when an answer is cut short.
type Client struct {
	*http.Transport

	left atomic.Int32
}

// Reloaded tells that the server has just been reloaded or stopped.
func (c *Client) Reloaded() { c.left.Store(3) }

// RoundTrip overrides http.Transport's.
func (c *Client) RoundTrip(req *http.Request) (*http.Response, error) {
	for {
		res, err := c.Transport.RoundTrip(req)
		repeatable := req.Method == http.MethodGet && (req.Body == nil || req.Body == http.NoBody)
		if err == nil || !repeatable || !hungUp(err) || c.left.Add(-1) < 0 {
			return res, err
		}
	}
}

// hungUp: the connection ended before an answer began. One that is cut short is
// an io.ErrUnexpectedEOF.
func hungUp(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}
