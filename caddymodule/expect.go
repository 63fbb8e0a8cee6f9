package caddymodule

import (
	"io"
	"net/http"
	"strings"
	"sync"
)

// expectedBody is a body that the app sends only after it got 100 (Continue).
//
// net/http's server sends 100 (Continue) at the first read of the body. Before it
// writes a response, it reads what is left of the body, and no longer sends 100
// then. It would skip that for a body that nobody has asked for, but it does not
// recognize one, because Caddy puts a reader of its own in the body's place. So an
// app that strictly waits would get neither 100 nor the response. (It happens with
// Caddy's own transport and expect_continue_timeout.) The transport therefore asks
// for the body before the response is written, even if nobody needs it.
type expectedBody struct {
	io.ReadCloser
	// asked is done when the body was first read, or asked for. Who comes while that
	// is under way waits for it: Caddy's reader notes that it was read, and must not
	// be closed at the same moment.
	asked sync.Once
}

// expecting puts an expectedBody into a copy of a request whose app waits for 100
// (Continue). For any other request it returns the request itself, and body is
// nil.
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
	b.asked.Do(func() {})
	return b.ReadCloser.Read(p)
}

// Close implements io.Closer.
func (b *expectedBody) Close() error {
	b.ask()
	return b.ReadCloser.Close()
}

// ask makes the server send 100 (Continue), unless the body was read already. A
// read of no bytes does that without waiting for the app.
func (b *expectedBody) ask() {
	if b != nil {
		b.asked.Do(func() { _, _ = b.ReadCloser.Read(nil) })
	}
}
