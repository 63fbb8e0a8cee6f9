package bearer

import (
	"errors"
	"io"
	"net/http"
	"sync"
)

// capturedBody is a request body that remembers what was read of it, up to a
// limit, so that it can be sent again whole. It remembers while the body
// streams, not before: nothing waits for a slow client. A further sending gets
// what is remembered, and then the rest as the client sends it: the client may
// be waiting for the answer.
//
// net/http may still be reading a body when the answer to it arrives, and
// closes it later; Caddy's own body, once closed, cannot be read on. So a
// reader that is no longer wanted is cut off from the source, and the source
// stays open until the answer is final.
//
// A nil capturedBody is that of a request without one.
type capturedBody struct {
	max int64 // how much is remembered
	src io.ReadCloser
	// getBody is reopen, as [http.Request.GetBody].
	getBody func() (io.ReadCloser, error)
	// atEnd is called when the source has ended, before its reader hears of it.
	atEnd func()
	// trailer is what is sent after it; nil: the request announced no trailers.
	trailer http.Header

	// reading is held by whoever reads the source, which may take as long as
	// the client likes; mu guards the rest and is only ever held briefly.
	reading chan struct{}
	mu      sync.Mutex
	buf     []byte
	err     error // the source's end: io.EOF, or a failure
	over    bool  // more was read than is remembered: it cannot be sent again
	final   bool  // nothing will be sent again: no more remembering
	closed  bool  // the current reader was closed
	reader  *bodyReader
	first   bodyReader // saves an allocation
}

// bodyBuffers are reused: most requests are never sent again.
var bodyBuffers = sync.Pool{New: func() any { return new([]byte) }}

// captureBody takes over the request's body; nil if it has none. Of one that is
// known to be too long nothing is remembered: it can be sent again only as long
// as nothing of it was read.
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

// open returns the body to send, from its beginning, and cuts off the reader
// given out before.
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

// reopen is open for net/http, which sends a request again by itself when it
// knows that the other side has not processed it: after GOAWAY, or on a
// connection that turns out to be dead.
func (b *capturedBody) reopen() (io.ReadCloser, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.whole() {
		return nil, errBodyGone
	}
	return b.openLocked(), nil
}

// whole reports whether everything that was read is remembered. The caller
// holds b.mu.
func (b *capturedBody) whole() bool {
	return !b.over && !b.final && (b.err == nil || errors.Is(b.err, io.EOF))
}

// replayable reports whether the body can be sent again, so far as is known:
// what has not been read yet may prove too long.
func (b *capturedBody) replayable() bool {
	if b == nil {
		return true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.whole()
}

var errBodyGone = errors.New("the request's body cannot be sent again")

// rewind cuts off the reader in use, if the body can be sent again. From then on
// whatever a reading under way brings is remembered for the next reader. The
// connection of the first sending ends with that, if it was not done: it must
// not be used for the second one, for a server that answers early is likely to
// close it.
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

// readSource reads on for a reader, remembering. The caller holds b.reading, and
// the reader has read all that is remembered.
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
		// It was cut off meanwhile. The next reader needs these bytes, however many
		// are remembered.
		if b.reader != nil || !b.final {
			b.buf = append(b.buf, p[:n]...)
			b.over = b.over || int64(len(b.buf)) > b.max
		}
		return 0, errBodyGone
	case n == 0:
	case b.final, b.over, int64(len(b.buf)+n) > b.max:
		b.over = true
		b.recycle()
		r.at = 0
	default:
		b.buf = append(b.buf, p[:n]...)
		r.at = len(b.buf)
	}
	return n, err
}

// recycle gives the memory back. The caller holds b.mu, and nobody needs it.
func (b *capturedBody) recycle() {
	if cap(b.buf) > 0 {
		buf := b.buf[:0]
		bodyBuffers.Put(&buf)
	}
	b.buf = nil
}

// release says that the answer is final. It does not wait: in a stream that
// runs both ways the client may be read long after the answer began.
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
	} // else the last sending is still under way, from this memory
	closed := b.closed || b.reader == nil // nobody is left to close it
	b.mu.Unlock()
	if closed {
		_ = b.src.Close()
	}
}

// touched reports whether something of the body was read.
func (b *capturedBody) touched() bool {
	if b == nil {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.over || len(b.buf) > 0 || b.err != nil
}

// bodyReader reads a captured body from its beginning.
type bodyReader struct {
	body *capturedBody
	at   int // how much of body.buf was read; guarded by body.mu
}

// Read implements io.Reader.
func (r *bodyReader) Read(p []byte) (int, error) {
	b := r.body
	if n, err := r.remembered(p); n > 0 || err != nil {
		return n, err
	}
	b.reading <- struct{}{}
	defer func() { <-b.reading }()
	// The reader before this one may have been reading until now.
	if n, err := r.remembered(p); n > 0 || err != nil {
		return n, err
	}
	return b.readSource(r, p)
}

// remembered reads from memory; 0 and no error when that is used up.
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

// Close implements io.Closer.
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

// drain reads on and throws away, at most n bytes.
func drain(r io.Reader, n int64) { _, _ = io.CopyN(io.Discard, r, n) }
