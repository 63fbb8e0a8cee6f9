package bearer

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"testing/synctest"
)

// TestBodyUnderWay: the answer arrives while a slow client is being read. What
// that read brings belongs to the second sending.
func TestBodyUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, w := io.Pipe()
		b, _ := capture(client, -1, 1<<10)
		one := b.open()
		first := make(chan error)
		go func() {
			text, err := io.ReadAll(one)
			if string(text) != whole[:10] {
				t.Errorf("the first sending got %q", text)
			}
			first <- err
		}()
		_, _ = w.Write([]byte(whole[:10]))
		synctest.Wait() // one waits for more
		if !b.rewind() {
			t.Fatal("not rewound")
		}
		second := make(chan string)
		go func() {
			text, _ := io.ReadAll(b.open())
			second <- string(text)
		}()
		synctest.Wait() // it has what is remembered, and waits for the same client
		go func() {
			for _, c := range []byte(whole[10:]) {
				_, _ = w.Write([]byte{c})
			}
			_ = w.Close()
		}()
		if err := <-first; !errors.Is(err, errBodyGone) {
			t.Errorf("the first sending goes on: %v", err)
		}
		if got := <-second; got != whole {
			t.Errorf("the second sending is %q", got)
		}
		b.release()
	})
}

// TestBodyUnderWayTooMuch: what the reading under way brings belongs to the
// second sending, also if it is more than would be remembered, and also if the
// answer is final by then.
func TestBodyUnderWayTooMuch(t *testing.T) {
	for _, released := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			client, w := io.Pipe()
			b, _ := capture(client, -1, 12)
			one := b.open()
			go func() { _, _ = io.ReadAll(one) }()
			_, _ = w.Write([]byte(whole[:10]))
			synctest.Wait()
			if !b.rewind() {
				t.Fatal("not rewound")
			}
			two := b.open()
			head := make([]byte, 10)
			if _, err := io.ReadFull(two, head); err != nil || string(head) != whole[:10] {
				t.Fatalf("%q, %v", head, err)
			}
			if released {
				b.release()
			}
			_, _ = w.Write([]byte(whole[10:20])) // to the first reader, which is cut off
			synctest.Wait()
			go func() {
				_, _ = w.Write([]byte(whole[20:]))
				_ = w.Close()
			}()
			if got := readAll(t, two); got != whole[10:] {
				t.Errorf("released %v: the second sending goes on with %q", released, got)
			}
			if b.rewind() {
				t.Error("sent a third time")
			}
			b.release()
			_ = two.Close()
		})
	}
}

// TestBodyRewindDoesNotWait: the client may send on only when it has heard the
// answer.
func TestBodyRewindDoesNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, w := io.Pipe()
		b, _ := capture(client, -1, 1<<10)
		one := b.open()
		go func() { _, _ = one.Read(make([]byte, 10)) }()
		synctest.Wait()
		if !b.rewind() { // would deadlock the bubble
			t.Error("not rewound")
		}
		b.release()
		_ = w.Close()
	})
}

// TestBodyReleaseDoesNotWait: in a stream that runs both ways the answer is
// final long before the request's body ends.
func TestBodyReleaseDoesNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, w := io.Pipe()
		b, src := capture(client, -1, 1<<10)
		one := b.open()
		got := make(chan string)
		go func() {
			text, _ := io.ReadAll(one)
			_ = one.Close()
			got <- string(text)
		}()
		_, _ = w.Write([]byte(whole[:10]))
		synctest.Wait()
		b.release() // would deadlock the bubble
		if src.closes() != 0 {
			t.Error("closed while it is read")
		}
		long := strings.Repeat("x", 4<<10) // more than would be remembered
		_, _ = w.Write([]byte(whole[10:] + long))
		_ = w.Close()
		if text := <-got; text != whole+long {
			t.Errorf("streamed %d bytes: %.80q", len(text), text)
		}
		if src.closes() != 1 {
			t.Errorf("closed %d times", src.closes())
		}
	})
}

// TestBodyBuffersStayApart: buffers are reused, and no request may see what
// another one sent: neither when it is sent again, nor when its answer is
// final while the second sending is still under way.
func TestBodyBuffersStayApart(t *testing.T) {
	var wg sync.WaitGroup
	for i := range 64 {
		wg.Go(func() {
			mine := bytes.Repeat([]byte{byte('A' + i%26), byte(i)}, 1+i*64)
			for round := range 50 {
				b, _ := capture(iotest.HalfReader(bytes.NewReader(mine)), -1, 1<<20)
				_, _ = io.CopyN(io.Discard, b.open(), int64(round*i))
				if !b.rewind() {
					t.Error("not rewound")
					return
				}
				two := b.open()
				head := make([]byte, len(mine)/2)
				_, _ = io.ReadFull(two, head)
				b.release()
				rest, err := io.ReadAll(two)
				if err != nil || !bytes.Equal(append(head, rest...), mine) {
					t.Errorf("sent something else: %v", err)
					return
				}
			}
		})
	}
	wg.Wait()
}
