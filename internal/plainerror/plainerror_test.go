package plainerror_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/caddy-bearer/caddy-bearer/internal/plainerror"
)

const canary = "canary-of-the-token"

// TestOf: what is known to be harmless is told, and nothing of what the other side
// sent.
func TestOf(t *testing.T) {
	refused := &net.OpError{Op: "dial", Net: "tcp", Addr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 9}, Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
	dns := &net.DNSError{Err: "no such host", Name: "api.example", IsNotFound: true}
	leaf := &x509.Certificate{DNSNames: []string{canary}}
	for name, tt := range map[string]struct {
		err  error
		want string
	}{
		"dial":             {refused, "dial tcp 127.0.0.1:9: connect: connection refused"},
		"DNS":              {&net.OpError{Op: "dial", Net: "tcp", Err: dns}, "lookup api.example: no such host"},
		"wrapped dial":     {fmt.Errorf("%s: %w", canary, refused), "dial tcp 127.0.0.1:9: connect: connection refused"},
		"other names":      {&tls.CertificateVerificationError{Err: x509.HostnameError{Certificate: leaf, Host: "api.example"}}, "tls: failed to verify certificate: x509: certificate is not valid for api.example"},
		"expired":          {x509.CertificateInvalidError{Reason: x509.Expired, Detail: "current time is after it"}, "tls: failed to verify certificate: x509: certificate has expired or is not yet valid: current time is after it"},
		"unknown":          {x509.UnknownAuthorityError{Cert: leaf}, "tls: failed to verify certificate: x509: certificate signed by unknown authority"},
		"constraints":      {x509.CertificateInvalidError{Reason: x509.UnconstrainedName, Detail: canary}, "tls: failed to verify certificate: x509: issuer has name constraints but leaf contains unknown or unconstrained name"},
		"another reason":   {x509.CertificateInvalidError{Reason: 99, Detail: canary}, "tls: failed to verify certificate: x509: the certificate cannot be used"},
		"alert":            {tls.AlertError(42), "TLS: tls: bad certificate"},
		"GOAWAY":           {fmt.Errorf("http2: server sent GOAWAY and closed the connection; LastStreamID=1, ErrCode=NO_ERROR, debug=%q", canary), "server sent GOAWAY and closed the connection"},
		"cut off":          {fmt.Errorf("%s: %w", canary, io.ErrUnexpectedEOF), "the connection was closed before the response was complete"},
		"canceled":         {fmt.Errorf("%s: %w", canary, context.Canceled), "context canceled"},
		"deadline":         {fmt.Errorf("%s: %w", canary, context.DeadlineExceeded), "timed out"},
		"of somebody else": {errors.New(canary), "the request cannot be sent, or the response is not well-formed HTTP, or not of the expected kind (*errors.errorString)"},
		"a proxy refuses":  {errors.New("Proxy Authentication Required"), "the proxy answers Proxy Authentication Required"},
	} {
		got := plainerror.Of(tt.err)
		if got.Error() != tt.want {
			t.Errorf("%s: %q; want %q", name, got, tt.want)
		}
		if !errors.Is(got, tt.err) {
			t.Errorf("%s: the error is not found in it", name)
		}
	}
	if plainerror.Of(nil) != nil {
		t.Error("no error became one")
	}
	var ne net.Error
	if err := plainerror.Of(fmt.Errorf("%s: %w", canary, context.DeadlineExceeded)); !errors.As(err, &ne) || !ne.Timeout() {
		t.Error("a timeout is none any more")
	}
}

// TestOfResponses: what net/http says of responses that are not well-formed.
func TestOfResponses(t *testing.T) {
	for name, tt := range map[string]struct{ response, want string }{
		"no HTTP":           {canary + "\r\n\r\n", "malformed HTTP response"},
		"status":            {"HTTP/1.1 2" + canary + "\r\n\r\n", "malformed HTTP status code"},
		"version":           {"HTTP/" + canary + " 200 OK\r\n\r\n", "malformed HTTP version"},
		"header line":       {"HTTP/1.1 200 OK\r\n" + canary + "\r\n\r\n", "malformed MIME header"},
		"first line folded": {"HTTP/1.1 200 OK\r\n " + canary + "\r\n\r\n", "malformed MIME header"},
		"Content-Length":    {"HTTP/1.1 200 OK\r\nContent-Length: " + canary + "\r\n\r\n", "bad Content-Length"},
		"two lengths":       {"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: " + canary + "\r\n\r\n", "message cannot contain multiple Content-Length headers"},
		"encoding":          {"HTTP/1.1 200 OK\r\nTransfer-Encoding: " + canary + "\r\n\r\n", "unsupported transfer encoding"},
		"trailer key":       {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: Content-Length, " + canary + "\r\n\r\n0\r\n\r\n", "bad trailer key"},
		"trailer line":      {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + canary + "\r\n\r\n", "malformed MIME header"},
		"chunk":             {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + canary + "\r\n", "invalid byte in chunk length"},
	} {
		t.Run(name, func(t *testing.T) {
			client, server := net.Pipe()
			go func() {
				defer server.Close()
				if _, err := http.ReadRequest(bufio.NewReader(server)); err == nil {
					_, _ = io.WriteString(server, tt.response)
				}
			}()
			transport := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return client, nil }}
			defer transport.CloseIdleConnections()
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://api.example/", nil)
			if err != nil {
				t.Fatal(err)
			}
			res, err := transport.RoundTrip(req)
			if err == nil {
				_, err = io.ReadAll(res.Body)
				_ = res.Body.Close()
			}
			if err == nil {
				t.Fatal("it is well-formed")
			}
			if got := plainerror.Of(err); !strings.HasPrefix(got.Error(), tt.want) || strings.Contains(got.Error(), canary) {
				t.Errorf("%q, of %q; want %q", got, err, tt.want)
			}
		})
	}
}
