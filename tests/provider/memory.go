package provider

import (
	"bufio"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
)

// errAborted is what the in-memory client sees of a connection that broke.
var errAborted = errors.New("provider: connection reset")

// RoundTrip implements http.RoundTripper: the provider answers with no network between.
func (p *Provider) RoundTrip(r *http.Request) (*http.Response, error) {
	return p.roundTrip(Whole, r)
}

// PartRoundTripper is to Part what RoundTrip is to ServeHTTP.
func (p *Provider) PartRoundTripper(part Part) http.RoundTripper { return partTripper{p, part} }

type partTripper struct {
	p    *Provider
	part Part
}

// RoundTrip implements http.RoundTripper.
func (t partTripper) RoundTrip(r *http.Request) (*http.Response, error) {
	return t.p.roundTrip(t.part, r)
}

func (p *Provider) roundTrip(part Part, r *http.Request) (*http.Response, error) {
	served := r.Clone(r.Context())
	served.RemoteAddr = "127.0.0.1:1"
	if served.Host == "" {
		served.Host = r.URL.Host
	}
	if r.Body == nil {
		served.Body = http.NoBody
	}
	reader, writer := io.Pipe()
	w := &memoryWriter{header: http.Header{}, body: writer, started: make(chan struct{})}
	stop := context.AfterFunc(r.Context(), func() { _ = reader.CloseWithError(r.Context().Err()) })
	go func() {
		defer func() {
			stop()
			_ = served.Body.Close()
			w.finish(recover())
		}()
		p.serve(part, w, served)
	}()
	select {
	case <-w.started:
	case <-r.Context().Done():
		_ = reader.CloseWithError(r.Context().Err())
		return nil, r.Context().Err()
	}
	if w.err != nil {
		return nil, w.err
	}
	resp := &http.Response{
		Status:     http.StatusText(w.status),
		StatusCode: w.status,
		Proto:      "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header:        w.sent,
		Body:          reader,
		ContentLength: -1,
		Request:       r,
	}
	return inflated(r, resp), nil
}

// inflated does what http.Transport does with an answer compressed without having been asked for.
func inflated(r *http.Request, resp *http.Response) *http.Response {
	if resp.Header.Get("Content-Encoding") != "gzip" || r.Header.Get("Accept-Encoding") != "" {
		return resp
	}
	resp.Header.Del("Content-Encoding")
	resp.Uncompressed = true
	resp.Body = &gzipBody{wire: resp.Body}
	return resp
}

// gzipBody opens the compressed stream with the first read, for it may block.
type gzipBody struct {
	wire io.ReadCloser
	z    *gzip.Reader
}

func (b *gzipBody) Read(to []byte) (int, error) {
	if b.z == nil {
		z, err := gzip.NewReader(bufio.NewReader(b.wire))
		if err != nil {
			return 0, err
		}
		b.z = z
	}
	return b.z.Read(to)
}

func (b *gzipBody) Close() error { return b.wire.Close() }

// memoryWriter is the http.ResponseWriter of a call in memory.
type memoryWriter struct {
	header  http.Header
	body    *io.PipeWriter
	once    sync.Once
	started chan struct{}

	// set before started is closed
	status int
	sent   http.Header
	err    error
}

// Header implements http.ResponseWriter.
func (w *memoryWriter) Header() http.Header { return w.header }

// WriteHeader implements http.ResponseWriter.
func (w *memoryWriter) WriteHeader(status int) {
	if status < 200 {
		return
	}
	w.start(status, nil)
}

// Write implements http.ResponseWriter.
func (w *memoryWriter) Write(b []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	return w.body.Write(b)
}

// FlushError lets an http.ResponseController flush.
func (w *memoryWriter) FlushError() error {
	w.WriteHeader(http.StatusOK)
	return nil
}

func (w *memoryWriter) start(status int, err error) {
	w.once.Do(func() {
		w.status, w.err = status, err
		w.sent = w.header.Clone()
		close(w.started)
	})
}

// finish ends the answer as a server does when its handler returns or panics.
func (w *memoryWriter) finish(panicked any) {
	if panicked == nil {
		w.WriteHeader(http.StatusOK)
		_ = w.body.Close()
		return
	}
	if err, ok := panicked.(error); !ok || !errors.Is(err, http.ErrAbortHandler) {
		panic(panicked)
	}
	_ = w.body.CloseWithError(io.ErrUnexpectedEOF)
	w.start(0, errAborted)
}
