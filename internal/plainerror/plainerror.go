// Package plainerror makes errors of a connection fit to be told. The errors of
// net/http quote what the other side sent, and that may be what it was sent: a token
// or a client secret. They end in logs, spans and error pages.
package plainerror

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"

	"golang.org/x/net/http2"
)

// Of returns err with a text that holds nothing of what the other side sent. errors.Is
// and errors.As find in it what they find in err, and it is a [net.Error] that times
// out if err is one. An error whose text is known to be harmless is returned as it is.
// Of(nil) is nil.
func Of(err error) error {
	if err == nil {
		return nil
	}
	text := textOf(err)
	if text == err.Error() {
		return err
	}
	return &plain{text, err}
}

// Harmless is an error whose text may be told as it is.
type Harmless interface {
	error
	Harmless()
}

type plain struct {
	text string
	err  error
}

func (p *plain) Error() string { return p.text }
func (p *plain) Unwrap() error { return p.err }

// Timeout implements net.Error.
func (p *plain) Timeout() bool {
	var ne net.Error
	return errors.As(p.err, &ne) && ne.Timeout()
}

// Temporary implements net.Error.
func (*plain) Temporary() bool { return false }

// textOf tells only texts that are known to be made of addresses, names of our own
// and fixed words.
func textOf(err error) string {
	var (
		op     *net.OpError
		dns    *net.DNSError
		alert  tls.AlertError
		stream http2.StreamError
		ne     net.Error
		known  Harmless
	)
	text := err.Error()
	switch {
	case errors.As(err, &known):
		return known.Error()
	case errors.As(err, &dns):
		return dns.Error()
	case isTLS(err):
		return Certificate(err, "")
	case errors.As(err, &alert):
		return "TLS: " + alert.Error()
	case errors.As(err, &op):
		return op.Error()
	case errors.As(err, &stream):
		return fmt.Sprintf("stream error: %s", stream.Code)
	}
	for _, phrase := range phrases {
		if strings.Contains(text, phrase) {
			return phrase
		}
	}
	switch {
	case errors.Is(err, context.Canceled):
		return context.Canceled.Error()
	case errors.As(err, &ne) && ne.Timeout():
		return "timed out"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "the connection was closed before the response was complete"
	}
	for code := 400; code < 600; code++ { // net/http makes such a text of what a proxy answers to CONNECT
		if known := http.StatusText(code); known != "" && known == text {
			return "the proxy answers " + known
		}
	}
	return fmt.Sprintf("the request cannot be sent, or the response is not well-formed HTTP, or not of the expected kind (%T)", innermost(err))
}

func innermost(err error) error {
	for {
		next := errors.Unwrap(err)
		if next == nil {
			return err
		}
		err = next
	}
}

// phrases are what net/http, golang.org/x/net/http2 and crypto/tls say in fixed words,
// partly before a quotation.
var phrases = []string{
	"malformed HTTP response",
	"malformed HTTP status code",
	"malformed HTTP version",
	"malformed MIME header: missing colon",
	"malformed MIME header",
	"unexpected EOF reading trailer",
	"suspiciously long trailer after chunked body",
	"bad trailer key",
	"invalid Trailer key",
	"bad Content-Length",
	"invalid empty Content-Length",
	"message cannot contain multiple Content-Length headers",
	"unsupported transfer encoding",
	"too many transfer encodings",
	"malformed chunked encoding",
	"chunked encoding contains too much non-data",
	"chunked line ends with bare LF",
	"invalid CR in chunked line",
	"empty hex number for chunk length",
	"invalid byte in chunk length",
	"http chunk length too large",
	"header line too long",
	"server response headers exceeded",
	"request body too large",
	"with Body length",
	"http: server gave HTTP response to HTTPS client",
	"http: server closed idle connection",
	"http: invalid Read on closed Body",
	"http: read on closed response body",
	"server sent GOAWAY and closed the connection",
	"http2: client connection lost",
	"http2: response header list larger than advertised limit",
	"http2: timeout awaiting response headers",
	"net/http: timeout awaiting response headers",
	"net/http: TLS handshake timeout",
	"net/http: request canceled",
	"first record does not look like a TLS handshake",
	"gzip: invalid header",
	"gzip: invalid checksum",
}

// A certificate is what the other side sends, too. So of one that is not trusted only
// the reason is told, and none of its names.

func isTLS(err error) bool {
	var (
		verification *tls.CertificateVerificationError
		host         x509.HostnameError
		authority    x509.UnknownAuthorityError
		invalid      x509.CertificateInvalidError
	)
	return errors.As(err, &verification) || errors.As(err, &host) || errors.As(err, &authority) || errors.As(err, &invalid)
}

// Certificate returns why a certificate is not trusted. name stands for the host that
// it should be valid for; "" is that host itself.
func Certificate(err error, name string) string {
	const failed = "tls: failed to verify certificate: "
	var (
		host      x509.HostnameError
		authority x509.UnknownAuthorityError
		invalid   x509.CertificateInvalidError
	)
	switch {
	case errors.As(err, &host):
		return failed + "x509: certificate is not valid for " + cmp.Or(name, host.Host)
	case errors.As(err, &authority):
		return failed + "x509: certificate signed by unknown authority"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return failed + x509.CertificateInvalidError{Reason: x509.Expired, Detail: invalid.Detail}.Error()
	case errors.As(err, &invalid):
		if word, ok := reasons[invalid.Reason]; ok {
			return failed + "x509: " + word
		}
	}
	return failed + "x509: the certificate cannot be used"
}

// reasons are why a certificate is invalid, without the names that x509 quotes.
var reasons = map[x509.InvalidReason]string{
	x509.NotAuthorizedToSign:           "certificate is not authorized to sign other certificates",
	x509.CANotAuthorizedForThisName:    "an authority is not authorized to sign for this name",
	x509.TooManyIntermediates:          "too many intermediates for path length constraint",
	x509.IncompatibleUsage:             "certificate specifies an incompatible key usage",
	x509.NameMismatch:                  "issuer name does not match subject from issuing certificate",
	x509.NameConstraintsWithoutSANs:    "issuer has name constraints but leaf doesn't have a SAN extension",
	x509.UnconstrainedName:             "issuer has name constraints but leaf contains unknown or unconstrained name",
	x509.TooManyConstraints:            "too many constraints for one certificate",
	x509.CANotAuthorizedForExtKeyUsage: "an authority is not authorized for this extended key usage",
	x509.NoValidChains:                 "certificate has no valid chain",
}
