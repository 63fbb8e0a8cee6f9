package tokensource_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-bearer/caddy-bearer/tokensource/internal/wiretest"
	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenendpoint"
)

// certificate is a self-signed one for 127.0.0.1, until a time.
func certificate(t *testing.T, until time.Time) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: until.Add(-time.Hour), NotAfter: until,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}

// docs/faults.md, fault 8: nothing is sent to whoever cannot prove to be the endpoint,
// and the error says what is wrong.
func TestTLSFailsClosed(t *testing.T) {
	good, trust := certificate(t, time.Now().Add(time.Hour))
	old, trustOld := certificate(t, time.Now().Add(-time.Minute))
	for name, c := range map[string]struct {
		certificate tls.Certificate
		trust       *x509.CertPool
		host        string
		says        string // empty: it works
	}{
		"trusted":    {good, trust, "127.0.0.1", ""},
		"unknown CA": {good, x509.NewCertPool(), "127.0.0.1", "unknown authority"},
		"wrong name": {good, trust, "localhost", "localhost"},
		"expired":    {old, trustOld, "127.0.0.1", "expired"},
	} {
		t.Run(name, func(t *testing.T) {
			var hits atomic.Int32
			srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				hits.Add(1)
				_, _ = io.WriteString(w, `{"access_token":"a"}`)
			}))
			srv.Config.ErrorLog = log.New(io.Discard, "", 0)
			srv.TLS = &tls.Config{Certificates: []tls.Certificate{c.certificate}}
			srv.StartTLS()
			defer srv.Close()
			transport := tokenendpoint.NewTransport()
			transport.TLSClientConfig = &tls.Config{RootCAs: c.trust}
			_, port, err := net.SplitHostPort(srv.Listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			ep := &tokenendpoint.Endpoint{URL: wiretest.Literal("https://" + net.JoinHostPort(c.host, port)), Transport: transport}
			if c.says == "" {
				wiretest.MustCall(t, ep)
				return
			}
			if ee := wiretest.MustFail(t, ep); !strings.Contains(ee.Error(), c.says) || !strings.Contains(ee.Error(), "x509") {
				t.Errorf("%v: want an x509 error that says %q", ee, c.says)
			}
			if hits.Load() > 0 {
				t.Error("the request got through")
			}
		})
	}
}
