package caddymodule

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// appBody is the app's body, as reverse_proxy hands it on. It mends two things.
//
// Caddy's reader notes whether it was read, and its Close looks at that note, so the
// two must not happen at the same moment. But net/http does that: over HTTP/2 it
// closes a body that it is still reading when the API resets the stream. Here a read
// that is under way closes the body when it ends. That changes nothing for the app:
// over HTTP/1.1, the server's own Close would wait for the read, and over HTTP/2 the
// read ends with the stream at the latest.
//
// The other is for an app that sends its body only after it got 100 (Continue).
// net/http's server sends 100 (Continue) at the first read of the body. Before it
// writes a response, it reads what is left of the body, and no longer sends 100
// then. It would skip that for a body that nobody has asked for, but it does not
// recognize one, because Caddy puts a reader of its own in the body's place. So an
// app that strictly waits would get neither 100 nor the response. (It happens with
// Caddy's own transport and expect_continue_timeout.) The transport therefore asks
// for the body before the response is written, even if nobody needs it.
type appBody struct {
	body    io.ReadCloser
	expects bool      // the app waits for 100 (Continue)
	asked   sync.Once // done at the first read. Who comes while that is under way waits for it

	mu      sync.Mutex
	reading bool
	closed  bool
	failed  error // how reading ended, if not at the body's end
}

// fromApp puts an appBody into a copy of the request. For a request without a body
// it returns the request itself, and body is nil.
func fromApp(req *http.Request) (out *http.Request, body *appBody) {
	if req.Body == nil || req.Body == http.NoBody {
		return req, nil
	}
	body = &appBody{body: req.Body, expects: expectsContinue(req)}
	out = new(http.Request)
	*out = *req
	out.Body = body
	return out, body
}

// expectsContinue reports whether an app sends the request's body only after it got 100
// (Continue).
func expectsContinue(r *http.Request) bool {
	return r.ProtoMajor == 1 && r.Body != nil && r.Body != http.NoBody && strings.EqualFold(r.Header.Get("Expect"), "100-continue")
}

// Read implements io.Reader.
func (b *appBody) Read(p []byte) (int, error) {
	b.asked.Do(func() {})
	return b.read(p)
}

func (b *appBody) read(p []byte) (int, error) {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return 0, http.ErrBodyReadAfterClose
	}
	b.reading = true
	b.mu.Unlock()
	n, err := b.body.Read(p)
	b.mu.Lock()
	b.reading = false
	closed := b.closed
	if err != nil && err != io.EOF {
		b.failed = err
	}
	b.mu.Unlock()
	if closed {
		_ = b.body.Close()
	}
	return n, err
}

// Close implements io.Closer.
func (b *appBody) Close() error {
	b.ask()
	b.mu.Lock()
	late := b.closed || b.reading
	b.closed = true
	b.mu.Unlock()
	if late {
		return nil
	}
	return b.body.Close()
}

// failure returns the error with which reading the app's body ended; nil: there was none.
func (b *appBody) failure() error {
	if b == nil {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.failed
}

// appBodyError says that the app's body could not be read: it was cut off, is not well
// formed, or is longer than the site allows. It is no fault of the API's.
type appBodyError struct{ sending, reading error }

func (e *appBodyError) Error() string   { return "reading the request's body: " + e.reading.Error() }
func (e *appBodyError) Unwrap() []error { return []error{e.sending, e.reading} }

// problem is the response to the app, if it still listens.
func (e *appBodyError) problem() *problem {
	p := &problem{name: problemBadRequest, status: http.StatusBadRequest, detail: "the request's body cannot be read to its end"}
	var handler caddyhttp.HandlerError
	var tooLong *http.MaxBytesError
	switch {
	case errors.As(e.reading, &tooLong):
		p.status, p.detail = http.StatusRequestEntityTooLarge, "the request's body is longer than the site allows"
	case errors.As(e.reading, &handler) && handler.StatusCode >= 400:
		p.status = handler.StatusCode
	}
	return p
}

// ask makes the server send 100 (Continue), unless the body was read already. A
// read of no bytes does that without waiting for the app.
func (b *appBody) ask() {
	if b != nil && b.expects {
		b.asked.Do(func() { _, _ = b.read(nil) })
	}
}
