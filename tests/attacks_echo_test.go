package tests

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/caddy-bearer/caddy-bearer/tests/provider"
)

// echoes are responses, as they go over the wire, that repeat what was sent, in every place that finds its way into an
// error, a log or the app's response. SECRET is what was sent, ESCAPED the same in a query's spelling.
var echoes = map[string]string{
	"no HTTP at all":             "SECRET\r\n\r\n",
	"status code":                "HTTP/1.1 SECRET OK\r\n\r\n",
	"version":                    "HTTP/SECRET 200 OK\r\n\r\n",
	"echoed request line":        "GET /?access_token=ESCAPED HTTP/1.1\r\n\r\n",
	"reason":                     "HTTP/1.1 200 SECRET\r\nContent-Length: 0\r\n\r\n",
	"reason of an error":         "HTTP/1.1 500 SECRET\r\nContent-Length: 0\r\n\r\n",
	"header without a colon":     "HTTP/1.1 200 OK\r\nSECRET\r\n\r\n",
	"header with a space":        "HTTP/1.1 200 OK\r\nX SECRET: 1\r\n\r\n",
	"first header folded":        "HTTP/1.1 200 OK\r\n SECRET\r\n\r\n",
	"later header folded":        "HTTP/1.1 200 OK\r\nX-Echo: a\r\n SECRET\r\nContent-Length: 0\r\n\r\n",
	"header name":                "HTTP/1.1 200 OK\r\nSECRET: 1\r\nContent-Length: 0\r\n\r\n",
	"header value":               "HTTP/1.1 200 OK\r\nX-Echo: Bearer SECRET\r\nContent-Length: 0\r\n\r\n",
	"many header values":         "HTTP/1.1 200 OK\r\n" + strings.Repeat("X-Echo: SECRET SECRET\r\n", 50) + "Content-Length: 0\r\n\r\n",
	"headers without an end":     "HTTP/1.1 200 OK\r\nX-Echo: SECRET\r\n",
	"Server and Date":            "HTTP/1.1 200 OK\r\nServer: SECRET\r\nDate: SECRET\r\nContent-Length: 0\r\n\r\n",
	"Set-Cookie":                 "HTTP/1.1 200 OK\r\nSet-Cookie: session=SECRET; Path=/\r\nContent-Length: 0\r\n\r\n",
	"Location":                   "HTTP/1.1 302 Found\r\nLocation: https://api.example/?access_token=SECRET&page=2\r\nContent-Length: 0\r\n\r\n",
	"malformed Location":         "HTTP/1.1 307 Temporary Redirect\r\nLocation: http://\x7fSECRET\r\nContent-Length: 0\r\n\r\n",
	"escaped Location":           "HTTP/1.1 302 Found\r\nLocation: /?a=b&access_token=ESCAPED\r\nContent-Length: 0\r\n\r\n",
	"Content-Location":           "HTTP/1.1 200 OK\r\nContent-Location: /things?access_token=ESCAPED\r\nContent-Length: 0\r\n\r\n",
	"Link":                       "HTTP/1.1 200 OK\r\nLink: <https://api.example/?access_token=ESCAPED&page=2>; rel=\"next\", </?access_token=ESCAPED>; rel=first\r\nContent-Length: 0\r\n\r\n",
	"Refresh":                    "HTTP/1.1 200 OK\r\nRefresh: 5; url=/?access_token=ESCAPED\r\nContent-Length: 0\r\n\r\n",
	"challenge error":            "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Bearer error=\"SECRET\"\r\nContent-Length: 0\r\n\r\n",
	"challenge description":      "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Bearer realm=\"SECRET\", error=\"invalid_token\", error_description=\"SECRET\"\r\nContent-Length: 0\r\n\r\n",
	"Proxy-Status":               "HTTP/1.1 502 Bad Gateway\r\nProxy-Status: SECRET; details=\"SECRET\"\r\nContent-Length: 0\r\n\r\n",
	"Retry-After":                "HTTP/1.1 429 Too Many Requests\r\nRetry-After: SECRET\r\nContent-Length: 0\r\n\r\n",
	"Content-Length":             "HTTP/1.1 200 OK\r\nContent-Length: SECRET\r\n\r\n",
	"two Content-Lengths":        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: SECRET\r\n\r\na",
	"Transfer-Encoding":          "HTTP/1.1 200 OK\r\nTransfer-Encoding: SECRET\r\n\r\n",
	"Content-Type":               "HTTP/1.1 200 OK\r\nContent-Type: text/SECRET; a=\"SECRET\r\nContent-Length: 0\r\n\r\n",
	"Content-Encoding":           "HTTP/1.1 200 OK\r\nContent-Encoding: SECRET\r\nContent-Length: 6\r\n\r\nSECRET",
	"broken gzip":                "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 6\r\n\r\nSECRET",
	"Connection":                 "HTTP/1.1 200 OK\r\nConnection: SECRET\r\nContent-Length: 0\r\n\r\n",
	"Upgrade nobody asked for":   "HTTP/1.1 101 Switching Protocols\r\nUpgrade: SECRET\r\nConnection: Upgrade\r\n\r\nSECRET",
	"early hints":                "HTTP/1.1 103 Early Hints\r\nLink: </?access_token=ESCAPED>\r\nX-Echo: SECRET\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
	"reason of an informational": "HTTP/1.1 100 SECRET\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
	"forbidden trailer":          "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: Content-Length, SECRET\r\n\r\n0\r\n\r\n",
	"trailer":                    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Echo\r\n\r\n2\r\nok\r\n0\r\nX-Echo: SECRET\r\n\r\n",
	"trailer nobody announced":   "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Echo: SECRET\r\nSECRET: 1\r\n\r\n",
	"malformed trailer":          "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nSECRET\r\n\r\n",
	"chunk's length":             "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nSECRET\r\n",
	"chunk's extension":          "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;a=SECRET\r\nok\r\n0\r\n\r\n",
	"chunk's end":                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nokSECRET\r\n0\r\n\r\n",
	"body cut off":               "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\nX-Echo: SECRET\r\n\r\nSECRET",
	"JSON error":                 "HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\n\r\n{\"error\":\"SECRET\",\"error_description\":\"SECRET\",\"SECRET\":\"SECRET\"}",
	"JSON error with 200":        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n{\"error\":\"SECRET\",\"SECRET\":1}",
	"HTML":                       "HTTP/1.1 403 Forbidden\r\nContent-Type: text/html\r\n\r\n<title>SECRET</title>",
	"form":                       "HTTP/1.1 400 Bad Request\r\nContent-Type: application/x-www-form-urlencoded\r\n\r\nerror=ESCAPED&ESCAPED=1",
	"Alt-Svc and HSTS":           "HTTP/1.1 200 OK\r\nAlt-Svc: h3=\"SECRET:443\"\r\nStrict-Transport-Security: SECRET\r\nContent-Length: 0\r\n\r\n",
	"HTTP/1.0":                   "HTTP/1.0 200 SECRET\r\nX-Echo: SECRET\r\n\r\nSECRET",
}

// serveConns has each connection of a listener served, and ends them with the test.
func serveConns(t *testing.T, l net.Listener, serve func(net.Conn)) {
	t.Helper()
	var open sync.WaitGroup
	ctx, stop := context.WithCancel(context.Background())
	t.Cleanup(func() {
		l.Close()
		stop()
		open.Wait()
	})
	open.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			open.Go(func() {
				defer conn.Close()
				defer context.AfterFunc(ctx, func() { conn.Close() })()
				serve(conn)
			})
		}
	})
}

