package bearer

import (
	"errors"
	"io"
	"net/http"
	"sync"
)

// capturedBody is a request body that can be sent again. It remembers what was
// read of it, up to a limit.
//
// It remembers the body while the body streams to the API. Reading the whole
// body first would be simpler, but then a request would wait for a slow client,
// and a client that waits for the response before it sends the rest would wait
// for ever. For the same reason a further sending gets the remembered part
// first, and then the rest as the client sends it.
//
// Two readers may exist at the same time. When a response arrives early,
// net/http may still be reading the body of that sending, and closes it only
// later. The client's body must survive this: once Caddy's body is closed,
// nobody can read on. So each sending gets a bodyReader of its own. A reader
// that is no longer wanted is cut off, and its Close closes nothing. The
// client's body stays open until the response is final.
//
// A nil capturedBody stands for a request without a body.
type capturedBody struct {
	max int64         // how many bytes are remembered
	src io.ReadCloser // the client's body
	// getBody is reopen, as [http.Request.GetBody].
	getBody func() (io.ReadCloser, error)
	// atEnd is called when src has ended, before the reader learns of the end.
	atEnd func()
	// trailer is sent after the body; nil: the request announced no trailers.
	trailer http.Header

	// There are two locks because a read from the client may take minutes, while
	// release and rewind must not wait. reading is held during a read from src.
	// mu guards the fields below and is never held during I/O.
	reading chan struct{}
	mu      sync.Mutex
	buf     []byte
	err     error       // how src ended: io.EOF, or a failure
	over    bool        // more was read than is remembered: the body cannot be sent again
	final   bool        // the response is final: nothing is sent again or remembered
	closed  bool        // the current reader was closed
	reader  *bodyReader // the current one; nil: none since rewind
	first   bodyReader  // the first sending's, which saves an allocation
}

// bodyBuffers are reused, because most requests are never sent again and need
// their buffer only for a moment.
var bodyBuffers = sync.Pool{New: func() any { return new([]byte) }}

// captureBody takes over the request's body. It returns nil if there is none. If
// Content-Length says that the body is too long, nothing is remembered. Such a
// request can still be sent again if the API refuses it before any of the body
// was read, for instance while the app waits for 100 (Continue).
func captureBody(req *http.Request, limit int64) *capturedBody {
	if req.Body == nil || req.Body == http.NoBody {
		return nil
	}
	b := &capturedBody{max: max(limit, 0), src: req.Body, reading: make(chan struct{}, 1)}
	b.getBody = b.reopen
	if req.ContentLength > b.max {
		b.max = 0
	}
	if b.max > 0 {
		b.buf = (*bodyBuffers.Get().(*[]byte))[:0]
	}
	return b
}

// open returns a reader of the whole body for one sending. The reader of the
// sending before is cut off.
func (b *capturedBody) open() io.ReadCloser {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.openLocked()
}

func (b *capturedBody) openLocked() io.ReadCloser {
	r := &b.first
	if r.body != nil {
		r = new(bodyReader)
	}
	r.body = b
	b.reader, b.closed = r, false
	return r
}

// reopen is the request's GetBody. net/http calls it to send a request again by
// itself, when it knows that the API has not processed the request: after
// GOAWAY, or when an idle connection turns out to be dead.
func (b *capturedBody) reopen() (io.ReadCloser, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.whole() {
		return nil, errBodyGone
	}
	return b.openLocked(), nil
}

// whole reports whether everything that was read so far is still remembered. The
// caller holds b.mu.
func (b *capturedBody) whole() bool {
	return !b.over && !b.final && (b.err == nil || errors.Is(b.err, io.EOF))
}

