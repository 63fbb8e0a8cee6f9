package caddymodule

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

func writeFile(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestLiveFile: what is read is what is there, and what was there while a new one
// is on its way.
func TestLiveFile(t *testing.T) {
	name := filepath.Join(t.TempDir(), "secret")
	read := func(want string) {
		t.Helper()
		if got, err := readLiveFile(name); err != nil || got != want {
			t.Errorf("%q, %v, want %q", got, err, want)
		}
	}
	if _, err := readLiveFile(name); err == nil {
		t.Error("a file that was never there is read")
	}
	writeFile(t, name, "one\n")
	read("one")
	writeFile(t, name, "two")
	read("two")
	writeFile(t, name, "")
	read("two")
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
	read("two")
}

// TestWatchFiles notices a file that is written, renamed over, or behind a
// symbolic link that is replaced, and nothing that leaves the contents alone.
func TestWatchFiles(t *testing.T) {
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	for _, version := range []string{"..v1", "..v2"} {
		if err := os.Mkdir(path(version), 0o700); err != nil {
			t.Fatal(err)
		}
		writeFile(t, filepath.Join(path(version), "token"), "of "+version)
	}
	link := func(to string) {
		t.Helper()
		if err := os.Symlink(to, path("..tmp")); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path("..tmp"), path("..data")); err != nil {
			t.Fatal(err)
		}
	}
	link("..v1")
	if err := os.Symlink(filepath.Join("..data", "token"), path("token")); err != nil {
		t.Fatal(err)
	}
	writeFile(t, path("plain"), "a")
	writeFile(t, path("renamed"), "a")
	writeFile(t, path("other"), "a")
	files := []string{path("token"), path("plain"), path("renamed"), path("other"), path("not yet")}
	ctx, cancel := context.WithCancel(t.Context())
	changes, done := make(chan []string, 100), make(chan struct{})
	watch := newFileWatch(files)
	go func() {
		defer close(done)
		watch.run(ctx, func(names []string) { changes <- names })
	}()
	defer func() { cancel(); <-done }()
	want := func(name string) {
		t.Helper()
		select {
		case names := <-changes:
			if !slices.Equal(names, []string{path(name)}) {
				t.Errorf("%s changed, and %v is told", name, names)
			}
		case <-time.After(2 * time.Minute):
			t.Fatalf("that %s changed is not noticed", name)
		}
	}
	writeFile(t, path("plain"), "b")
	want("plain")
	writeFile(t, path("new"), "c")
	if err := os.Rename(path("new"), path("renamed")); err != nil {
		t.Fatal(err)
	}
	want("renamed")
	link("..v2")
	want("token")
	if err := os.Chtimes(path("other"), time.Now(), time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	writeFile(t, path("not yet"), "d")
	want("not yet")
}

// TestLiveCertificate: the client certificate is that of the files, and the last
// one while they do not fit each other.
func TestLiveCertificate(t *testing.T) {
	dir := t.TempDir()
	certFile, keyFile := filepath.Join(dir, "cert"), filepath.Join(dir, "key")
	write := func(serial int64) (cert, key string) {
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
	cert, key := write(1)
	writeFile(t, certFile, cert)
	writeFile(t, keyFile, key)
	first, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		t.Fatal(err)
	}
	cfg := &tls.Config{Certificates: []tls.Certificate{first}}
	withLiveCertificate(cfg, certFile, keyFile)
	serial := func(want int64) {
		t.Helper()
		got, err := cfg.GetClientCertificate(nil)
		if err != nil {
			t.Fatal(err)
		}
		leaf, err := x509.ParseCertificate(got.Certificate[0])
		if err != nil || leaf.SerialNumber.Int64() != want {
			t.Errorf("certificate %v, %v, want %d", leaf.SerialNumber, err, want)
		}
	}
	serial(1)
	cert, key = write(2)
	writeFile(t, certFile, cert) // the key is still the first one's
	serial(1)
	writeFile(t, keyFile, key)
	serial(2)
}
