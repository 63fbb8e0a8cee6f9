package bearer

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
)

// capturedBody is a request body that remembers what was read of it, up to a
// limit, so that it can be sent again whole. It remembers while the body
// streams, not before: nothing waits for a slow client, and an answer that
// comes early leaves the rest unread until a second sending wants it.
//
// net/http may still be reading a body when the answer to it arrives, and
// closes it later; Caddy's own body, once closed, cannot be read on. So a
// reader that is no longer wanted is cut off from the source, and the source
// stays open until the answer is final.
//
// A nil capturedBody is that of a request without one.
type capturedBody struct {
	max int64
	src io.ReadCloser
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
	over    bool  // more came than is remembered
	final   bool  // nothing will be sent again: no more remembering
	closed  bool  // the current reader was closed
	reader  *bodyReader
}

// bodyBuffers are reused: most requests are never sent again.
var bodyBuffers = sync.Pool{New: func() any { return new([]byte) }}

// captureBody takes over the request's body; nil if it has none.
func captureBody(req *http.Request, limit int64) *capturedBody {
	if req.Body == nil || req.Body == http.NoBody {
		return nil
	}
	b := &capturedBody{max: limit, src: req.Body, reading: make(chan struct{}, 1)}
	if limit <= 0 || req.ContentLength > limit {
		b.over, b.final = true, true
		return b
	}
	b.buf = (*bodyBuffers.Get().(*[]byte))[:0]
	return b
}

// open returns the body to send, from its beginning, and cuts off the reader
// given out before.
func (b *capturedBody) open() io.ReadCloser {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.reader, b.closed = &bodyReader{body: b}, false
	return b.reader
}

// replayable reports whether the body can be sent again, so far as is known:
// what has not been read yet may prove too long.
func (b *capturedBody) replayable() bool {
	if b == nil {
		return true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return !b.over && (b.err == nil || errors.Is(b.err, io.EOF))
}

var errBodyGone = errors.New("the request's body cannot be sent again")

// rewind cuts off the reader in use and makes sure that the whole body is
// remembered, reading what is left of it. The connection of the first sending
// ends with that, if it was not done: it must not be used for the second one,
// for a server that answers early is likely to close it.
func (b *capturedBody) rewind(ctx context.Context) error {
	if b == nil {
		return nil
	}
	b.mu.Lock()
	b.reader = nil
	b.mu.Unlock()
	chunk := make([]byte, 4<<10)
	for {
		b.mu.Lock()
		over, err := b.over, b.err
		b.mu.Unlock()
		switch {
		case over, err != nil && !errors.Is(err, io.EOF):
			return errBodyGone
		case err != nil:
			return nil
		}
		select { // a read that is under way ends when the client sends, or goes
		case b.reading <- struct{}{}:
		case <-ctx.Done():
			return ctx.Err()
		}
		_, _ = b.readSource(chunk)
		<-b.reading
	}
}

// readSource reads on, remembering. The caller holds b.reading.
func (b *capturedBody) readSource(p []byte) (int, error) {
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
	if n == 0 || b.final {
		return n, err
	}
	if int64(len(b.buf)+n) > b.max {
		b.over, b.final = true, true
		b.recycle()
		return n, err
	}
	b.buf = append(b.buf, p[:n]...)
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
	} // else the second sending is still under way, from this memory
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
	n, err := b.readSource(p)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.reader != r {
		return 0, errBodyGone // what was read is remembered for the next reader
	}
	r.at = len(b.buf)
	return n, err
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
