package caddymodule

import (
	"io"
	"net/http"
	"strings"
	"sync/atomic"
)

// expectedBody is a body that the app sends only when it is asked for it, with
// 100 (Continue).
//
// Before net/http's server writes an answer it reads what is left of the body,
// and no longer asks for it by then. It knows not to, but for Caddy, which puts
// a reader of its own in the body's place. An app that strictly waits would hear
// neither the one nor the other, as it does with Caddy's own transport and
// expect_continue_timeout. So the app is asked before the answer is written,
// whether somebody wanted its body or not.
type expectedBody struct {
	io.ReadCloser
	asked atomic.Bool
}

// expecting puts an expectedBody into a copy of a request whose app waits to be
// asked. Another request stays as it is, and body is nil.
func expecting(req *http.Request) (out *http.Request, body *expectedBody) {
	if req.Body == nil || req.Body == http.NoBody || req.ProtoMajor != 1 || !strings.EqualFold(req.Header.Get("Expect"), "100-continue") {
		return req, nil
	}
	body = &expectedBody{ReadCloser: req.Body}
	out = new(http.Request)
	*out = *req
	out.Body = body
	return out, body
}

// Read implements io.Reader.
func (b *expectedBody) Read(p []byte) (int, error) {
	b.asked.Store(true)
	return b.ReadCloser.Read(p)
}

// Close implements io.Closer.
func (b *expectedBody) Close() error {
	b.ask()
	return b.ReadCloser.Close()
}

// ask has the server ask the app for the body, unless it was read. It does not
// wait for it.
func (b *expectedBody) ask() {
	if b != nil && b.asked.CompareAndSwap(false, true) {
		_, _ = b.ReadCloser.Read(nil)
	}
}
