package tokenendpoint_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-bearer/caddy-bearer/tokensource/internal/wiretest"
	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenendpoint"
)

// serve starts a token endpoint on a socket and returns one that calls it.
func serve(t *testing.T, h http.HandlerFunc) *tokenendpoint.Endpoint {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return &tokenendpoint.Endpoint{URL: wiretest.Literal(srv.URL + "/token"), Transport: tokenendpoint.NewTransport()}
}

// endless is a body that never ends, and counts what is taken of it.
type endless struct{ read int }

func (e *endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	e.read += len(p)
	return len(p), nil
}

func (e *endless) Close() error { return nil }

// docs/faults.md, fault 12: an answer is cut at 64 KiB.
func TestEndlessAnswer(t *testing.T) {
	body := &endless{}
	ep := wiretest.Endpoint(&wiretest.Wire{Respond: func(*http.Request) (*http.Response, error) {
		r := wiretest.Respond(200, "application/json", "")
		r.Body = body
		return r, nil
	}})
	ee := wiretest.MustFail(t, ep)
	if !strings.Contains(ee.Error(), "64 KiB") || ee.Class != tokenendpoint.Transient {
		t.Errorf("%v: want a transient error that says 64 KiB", ee)
	}
	if body.read > 128<<10 {
		t.Errorf("%d bytes were read, want hardly more than 64 KiB", body.read)
	}
}

func TestLongestAnswer(t *testing.T) {
	const most = 64 << 10
	token := `{"access_token":"a"}`
	wiretest.MustCall(t, wiretest.Endpoint(wiretest.Responding(200, "", token+strings.Repeat(" ", most-len(token)))))
	wiretest.MustFail(t, wiretest.Endpoint(wiretest.Responding(200, "", token+strings.Repeat(" ", most-len(token)+1))))
	if ee := wiretest.MustFail(t, wiretest.Endpoint(wiretest.Responding(429, "", strings.Repeat(" ", most+1), "Retry-After", "9"))); ee.Class != tokenendpoint.Throttled || ee.RetryAfter != 9*time.Second {
		t.Errorf("a long 429: %+v, want throttled for 9s", *ee)
	}
}

func TestGzipBomb(t *testing.T) {
	var bomb bytes.Buffer
	w := gzip.NewWriter(&bomb)
	if _, err := io.Copy(w, io.LimitReader(&endless{}, 64<<20)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	ep := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		_, _ = w.Write(bomb.Bytes())
	})
	if ee := wiretest.MustFail(t, ep); !strings.Contains(ee.Error(), "64 KiB") {
		t.Errorf("%v: want an error that says 64 KiB", ee)
	}
}

// docs/faults.md, fault 1: the endpoint accepts the request and says nothing.
func TestNoAnswer(t *testing.T) {
	ep := serve(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
	})
	ep.Timeout = 20 * time.Millisecond
	ee := wiretest.MustFail(t, ep)
	if ee.Status != 0 || !ee.Sent || ee.Class != tokenendpoint.Transient || !strings.Contains(ee.Error(), "in time") {
		t.Errorf("%v, %+v: want transient, sent, without a status", ee, *ee)
	}
}

// docs/faults.md, fault 10: one byte a second, for ever.
func TestAnswerThatDribbles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ep := wiretest.Endpoint(&wiretest.Wire{Respond: func(r *http.Request) (*http.Response, error) {
			res := wiretest.Respond(200, "application/json", "")
			res.Body = io.NopCloser(dribble{r.Context()})
			return res, nil
		}})
		start := time.Now()
		if ee := wiretest.MustFail(t, ep); !ee.Sent || !strings.Contains(ee.Error(), "in time") {
			t.Errorf("%v: want a timeout", ee)
		}
		if took := time.Since(start); took > tokenendpoint.DefaultTimeout {
			t.Errorf("it took %v, want %v", took, tokenendpoint.DefaultTimeout)
		}
	})
}

type dribble struct{ ctx context.Context }

func (d dribble) Read(p []byte) (int, error) {
	select {
	case <-time.After(time.Second):
		p[0] = ' '
		return 1, nil
	case <-d.ctx.Done():
		return 0, d.ctx.Err()
	}
}

