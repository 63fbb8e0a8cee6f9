package provider

import (
	"compress/gzip"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"
)

// Hang answers nothing until the client gives up or the provider is closed.
func Hang() Step {
	return Step{run: func(x *Exchange) {
		select {
		case <-x.R.Context().Done():
		case <-x.p.closing:
		}
		panic(http.ErrAbortHandler)
	}}
}

// Drop closes the connection with no answer at all.
func Drop() Step {
	return Step{run: func(x *Exchange) { x.reset(nil) }}
}

// Reset sends half of the normal answer and then resets the connection (RST, not FIN).
func Reset() Step {
	return Step{run: func(x *Exchange) {
		a := x.Next()
		head := fmt.Sprintf("HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n",
			a.Status, http.StatusText(a.Status), len(a.Body))
		x.reset(append([]byte(head), a.Body[:len(a.Body)/2]...))
	}}
}

// reset writes raw bytes to the connection and resets it. Where there is no connection to be had, in memory or in
// HTTP/2, the answer is aborted instead.
func (x *Exchange) reset(raw []byte) {
	conn, _, err := http.NewResponseController(x.W).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	defer conn.Close()
	_, _ = conn.Write(raw)
	if over, ok := conn.(*tls.Conn); ok {
		conn = over.NetConn()
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
}

// CutBody promises the whole normal answer and ends the connection after half of it.
func CutBody() Step {
	return Step{run: func(x *Exchange) {
		a := x.Next()
		x.W.Header().Set("Content-Length", strconv.Itoa(len(a.Body)))
		a.Body = a.Body[:len(a.Body)/2]
		x.Answer(a)
		_ = http.NewResponseController(x.W).Flush()
		panic(http.ErrAbortHandler)
	}}
}

// SlowBody sends the normal answer at some bytes a second.
func SlowBody(bytesPerSecond int) Step {
	return Step{run: func(x *Exchange) {
		a := x.Next()
		whole := a.Body
		a.Body = nil
		x.Answer(a)
		control := http.NewResponseController(x.W)
		for i := range whole {
			if _, err := x.W.Write(whole[i : i+1]); err != nil {
				return
			}
			_ = control.Flush()
			x.wait(time.Second / time.Duration(bytesPerSecond))
		}
	}}
}

// Malformed answers 200 with JSON that ends in the middle of a secret.
func Malformed() Step {
	return Step{run: func(x *Exchange) {
		a := x.Next()
		a.Status = http.StatusOK
		a.Body = a.Body[:len(a.Body)/2]
		x.Answer(a)
	}}
}

// HTML200 answers 200 with a page, as a captive portal or a broken gateway does.
func HTML200() Step {
	return Step{run: func(x *Exchange) {
		x.Answer(Answer{
			Status: http.StatusOK,
			Header: http.Header{"Content-Type": {"text/html; charset=utf-8"}},
			Body:   []byte("<!doctype html><title>Sign in</title><p>" + x.p.canary + "-page"),
		})
	}}
}

// WrongContentType gives the normal answer under another name.
func WrongContentType(contentType string) Step {
	return Step{run: func(x *Exchange) { x.Answer(x.Next().with("Content-Type", contentType)) }}
}

// Redirect sends the client elsewhere.
func Redirect(status int, to string) Step {
	return Status(status, http.Header{"Location": {to}}, "")
}

// Huge answers 200 with one JSON string of n bytes.
func Huge(n int64) Step {
	return Step{run: func(x *Exchange) {
		x.W.Header().Set("Content-Type", "application/json")
		x.W.WriteHeader(http.StatusOK)
		fill(x.W, n)
	}}
}

// GzipBomb is Huge, compressed: about a thousandth of n goes over the wire.
func GzipBomb(n int64) Step {
	return Step{run: func(x *Exchange) {
		x.W.Header().Set("Content-Type", "application/json")
		x.W.Header().Set("Content-Encoding", "gzip")
		x.W.WriteHeader(http.StatusOK)
		z := gzip.NewWriter(x.W)
		fill(z, n)
		_ = z.Close()
	}}
}

// fill writes one JSON string of n bytes, until the reader has had enough.
func fill(w io.Writer, n int64) {
	if _, err := io.WriteString(w, `{"access_token":"`); err != nil {
		return
	}
	block := make([]byte, 32<<10)
	for i := range block {
		block[i] = 'x'
	}
	for n > 0 {
		if _, err := w.Write(block[:min(n, int64(len(block)))]); err != nil {
			return
		}
		n -= int64(len(block))
	}
	_, _ = io.WriteString(w, `"}`)
}

// EarlyAnswer answers while the request's body is still to come, and never reads it.
func EarlyAnswer(status int) Step {
	return Step{early: true, run: func(x *Exchange) {
		a := jsonAnswer(status, map[string]any{"error": "early"})
		if status == http.StatusUnauthorized {
			a = x.p.dialect.unauthorized()
		}
		// else net/http reads the rest of the body before it sends the head
		control := http.NewResponseController(x.W)
		_ = control.EnableFullDuplex()
		x.Answer(a)
		_ = control.Flush()
	}}
}
