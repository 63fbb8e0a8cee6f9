package bearer

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
)

// clientBody is a request's body as Caddy gives it: once closed it cannot be
// read on.
type clientBody struct {
	io.Reader
	mu     sync.Mutex
	closed int
}

var errClosedBody = errors.New("read after close")

func (b *clientBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	closed := b.closed > 0
	b.mu.Unlock()
	if closed {
		return 0, errClosedBody
	}
	return b.Reader.Read(p)
}

func (b *clientBody) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed++
	return nil
}

func (b *clientBody) closes() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.closed
}

// capture captures a body. Its length is unknown, as of a chunked request,
// when length is below 0.
func capture(r io.Reader, length, limit int64) (*capturedBody, *clientBody) {
	src := &clientBody{Reader: r}
	req := httptest.NewRequest(http.MethodPost, "/", nil)
	req.Body, req.ContentLength = src, length
	return captureBody(req, limit), src
}

func readAll(t *testing.T, r io.Reader) string {
	t.Helper()
	text, err := io.ReadAll(r)
	if err != nil {
		t.Fatalf("after %q: %v", text, err)
	}
	return string(text)
}

const whole = "the quick brown fox jumps over the lazy dog"

// TestBodyReplay: however far the first sending came, the second is whole.
func TestBodyReplay(t *testing.T) {
	readers := map[string]func(io.Reader) io.Reader{
		"all at once":   func(r io.Reader) io.Reader { return r },
		"byte by byte":  iotest.OneByteReader,
		"end with data": iotest.DataErrReader,
		"half by half":  iotest.HalfReader,
	}
	for how, wrap := range readers {
		for _, length := range []int64{-1, int64(len(whole))} {
			for _, first := range []int{0, 1, 10, len(whole), len(whole) + 10} {
				t.Run(fmt.Sprintf("%s/length %d/%d read", how, length, first), func(t *testing.T) {
					b, src := capture(wrap(strings.NewReader(whole)), length, 1<<10)
					one := b.open()
					if _, err := io.ReadFull(one, make([]byte, first)); err != nil && first <= len(whole) {
						t.Fatal(err)
					}
					if err := one.Close(); err != nil { // net/http does, when the answer is early
						t.Fatal(err)
					}
					if !b.replayable() {
						t.Fatal("not replayable")
					}
					if !b.rewind() {
						t.Fatal("not rewound")
					}
					two := b.open()
					if got := readAll(t, two); got != whole {
						t.Errorf("the second sending is %q", got)
					}
					if _, err := one.Read(make([]byte, 1)); !errors.Is(err, errBodyGone) {
						t.Errorf("the first reader reads on: %v", err)
					}
					b.release()
					if err := two.Close(); err != nil || src.closes() != 1 {
						t.Errorf("closed %d times in the end, want once (%v)", src.closes(), err)
					}
				})
			}
		}
	}
}

// TestBodyLimit: what is longer streams through as it is, and is not sent
// again.
func TestBodyLimit(t *testing.T) {
	for name, c := range map[string]struct {
		length, limit int64
		replayable    bool
	}{
		"known, short":          {int64(len(whole)), int64(len(whole)), true},
		"known, long":           {int64(len(whole)), int64(len(whole)) - 1, false},
		"unknown, short":        {-1, int64(len(whole)), true},
		"unknown, long":         {-1, int64(len(whole)) - 1, false},
		"nothing is remembered": {-1, 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			b, _ := capture(iotest.OneByteReader(strings.NewReader(whole)), c.length, c.limit)
			if got := readAll(t, b.open()); got != whole {
				t.Errorf("streamed %q", got)
			}
			if got := b.replayable(); got != c.replayable {
				t.Errorf("replayable: %v, want %v", got, c.replayable)
			}
			if got := b.rewind(); got != c.replayable {
				t.Errorf("rewind: %v", got)
			}
			b.release()
		})
	}
	t.Run("proves too long when it is sent again", func(t *testing.T) {
		b, _ := capture(iotest.OneByteReader(strings.NewReader(whole)), -1, 10)
		one := b.open()
		_, _ = io.ReadFull(one, make([]byte, 5))
		if !b.rewind() {
			t.Error("it may still be short enough")
		}
		_ = one.Close()
		if got := readAll(t, b.open()); got != whole {
			t.Errorf("the second sending is %q", got)
		}
		if b.rewind() {
			t.Error("sent a third time")
		}
		b.release()
	})
}

