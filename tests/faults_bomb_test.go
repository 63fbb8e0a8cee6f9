package tests

import (
	"compress/gzip"
	"io"
	"net/http"
	"sync/atomic"
	"testing"

	"golang.org/x/net/http2"

	"github.com/caddy-bearer/caddy-bearer/tests/provider"
)

// TestFault12HugeAnswer of a token endpoint is cut off: what is read of it is bounded, compressed or not.
func TestFault12HugeAnswer(t *testing.T) {
	const whole = 1 << 30
	for name, zipped := range map[string]bool{"plain": false, "gzip": true} {
		t.Run(name, func(t *testing.T) {
			var sent atomic.Int64
			s := keeps(t, "", provider.Function(func(w http.ResponseWriter, _ *http.Request) bool {
				w.Header().Set("Content-Type", "application/json")
				var out io.Writer = counted{w, &sent}
				if zipped {
					w.Header().Set("Content-Encoding", "gzip")
					z := gzip.NewWriter(out)
					defer z.Close()
					out = z
				}
				block := make([]byte, 1<<20)
				for i := range block {
					block[i] = ' '
				}
				for range whole / len(block) {
					if _, err := out.Write(block); err != nil {
						return true
					}
				}
				return true
			}))
			// a gigabyte of blanks is a megabyte compressed, which the sockets' buffers may take as it is
			if n := sent.Load(); !zipped && n > 64<<20 {
				t.Errorf("%d MiB were taken", n>>20)
			}
			s.wantLogged(t, "longer than 64 KiB")
		})
	}
}

// counted counts what goes through it.
type counted struct {
	io.Writer
	n *atomic.Int64
}

func (c counted) Write(b []byte) (int, error) {
	n, err := c.Writer.Write(b)
	c.n.Add(int64(n))
	return n, err
}

// frames is an HTTP/2 API that does one thing to each stream.
func frames(t *testing.T, streams *atomic.Int32, act func(f *http2.Framer, stream uint32)) string {
	t.Helper()
	l := listen(t)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				if _, err := io.ReadFull(conn, make([]byte, len(http2.ClientPreface))); err != nil {
					return
				}
				f := http2.NewFramer(conn, conn)
				_ = f.WriteSettings()
				for {
					frame, err := f.ReadFrame()
					if err != nil {
						return
					}
					switch frame := frame.(type) {
					case *http2.SettingsFrame:
						if !frame.IsAck() {
							_ = f.WriteSettingsAck()
						}
					case *http2.HeadersFrame:
						streams.Add(1)
						act(f, frame.StreamID)
					case *http2.GoAwayFrame:
						return
					}
				}
			}()
		}
	}()
	return "http://" + l.Addr().String()
}

// TestFault24BrokenStreams: an API that ends streams and connections in HTTP/2's own ways says nothing of the token.
func TestFault24BrokenStreams(t *testing.T) {
	for name, act := range map[string]func(f *http2.Framer, stream uint32){
		"RST_STREAM": func(f *http2.Framer, stream uint32) { _ = f.WriteRSTStream(stream, http2.ErrCodeInternal) },
		"refused first": func(f *http2.Framer, stream uint32) { // is sent again by net/http itself
			code := http2.ErrCodeRefusedStream
			if stream > 1 {
				code = http2.ErrCodeInternal
			}
			_ = f.WriteRSTStream(stream, code)
		},
		"no access": func(f *http2.Framer, stream uint32) {
			_ = f.WriteRSTStream(stream, http2.ErrCodeInadequateSecurity)
		},
		"GOAWAY": func(f *http2.Framer, stream uint32) {
			_ = f.WriteGoAway(stream, http2.ErrCodeInternal, nil)
			_ = f.WriteRSTStream(stream, http2.ErrCodeCancel)
		},
		"GOAWAY before it": func(f *http2.Framer, _ uint32) {
			_ = f.WriteGoAway(0, http2.ErrCodeEnhanceYourCalm, []byte("too_many_pings"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			var streams atomic.Int32
			s := launch(t, setup{upstream: frames(t, &streams, act), transport: "versions h2c\nresponse_header_timeout 500ms"})
			for _, method := range []string{http.MethodGet, http.MethodPost} {
				got := s.call(t, method, "/", nil, map[string]string{http.MethodPost: large}[method])
				if got.status < 500 || got.problem() != s.away(got.status) {
					t.Errorf("status %d: %s", got.status, got.body)
				}
			}
			if streams.Load() == 0 {
				t.Error("the API saw no stream: the test shows nothing")
			}
			if n := s.p.TokenCount(); n != 1 {
				t.Errorf("%d token calls", n)
			}
			if state := s.metric(t, apiBreaker); state != "0" {
				t.Errorf("the breaker's state is %s", state)
			}
		})
	}
}
