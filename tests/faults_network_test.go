package tests

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/caddy-bearer/caddy-bearer/tests/provider"
)

// authority signs certificates for the tests.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	file        string // in PEM
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "tests"}, NotBefore: time.Now().Add(-48 * time.Hour),
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	a := &authority{certificate, key, filepath.Join(t.TempDir(), "ca.pem")}
	if err := os.WriteFile(a.file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return a
}

// sign gives a certificate for an address and a time, good for a server and for a client.
func (a *authority) sign(t *testing.T, ip string, until time.Time) tls.Certificate {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), NotBefore: time.Now().Add(-24 * time.Hour), NotAfter: until,
		IPAddresses: []net.IP{net.ParseIP(ip)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, &a.key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: a.key}
}

// write puts the authority's certificate and a client's with its key into a folder: ca.pem, tls.crt and tls.key.
func (a *authority) write(t *testing.T, dir string) {
	t.Helper()
	key, err := x509.MarshalPKCS8PrivateKey(a.key)
	if err != nil {
		t.Fatal(err)
	}
	client := a.sign(t, "127.0.0.1", time.Now().Add(time.Hour))
	for name, block := range map[string]*pem.Block{
		"ca.pem":  {Type: "CERTIFICATE", Bytes: a.certificate.Raw},
		"tls.crt": {Type: "CERTIFICATE", Bytes: client.Certificate[0]},
		"tls.key": {Type: "PRIVATE KEY", Bytes: key},
	} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// serve puts a handler behind a certificate for an address and a time.
func (a *authority) serve(t *testing.T, handler http.Handler, ip string, until time.Time) string {
	t.Helper()
	server := httptest.NewUnstartedServer(handler)
	server.TLS = &tls.Config{Certificates: []tls.Certificate{a.sign(t, ip, until)}}
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	t.Cleanup(server.Close)
	return server.URL
}

// TestFault8Certificates: one that is expired, of another host or of an unknown authority ends the call before anything is
// sent, and the log says which it was. A good one shows that the rest is right.
func TestFault8Certificates(t *testing.T) {
	known, unknown := newAuthority(t), newAuthority(t)
	later, earlier := time.Now().Add(time.Hour), time.Now().Add(-time.Hour)
	for name, tt := range map[string]struct {
		signer *authority
		ip     string
		until  time.Time
		says   string
	}{
		"good":       {known, "127.0.0.1", later, ""},
		"expired":    {known, "127.0.0.1", earlier, "certificate has expired"},
		"wrong name": {known, "127.0.0.9", later, "certificate is not valid for 127.0.0.1"},
		"unknown":    {unknown, "127.0.0.1", later, "certificate signed by unknown authority"},
	} {
		pool := "tls_trust_pool file " + known.file
		t.Run(name+" at the token endpoint", func(t *testing.T) {
			p := provider.New(provider.Generic)
			s := newSidecarOf(t, p, setup{
				tokenURL: tt.signer.serve(t, p, tt.ip, tt.until) + "/token",
				grant:    "transport {\n" + pool + "\n}", source: answersAtOnce,
			})
			s.start(t)
			if tt.says == "" {
				s.get(t).wantOK(t)
				return
			}
			if got := s.get(t); got.status != http.StatusServiceUnavailable || got.problem() == "" {
				t.Errorf("status %d: %s", got.status, got.body)
			}
			s.wantLogged(t, tt.says)
			if n, m := p.TokenCount(), p.APICount(); n != 0 || m != 0 {
				t.Errorf("%d token calls and %d API calls", n, m)
			}
		})
		t.Run(name+" at the API", func(t *testing.T) {
			p := provider.New(provider.Generic)
			s := newSidecarOf(t, p, setup{upstream: tt.signer.serve(t, p, tt.ip, tt.until), transport: pool})
			s.start(t)
			if tt.says == "" {
				s.get(t).wantOK(t)
				return
			}
			if got := s.get(t); got.status != http.StatusBadGateway {
				t.Errorf("status %d: %s", got.status, got.body)
			}
			s.wantLogged(t, tt.says)
			if n, m := p.TokenCount(), p.APICount(); n > 1 || m != 0 {
				t.Errorf("%d token calls and %d API calls", n, m)
			}
		})
	}
}

// The ways of a name server.
const (
	resolves = iota // every name is this host's
	unknown         // no name is known
	silent          // no answer comes
)

// nameServer answers DNS queries in one of those ways.
func nameServer(t *testing.T, way *atomic.Int32) string {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	go func() {
		packet := make([]byte, 4096)
		for {
			n, from, err := conn.ReadFrom(packet)
			if err != nil {
				return
			}
			var m dnsmessage.Message
			if m.Unpack(packet[:n]) != nil || way.Load() == silent {
				continue
			}
			m.Header.Response, m.Additionals = true, nil
			question := m.Questions[0]
			switch {
			case way.Load() == unknown:
				m.Header.RCode = dnsmessage.RCodeNameError
			case question.Type == dnsmessage.TypeA:
				m.Answers = []dnsmessage.Resource{{
					Header: dnsmessage.ResourceHeader{Name: question.Name, Type: question.Type, Class: question.Class, TTL: 1},
					Body:   &dnsmessage.AResource{A: [4]byte{127, 0, 0, 1}},
				}}
			}
			if answer, err := m.Pack(); err == nil {
				_, _ = conn.WriteTo(answer, from)
			}
		}
	}()
	return conn.LocalAddr().String()
}

// TestFault9Names: the token endpoint's name is gone, or its name server says nothing. The token is kept; who has none is
// told in time.
func TestFault9Names(t *testing.T) {
	for name, fault := range map[string]int32{"unknown": unknown, "silent": silent} {
		t.Run(name, func(t *testing.T) {
			var way atomic.Int32
			p := provider.New(provider.Generic)
			_, port, err := net.SplitHostPort(hostOf(t, serve(t, p, provider.Whole)))
			if err != nil {
				t.Fatal(err)
			}
			s := newSidecarOf(t, p, setup{
				tokenURL: "http://idp.invalid:" + port + "/token",
				grant:    "allow_http idp.invalid\ntimeout 1s\ntransport {\nresolvers " + nameServer(t, &way) + "\n}",
				source:   alwaysDue + "\nkey user {header.X-User}\nmax_wait 1ms",
			})
			s.start(t)
			get := func(user string) answer {
				return s.call(t, http.MethodGet, "/", http.Header{"X-User": {user}}, "")
			}
			first := get("alice").wantOK(t)
			way.Store(fault)
			eventually(t, "a renewal fails", func() bool {
				if e := get("alice").wantOK(t); e.Serial != first.Serial {
					t.Fatalf("token %d, was %d", e.Serial, first.Serial)
				}
				return s.failures(t) > 0
			})
			if name == "unknown" {
				s.wantLogged(t, "no such host")
			} else {
				get("bob").wantProblem(t, http.StatusServiceUnavailable, "token-unavailable")
			}
			way.Store(resolves)
			eventually(t, "it recovers", func() bool { return get("alice").wantOK(t).Serial > first.Serial })
		})
	}
}

// TestFault8OwnAddress: a token call that is made with a transport of its own goes where token_url says, and not, with the
// client's secret, where the request goes that set it off.
func TestFault8OwnAddress(t *testing.T) {
	var strays atomic.Int32
	api := provider.New(provider.Generic)
	other := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			strays.Add(1)
		}
	}))
	t.Cleanup(other.Close)
	s := newSidecarOf(t, api, setup{upstream: other.URL, grant: "transport {\ndial_timeout 1s\n}", source: answersAtOnce})
	s.start(t)
	if got := s.get(t); got.status != http.StatusOK {
		t.Errorf("status %d: %s", got.status, got.body)
	}
	if n := strays.Load(); n != 0 {
		t.Errorf("%d token calls, with the client's secret, went to the API", n)
	}
}
