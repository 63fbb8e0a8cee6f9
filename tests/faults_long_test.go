package tests

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"
)

// endless is a body of some length that is nowhere in memory.
type endless struct {
	left int64
	sum  hash.Hash
}

func (e *endless) Read(p []byte) (int, error) {
	if e.left == 0 {
		return 0, io.EOF
	}
	n := copy(p[:min(int64(len(p)), e.left)], pattern[e.left%1000:])
	e.left -= int64(n)
	e.sum.Write(p[:n])
	return n, nil
}

var pattern = []byte(strings.Repeat("a body that repeats itself, ", 5000))

// TestFault22LongUpload: a gigabyte goes through whole, with its length and without, over HTTP/1.1 and HTTP/2.
func TestFault22LongUpload(t *testing.T) {
	const size = 1 << 30
	c := overH2C(t, func(w http.ResponseWriter, r *http.Request) {
		sum := sha256.New()
		n, err := io.Copy(sum, r.Body)
		fmt.Fprintf(w, "%d %d %x %v", r.ContentLength, n, sum.Sum(nil), err)
	})
	for name, known := range map[string]bool{"HTTP/1.1 with a length": true, "HTTP/2 without": false} {
		t.Run(name, func(t *testing.T) {
			c := c
			if known {
				c.global, c.transport = "", lookingInside
			}
			s := launch(t, c)
			if !known {
				s.useH2C(t)
			}
			body := &endless{size, sha256.New()}
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, s.base+"/large", io.NopCloser(body))
			if err != nil {
				t.Fatal(err)
			}
			length := "-1"
			if known {
				req.ContentLength, length = size, strconv.Itoa(size)
			}
			res, err := s.client.Do(req)
			got := answerOf(t, res, err)
			if want := fmt.Sprintf("%s %d %s <nil>", length, size, hex.EncodeToString(body.sum.Sum(nil))); got.body != want {
				t.Errorf("status %d: %.200s, want %s", got.status, got.body, want)
			}
		})
	}
}

// TestFault25HeadAndRange: what HEAD and Range say of a body passes unchanged.
func TestFault25HeadAndRange(t *testing.T) {
	content := strings.Repeat("0123456789", 1000)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Etag", `"one"`)
		http.ServeContent(w, r, "numbers.txt", time.Time{}, strings.NewReader(content))
	}))
	t.Cleanup(server.Close)
	s := launch(t, setup{upstream: server.URL})
	head := s.call(t, http.MethodHead, "/", nil, "")
	if head.status != http.StatusOK || head.header.Get("Content-Length") != "10000" || head.body != "" {
		t.Errorf("HEAD: status %d, length %s, body %q", head.status, head.header.Get("Content-Length"), head.body)
	}
	part := s.call(t, http.MethodGet, "/", http.Header{"Range": {"bytes=10-19"}}, "")
	if part.status != http.StatusPartialContent || part.body != "0123456789" || part.header.Get("Content-Range") != "bytes 10-19/10000" {
		t.Errorf("Range: status %d, %s, %q", part.status, part.header.Get("Content-Range"), part.body)
	}
	same := s.call(t, http.MethodGet, "/", http.Header{"If-None-Match": {`"one"`}}, "")
	if same.status != http.StatusNotModified || same.body != "" || same.header.Get("Etag") != `"one"` {
		t.Errorf("If-None-Match: status %d, %q", same.status, same.body)
	}
}

// TestFault25OneWay: gRPC's other two kinds of streams. The server sends many messages for one, each as it comes; the client
// sends many, and hears once.
func TestFault25OneWay(t *testing.T) {
	more := make(chan struct{})
	s := launch(t, overH2C(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/grpc")
		w.Header().Set("Trailer", "Grpc-Status")
		control := http.NewResponseController(w)
		if r.URL.Path == "/service/Collect" {
			text, err := io.ReadAll(r.Body)
			fmt.Fprintf(w, "%d %v", strings.Count(string(text), "\n"), err)
		} else {
			for i := range 10 {
				fmt.Fprintf(w, "message %d\n", i)
				_ = control.Flush()
				<-more
			}
		}
		w.Header().Set("Grpc-Status", "0")
	}))
	s.useH2C(t)
	ctx, cancel := context.WithTimeout(t.Context(), hang)
	defer cancel()
	send := func(path string, body io.Reader) *http.Response {
		t.Helper()
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.base+path, body)
		if err != nil {
			t.Fatal(err)
		}
		req.Header = http.Header{"Te": {"trailers"}, "Content-Type": {"application/grpc"}}
		res, err := s.client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		return res
	}
	res := send("/service/Watch", strings.NewReader("one"))
	defer res.Body.Close()
	in := bufio.NewReader(res.Body)
	for i := range 10 {
		if line, err := in.ReadString('\n'); err != nil || line != fmt.Sprintf("message %d\n", i) {
			t.Fatalf("%q, %v", line, err)
		}
		more <- struct{}{}
	}
	if _, err := io.ReadAll(in); err != nil || res.Trailer.Get("Grpc-Status") != "0" {
		t.Errorf("%v, trailers %v", err, res.Trailer)
	}
	body, out := io.Pipe()
	go func() {
		for i := range 1000 {
			fmt.Fprintf(out, "message %d\n", i)
		}
		out.Close()
	}()
	collected := send("/service/Collect", body)
	if got := answerOf(t, collected, nil); got.body != "1000 <nil>" || collected.Trailer.Get("Grpc-Status") != "0" {
		t.Errorf("%q, trailers %v", got.body, collected.Trailer)
	}
}