// repeating is a server that answers each request with one of the echoes.
func repeating(t *testing.T, response string, secretOf func(*http.Request) string) string {
	t.Helper()
	l := listen(t)
	serveConns(t, l, func(conn net.Conn) {
		req, err := http.ReadRequest(bufio.NewReader(conn))
		if err != nil {
			return
		}
		_, _ = io.Copy(io.Discard, req.Body)
		secret := secretOf(req)
		_, _ = io.WriteString(conn, strings.NewReplacer("SECRET", secret, "ESCAPED", url.QueryEscape(secret)).Replace(response))
	})
	return "http://" + l.Addr().String()
}

// bearerToken is the token that a request brings, in any of the places where it may be injected.
func bearerToken(r *http.Request) string {
	if token := r.URL.Query().Get("access_token"); token != "" {
		return token
	}
	if c, err := r.Cookie("access_token"); err == nil {
		return c.Value
	}
	return strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
}

// TestAttack10APIEchoes: an API that repeats the token, well-formed or not, in all places. Nothing that is logged, traced or
// counted holds it, nor do the headers that the app gets.
func TestAttack10APIEchoes(t *testing.T) {
	for where, inject := range map[string]string{"header": "", "query": "query access_token {token}", "cookie": "cookie access_token {token}"} {
		for name, response := range echoes {
			t.Run(where+"/"+name, func(t *testing.T) {
				site := "log_append upstream {http.bearer.upstream.hostport}"
				if *way == "transport" {
					site = "log_append location {http.reverse_proxy.header.Location}"
				}
				s := newSidecar(t, setup{
					upstream: repeating(t, response, bearerToken), transport: inject, source: answersAtOnce,
					proxy: "flush_interval -1", site: site,
				})
				s.start(t)
				req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+s.address+"/things", nil)
				if err != nil {
					t.Fatal(err)
				}
				res, err := s.after.RoundTrip(req) // redirects are not followed
				if err != nil {
					t.Fatal(err)
				}
				defer res.Body.Close()
				_, _ = io.Copy(io.Discard, res.Body) // it may be cut off
				searchText(t, s.p, "response's headers", fmt.Sprint(res.Status, res.Header, res.Trailer))
			})
		}
	}
}