// replayable reports whether the body can be sent again, as far as is known now.
// A part that has not been read yet may prove too long.
func (b *capturedBody) replayable() bool {
	if b == nil {
		return true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.whole()
}

var errBodyGone = errors.New("the request's body cannot be sent again")

// rewind prepares a further sending and reports whether one is possible. It cuts
// off the current reader. If that reader is just waiting for the client, the
// bytes that arrive are remembered for the next reader.
//
// If the first sending was not complete, its connection ends now, because its
// reader fails. That is intended: a server that responds before it has read the
// whole body is likely to close the connection, so the second sending must not
// use it.
func (b *capturedBody) rewind() bool {
	if b == nil {
		return true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.whole() {
		return false
	}
	b.reader = nil
	return true
}

// readSource reads from the client for reader r and remembers the bytes. The
// caller holds b.reading, and r has read everything that is remembered.
func (b *capturedBody) readSource(r *bodyReader, p []byte) (int, error) {
	b.mu.Lock()
	err := b.err
	b.mu.Unlock()
	if err != nil {
		return 0, err
	}
	n, err := b.src.Read(p)
	if err != nil && b.atEnd != nil {
		b.atEnd()
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.err = err
	switch {
	case b.reader != r:
		// r was cut off during the read. The client will not send these bytes again,
		// and the next reader needs them, so they are kept even beyond the limit.
		if b.reader != nil || !b.final {
			b.buf = append(b.buf, p[:n]...)
			b.over = b.over || int64(len(b.buf)) > b.max
		}
		return 0, errBodyGone
	case n == 0:
	case b.final, b.over, int64(len(b.buf)+n) > b.max:
		// From here on the body only streams through.
		b.over = true
		b.recycle()
		r.at = 0
	default:
		b.buf = append(b.buf, p[:n]...)
		r.at = len(b.buf)
	}
	return n, err
}

// recycle gives the buffer back to the pool. The caller holds b.mu, and no reader
// needs the buffer any more.
func (b *capturedBody) recycle() {
	if cap(b.buf) > 0 {
		buf := b.buf[:0]
		bodyBuffers.Put(&buf)
	}
	b.buf = nil
}

// release says that the response is final, so that nothing will be sent again.
// It does not wait for the body to end: in a bidirectional stream the client
// goes on sending long after the response has begun.
func (b *capturedBody) release() {
	if b == nil {
		return
	}
	b.mu.Lock()
	b.final = true
	if b.reader == nil || b.reader.at >= len(b.buf) {
		if b.reader != nil {
			b.reader.at = 0
		}
		b.recycle()
	} // else the last sending still reads from the buffer
	// If the reader is closed already, or cut off, its Close will not close src:
	// it must be closed here.
	closed := b.closed || b.reader == nil
	b.mu.Unlock()
	if closed {
		_ = b.src.Close()
	}
}

// touched reports whether any of the body was read. If so, nobody else may send
// the request again, see lastError.
func (b *capturedBody) touched() bool {
	if b == nil {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.over || len(b.buf) > 0 || b.err != nil
}

// bodyReader reads a captured body from its beginning, for one sending.
type bodyReader struct {
	body *capturedBody
	at   int // how many bytes of body.buf it has read; guarded by body.mu
}

// Read implements io.Reader.
func (r *bodyReader) Read(p []byte) (int, error) {
	b := r.body
	if n, err := r.remembered(p); n > 0 || err != nil {
		return n, err
	}
	// Only one reader reads from the client at a time. The reader before this one
	// may still be waiting there, after it was cut off.
	b.reading <- struct{}{}
	defer func() { <-b.reading }()
	// What it got in the end is in the buffer now.
	if n, err := r.remembered(p); n > 0 || err != nil {
		return n, err
	}
	return b.readSource(r, p)
}

// remembered reads from the buffer. It returns 0 and no error when the reader has
// read all of it.
func (r *bodyReader) remembered(p []byte) (int, error) {
	b := r.body
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.reader != r {
		return 0, errBodyGone
	}
	if r.at >= len(b.buf) {
		return 0, nil
	}
	n := copy(p, b.buf[r.at:])
	r.at += n
	return n, nil
}

// Close implements io.Closer. It closes the client's body only if no further
// sending can need it.
func (r *bodyReader) Close() error {
	b := r.body
	b.mu.Lock()
	current, final := b.reader == r, b.final
	if current {
		b.closed = true
	}
	b.mu.Unlock()
	if current && final {
		return b.src.Close()
	}
	return nil
}

// drain reads and discards at most n bytes.
func drain(r io.Reader, n int64) { _, _ = io.CopyN(io.Discard, r, n) }