// The caller's own deadline is the shorter one.
func TestCallerGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ep := wiretest.Endpoint(&wiretest.Wire{Respond: func(r *http.Request) (*http.Response, error) {
			<-r.Context().Done()
			return nil, r.Context().Err()
		}})
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		start := time.Now()
		_, err := ep.Call(ctx, "x", nil, nil)
		if err == nil || time.Since(start) != time.Second {
			t.Errorf("%v after %v, want an error after 1s", err, time.Since(start))
		}
	})
}

// docs/faults.md, fault 6: the connection is reset in the middle of the body.
func TestResetInTheBody(t *testing.T) {
	for name, head := range map[string]string{
		"with a length": "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n",
		"chunked":       "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n40\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			ep := serve(t, func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				conn, _, err := w.(http.Hijacker).Hijack()
				if err != nil {
					t.Error(err)
					return
				}
				_, _ = conn.Write([]byte(head + `{"access_token":"canary`))
				_ = conn.Close()
			})
			ee := wiretest.MustFail(t, ep)
			if ee.Status != 200 || !ee.Sent || ee.Class != tokenendpoint.Transient || strings.Contains(ee.Error(), "canary") {
				t.Errorf("%v, %+v: want transient, sent, status 200", ee, *ee)
			}
		})
	}
}

// What the other side sends instead of HTTP does not get into the error.
func TestAnswerThatIsNotHTTP(t *testing.T) {
	for _, text := range []string{"canary\r\n\r\n", "HTTP/1.1 canary\r\n\r\n", "HTTP/1.1 200 OK\r\ncanary\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: canary\r\n\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: canary\r\n\r\n", ""} {
		ep := serve(t, func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			conn, _, err := w.(http.Hijacker).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			_, _ = conn.Write([]byte(text))
			_ = conn.Close()
		})
		if ee := wiretest.MustFail(t, ep); strings.Contains(ee.Error(), "canary") || !ee.Sent || ee.Class != tokenendpoint.Transient {
			t.Errorf("%q: %v", text, ee)
		}
	}
}

// docs/faults.md, fault 9, and a port that nobody listens on: nothing was sent.
func TestNobodyThere(t *testing.T) {
	nxdomain := &net.OpError{Op: "dial", Net: "tcp", Err: &net.DNSError{Err: "no such host", Name: "idp.example", IsNotFound: true}}
	refused := &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
	for _, cause := range []error{nxdomain, refused} {
		transport := tokenendpoint.NewTransport()
		transport.DialContext = func(context.Context, string, string) (net.Conn, error) { return nil, cause }
		ee := wiretest.MustFail(t, &tokenendpoint.Endpoint{URL: wiretest.Literal("http://idp.example/"), Transport: transport})
		if ee.Sent || ee.Class != tokenendpoint.Transient || !errors.Is(ee, tokenendpoint.ErrUnavailable) {
			t.Errorf("%v, %+v: want transient and not sent", ee, *ee)
		}
	}
}

// A URL that is none is a mistake in the settings, and not quoted: it may hold
// a secret.
func TestBadURL(t *testing.T) {
	for _, text := range []string{"", "/canary", "canary", "http://", "https://canary:port/x", "http://[canary", "://canary"} {
		_, err := wiretest.Call(&tokenendpoint.Endpoint{URL: wiretest.Literal(text)})
		var ee *tokenendpoint.Error
		if err == nil || errors.As(err, &ee) || strings.Contains(err.Error(), "canary") {
			t.Errorf("%q: %v", text, err)
		}
	}
	if _, err := wiretest.Call(&tokenendpoint.Endpoint{URL: wiretest.Template(t, "https://idp.example/{key.user}")}); err == nil || !strings.Contains(err.Error(), "{key.user}") {
		t.Errorf("without the key: %v", err)
	}
}

// A token call is made once, whatever breaks: a code in it is good for one.
func TestSentOnce(t *testing.T) {
	for _, method := range []string{"GET", "POST"} {
		var hits atomic.Int32
		ep := serve(t, func(w http.ResponseWriter, r *http.Request) {
			if hits.Add(1) == 1 {
				_, _ = fmt.Fprint(w, `{"access_token":"a"}`)
				return
			}
			panic(http.ErrAbortHandler)
		})
		ep.Method = method
		wiretest.MustCall(t, ep)
		wiretest.MustFail(t, ep)
		if n := hits.Load(); n != 2 {
			t.Errorf("%s: the second call was sent %d times", method, n-1)
		}
	}
}