// clientSecret is the secret that a token request brings in its Basic header.
func clientSecret(r *http.Request) string {
	_, secret, _ := r.BasicAuth()
	return secret
}

// TestAttack10EndpointEchoes: the same of a token endpoint that repeats the client's secret, plain and as it was sent.
func TestAttack10EndpointEchoes(t *testing.T) {
	for form, secretOf := range map[string]func(*http.Request) string{
		"secret": clientSecret,
		"Basic":  func(r *http.Request) string { return strings.TrimPrefix(r.Header.Get("Authorization"), "Basic ") },
	} {
		for name, response := range echoes {
			t.Run(form+"/"+name, func(t *testing.T) {
				s := newSidecar(t, setup{
					grantType: "client_credentials", tokenURL: repeating(t, response, secretOf) + "/token", source: answersAtOnce,
				})
				s.start(t)
				s.p.TakeViolations()
				if got := s.get(t); got.status < 500 || got.problem() == "" {
					t.Errorf("status %d: %s", got.status, got.body)
				}
				s.p.TakeViolations()
			})
		}
	}
}

// TestAttack10HTTP2Echoes: what HTTP/2 has for an API to put text into.
func TestAttack10HTTP2Echoes(t *testing.T) {
	fields := func(f *http2.Framer, id uint32, end bool, pairs ...string) {
		var block bytes.Buffer
		e := hpack.NewEncoder(&block)
		for i := 0; i < len(pairs); i += 2 {
			_ = e.WriteField(hpack.HeaderField{Name: pairs[i], Value: pairs[i+1]})
		}
		_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: end})
	}
	for name, answer := range map[string]func(f *http2.Framer, id uint32, secret string){
		"GOAWAY": func(f *http2.Framer, _ uint32, secret string) {
			_ = f.WriteGoAway(0, http2.ErrCodeProtocol, []byte(secret))
		},
		"GOAWAY in a body": func(f *http2.Framer, id uint32, secret string) {
			fields(f, id, false, ":status", "200")
			_ = f.WriteGoAway(id, http2.ErrCodeInternal, []byte(secret))
		},
		"header": func(f *http2.Framer, id uint32, secret string) {
			fields(f, id, true, ":status", "200", "x-echo", secret, secret, "1")
		},
		"header name in capitals": func(f *http2.Framer, id uint32, secret string) {
			fields(f, id, true, ":status", "200", "X-"+secret, "1")
		},
		"header value with a line break": func(f *http2.Framer, id uint32, secret string) {
			fields(f, id, true, ":status", "200", "x-echo", "a\r\n"+secret)
		},
		"pseudo header": func(f *http2.Framer, id uint32, secret string) {
			fields(f, id, true, ":status", "200", ":"+secret, "1")
		},
		"status": func(f *http2.Framer, id uint32, secret string) { fields(f, id, true, ":status", secret) },
		"Content-Length": func(f *http2.Framer, id uint32, secret string) {
			fields(f, id, true, ":status", "200", "content-length", secret)
		},
		"trailer": func(f *http2.Framer, id uint32, secret string) {
			fields(f, id, false, ":status", "200", "trailer", "x-echo")
			_ = f.WriteData(id, false, []byte("ok"))
			fields(f, id, true, "x-echo", secret, "x-other", secret)
		},
		"settings": func(f *http2.Framer, _ uint32, secret string) {
			_ = f.WriteRawFrame(http2.FrameSettings, 0, 0, []byte(secret))
		},
		"unknown frame": func(f *http2.Framer, id uint32, secret string) {
			_ = f.WriteRawFrame(99, 0, id, []byte(secret))
			fields(f, id, true, ":status", "200")
		},
		"ping": func(f *http2.Framer, id uint32, secret string) {
			_ = f.WriteRawFrame(http2.FramePing, 0, 0, []byte(secret))
			fields(f, id, true, ":status", "200")
		},
	} {
		t.Run(name, func(t *testing.T) {
			a := newAuthority(t)
			s := newSidecar(t, setup{
				upstream: repeatingHTTP2(t, a.sign(t, "127.0.0.1", time.Now().Add(time.Hour)), answer), source: answersAtOnce,
				transport: "tls_trust_pool file " + a.file,
			})
			s.start(t)
			ctx, cancel := context.WithTimeout(t.Context(), hang)
			defer cancel()
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.address+"/things", nil)
			if err != nil {
				t.Fatal(err)
			}
			res, err := s.after.RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			_, _ = io.Copy(io.Discard, res.Body)
			searchText(t, s.p, "response's headers", fmt.Sprint(res.Status, res.Header, res.Trailer))
			s.wantLogged(t, `"uri":"/things"`)
		})
	}
}