// TestBodyUnread: what nothing was read of can be sent again, however long it is.
func TestBodyUnread(t *testing.T) {
	for name, c := range map[string]struct{ length, limit int64 }{
		"known, long": {int64(len(whole)), 3}, "unknown": {-1, 3}, "nothing is remembered": {-1, 0},
	} {
		t.Run(name, func(t *testing.T) {
			b, src := capture(iotest.OneByteReader(strings.NewReader(whole)), c.length, c.limit)
			one := b.open()
			_ = one.Close()
			if !b.rewind() {
				t.Fatal("not rewound")
			}
			two := b.open()
			if got := readAll(t, two); got != whole {
				t.Errorf("the second sending is %q", got)
			}
			if b.rewind() {
				t.Error("sent a third time")
			}
			b.release()
			if _ = two.Close(); src.closes() != 1 {
				t.Errorf("closed %d times", src.closes())
			}
		})
	}
}

// TestBodyBroken: a client that fails in mid-body is not completed by a replay.
func TestBodyBroken(t *testing.T) {
	broken := io.MultiReader(strings.NewReader(whole), iotest.ErrReader(io.ErrUnexpectedEOF))
	b, _ := capture(broken, -1, 1<<10)
	if _, err := io.ReadAll(b.open()); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("the failure is not passed on: %v", err)
	}
	if b.replayable() {
		t.Error("replayable")
	}
	if _, err := b.getBody(); b.rewind() || !errors.Is(err, errBodyGone) {
		t.Errorf("rewound, or GetBody: %v", err)
	}
}

// TestBodyClose: a RoundTripper closes the body, at the latest when it is done
// with it, and not before.
func TestBodyClose(t *testing.T) {
	for name, c := range map[string]struct {
		steps func(b *capturedBody)
		want  int
	}{
		"closed before the answer is final": {func(b *capturedBody) { _ = b.open().Close() }, 0},
		"closed, then final":                {func(b *capturedBody) { _ = b.open().Close(); b.release() }, 1},
		"final, then closed":                {func(b *capturedBody) { r := b.open(); b.release(); _ = r.Close() }, 1},
		"never sent":                        {func(b *capturedBody) { b.release() }, 1},
		"the first reader late": {func(b *capturedBody) {
			one := b.open()
			_ = b.rewind()
			two := b.open()
			_ = one.Close()
			b.release()
			_ = two.Close()
		}, 1},
		"too long to be sent again": {func(b *capturedBody) {
			b.max = 1
			one := b.open()
			_, _ = io.ReadAll(one)
			_ = b.rewind()
			_ = one.Close()
			b.release()
		}, 1},
		"cut off, and not sent again": {func(b *capturedBody) {
			one := b.open()
			_ = b.rewind()
			_ = one.Close()
			b.release()
		}, 1},
		"sent again by net/http": {func(b *capturedBody) {
			one := b.open()
			_ = one.Close()
			two, _ := b.getBody()
			b.release()
			_ = two.Close()
		}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			b, src := capture(strings.NewReader(whole), -1, 1<<10)
			c.steps(b)
			if got := src.closes(); got != c.want {
				t.Errorf("closed %d times, want %d", got, c.want)
			}
		})
	}
}

// TestNoBody: a request without one can always be sent again.
func TestNoBody(t *testing.T) {
	for _, body := range []io.ReadCloser{nil, http.NoBody} {
		b := captureBody(&http.Request{Body: body}, 1<<10)
		if b != nil || !b.replayable() || !b.rewind() {
			t.Errorf("%v: captured", body)
		}
		b.release()
	}
}

// TestBodyReopened: net/http sends it again by itself, whole or not at all.
func TestBodyReopened(t *testing.T) {
	b, _ := capture(iotest.OneByteReader(strings.NewReader(whole)), -1, 10)
	one := b.open()
	_, _ = io.ReadFull(one, make([]byte, 5))
	two, err := b.getBody()
	if err != nil {
		t.Fatal(err)
	}
	_ = one.Close()
	if got := readAll(t, two); got != whole {
		t.Errorf("it is %q", got)
	}
	if _, err := b.getBody(); !errors.Is(err, errBodyGone) {
		t.Errorf("more was read than is remembered: %v", err)
	}
	b.release()
}
