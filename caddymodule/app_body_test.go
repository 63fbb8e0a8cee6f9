package caddymodule

import (
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
)

// notingBody is like Caddy's reader: Close looks at what Read notes. The race
// detector sees both at once.
type notingBody struct {
	io.Reader
	read, closed int
}

func (b *notingBody) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	b.read += n
	return n, err
}

func (b *notingBody) Close() error {
	if b.read > 0 {
		b.closed++
	}
	return nil
}

// Caddy's reader has no lock, so it must not be closed while it is read: the read
// closes it.
func TestBodyIsNotClosedDuringARead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, w := io.Pipe()
		caddys := &notingBody{Reader: r}
		req := httptest.NewRequest(http.MethodPost, "/", caddys)
		_, body := fromApp(req)
		done := make(chan struct{})
		go func() {
			defer close(done)
			if n, err := body.Read(make([]byte, 8)); n != 5 || err != nil {
				t.Errorf("the read under way: %d, %v, want 5 bytes", n, err)
			}
		}()
		synctest.Wait()
		for range 2 {
			if err := body.Close(); err != nil {
				t.Error(err)
			}
		}
		if _, err := w.Write([]byte("hello")); err != nil {
			t.Error(err)
		}
		<-done
		if caddys.closed != 1 {
			t.Errorf("closed %d times after the read, want once", caddys.closed)
		}
		if _, err := body.Read(make([]byte, 8)); err != http.ErrBodyReadAfterClose {
			t.Errorf("a read after Close: %v, want %v", err, http.ErrBodyReadAfterClose)
		}
	})
}