// repeatingHTTP2 is a server that answers the first request of each connection, and closes it.
func repeatingHTTP2(t *testing.T, certificate tls.Certificate, answer func(f *http2.Framer, id uint32, secret string)) string {
	t.Helper()
	l := tls.NewListener(listen(t), &tls.Config{Certificates: []tls.Certificate{certificate}, NextProtos: []string{"h2"}})
	serveConns(t, l, func(conn net.Conn) {
		if _, err := io.CopyN(io.Discard, conn, int64(len(http2.ClientPreface))); err != nil {
			return
		}
		f := http2.NewFramer(conn, conn)
		f.AllowIllegalWrites = true
		f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
		_ = f.WriteSettings()
		for {
			frame, err := f.ReadFrame()
			if err != nil {
				return
			}
			headers, ok := frame.(*http2.MetaHeadersFrame)
			if !ok {
				continue
			}
			for _, field := range headers.Fields {
				if token, ok := strings.CutPrefix(field.Value, "Bearer "); ok {
					answer(f, headers.StreamID, token)
					return
				}
			}
		}
	})
	return "https://" + l.Addr().String()
}

// TestAttack10StandardLog: what the standard library itself logs of an API that answers although nobody has asked.
func TestAttack10StandardLog(t *testing.T) {
	l := listen(t)
	secrets := make(chan string, 1)
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		req, err := http.ReadRequest(bufio.NewReader(conn))
		if err != nil {
			return
		}
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
		<-secrets // the app has its response, so the connection is idle
		_, _ = io.WriteString(conn, bearerToken(req)+"\r\n")
		<-secrets
	}()
	p := provider.New(provider.Generic)
	s := newSidecarOf(t, p, setup{upstream: "http://" + l.Addr().String()})
	process := startProcess(t, s.config, secretsOf(p), s.address)
	if got := s.get(t); got.status != http.StatusOK {
		t.Fatalf("status %d: %s", got.status, got.body)
	}
	secrets <- ""
	eventually(t, "the line is there", func() bool { return strings.Contains(process.output.String(), "Unsolicited response received") })
	close(secrets)
	searchText(t, p, "output", process.kill(t))
}
