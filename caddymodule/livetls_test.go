package caddymodule

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// newPair makes a certificate that signs itself, and its key, both in PEM.
func newPair(t *testing.T, serial int64) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(serial), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	k, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: k}))
}

// TestLiveTLS: the client certificate and the authorities are those of the files.
// While the files do not fit each other, the last ones stay, and that is told once.
func TestLiveTLS(t *testing.T) {
	dir := t.TempDir()
	certFile, keyFile, caFile := filepath.Join(dir, "cert"), filepath.Join(dir, "key"), filepath.Join(dir, "ca")
	cert, key := newPair(t, 1)
	ca, _ := newPair(t, 2)
	writeFile(t, certFile, cert)
	writeFile(t, keyFile, key)
	writeFile(t, caFile, ca)
	settings := &reverseproxy.TLSConfig{
		ClientCertificateFile: certFile, ClientCertificateKeyFile: keyFile,
		CARaw: json.RawMessage(fmt.Sprintf(`{"provider": "combined", "sources": [{"provider": "file", "pem_files": [%q]}]}`, caFile)),
	}
	synctest.Test(t, func(t *testing.T) {
		caddyCtx, cancelCaddy := caddy.NewContext(caddy.Context{Context: t.Context()})
		defer cancelCaddy()
		live, err := newLiveTLS(caddyCtx, settings, func(ctx caddy.Context) (*tls.Config, error) {
			return copyTLS(settings).MakeTLSClientConfig(ctx)
		})
		if err != nil {
			t.Fatal(err)
		}
		var log bytes.Buffer
		replaced := 0
		ctx, stop := context.WithCancel(t.Context())
		go live.run(ctx, slog.New(slog.NewTextHandler(&log, nil)), func(*tls.Config) { replaced++ })
		// want looks after some checks.
		want := func(serial int64, ca string, replacements int) {
			t.Helper()
			time.Sleep(3 * watchEvery)
			synctest.Wait()
			leaf, err := x509.ParseCertificate(live.get().Certificates[0].Certificate[0])
			if err != nil || leaf.SerialNumber.Int64() != serial {
				t.Errorf("certificate %v, %v; want %d", leaf.SerialNumber, err, serial)
			}
			pool := x509.NewCertPool()
			pool.AppendCertsFromPEM([]byte(ca))
			if !pool.Equal(live.get().RootCAs) {
				t.Error("the authorities are not those of the file")
			}
			if replaced != replacements {
				t.Errorf("%d replacements; want %d", replaced, replacements)
			}
		}
		want(1, ca, 0)

		nextCert, nextKey := newPair(t, 3)
		writeFile(t, certFile, nextCert) // the key is still the first one's
		want(1, ca, 0)
		if n := strings.Count(log.String(), "what they held before still counts"); n != 1 {
			t.Errorf("told %d times:\n%s", n, log.String())
		}
		writeFile(t, keyFile, nextKey)
		want(3, ca, 1)

		nextCA, _ := newPair(t, 4)
		writeFile(t, caFile, nextCA)
		want(3, nextCA, 2)
		writeFile(t, caFile, "no certificate\n-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
		want(3, nextCA, 2)
		writeFile(t, caFile, ca)
		want(3, ca, 3)
		stop()
		synctest.Wait()
	})
}

// TestTLSFiles: every file is watched that Caddy reads for TLS settings.
func TestTLSFiles(t *testing.T) {
	for name, tt := range map[string]struct {
		settings *reverseproxy.TLSConfig
		want     []string
	}{
		"none":   {nil, nil},
		"empty":  {&reverseproxy.TLSConfig{}, nil},
		"client": {&reverseproxy.TLSConfig{ClientCertificateFile: "a", ClientCertificateKeyFile: "b"}, []string{"a", "b"}},
		//lint:ignore SA1019 a config may still use it
		"deprecated":    {&reverseproxy.TLSConfig{RootCAPEMFiles: []string{"a", "b"}}, []string{"a", "b"}},
		"pool":          {&reverseproxy.TLSConfig{CARaw: []byte(`{"provider": "file", "pem_files": ["a", "b"]}`)}, []string{"a", "b"}},
		"no file":       {&reverseproxy.TLSConfig{CARaw: []byte(`{"provider": "inline", "trusted_ca_certs": ["a"]}`)}, nil},
		"wrong":         {&reverseproxy.TLSConfig{CARaw: []byte(`[]`)}, nil},
		"in others":     {&reverseproxy.TLSConfig{CARaw: []byte(`{"provider": "combined", "sources": [{"provider": "inline"}, {"provider": "combined", "sources": [{"provider": "file", "pem_files": ["a"]}]}]}`)}, []string{"a"}},
		"of a stranger": {&reverseproxy.TLSConfig{CARaw: []byte(`{"provider": "ours", "pem_files": ["a"]}`)}, nil},
	} {
		if got := tlsFiles(tt.settings); !slices.Equal(got, tt.want) {
			t.Errorf("%s: %q; want %q", name, got, tt.want)
		}
	}
}
