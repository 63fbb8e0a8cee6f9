package caddymodule

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"maps"
	"os"
	"slices"
	"sync"
	"time"
)

// Some files are replaced while Caddy runs: rotated secrets, tokens that Kubernetes
// projects, client certificates. They are read for each call, so that no reload is
// needed. If a file cannot be read, because it is just being replaced, its last
// content counts.

// liveFiles holds the last good content of all files that were read, by name.
var liveFiles struct {
	mu    sync.Mutex
	texts map[string]string
}

// readLiveFile returns the secret in a file. If the file cannot be read now, it
// returns the last content. It returns an error if the file could never be read.
func readLiveFile(name string) (string, error) {
	text, err := readSecretFile(name)
	liveFiles.mu.Lock()
	defer liveFiles.mu.Unlock()
	if err != nil {
		if last, ok := liveFiles.texts[name]; ok {
			return last, nil
		}
		return "", err
	}
	if liveFiles.texts == nil {
		liveFiles.texts = make(map[string]string)
	}
	liveFiles.texts[name] = text
	return text, nil
}

// liveCertificate returns a client certificate whose files are read at each
// handshake. first is what they held when the config was loaded.
func liveCertificate(certFile, keyFile string, first tls.Certificate) func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	var mu sync.Mutex
	last := &first
	return func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		mu.Lock()
		defer mu.Unlock()
		if next, err := tls.LoadX509KeyPair(certFile, keyFile); err == nil { // else one of the two is not replaced yet
			last = &next
		}
		return last, nil
	}
}

// withLiveCertificate makes a TLS configuration of Caddy's read its client
// certificate from the files at each handshake.
func withLiveCertificate(cfg *tls.Config, certFile, keyFile string) {
	if cfg == nil || certFile == "" || keyFile == "" || len(cfg.Certificates) != 1 {
		return
	}
	cfg.GetClientCertificate = liveCertificate(certFile, keyFile, cfg.Certificates[0])
	cfg.Certificates = nil
}

// watchEvery is how often files are checked. Polling also notices changes that a
// watch on a file or folder may miss: Kubernetes replaces a symbolic link to a
// folder, and network file systems report nothing.
const watchEvery = 500 * time.Millisecond

// fileWatch is a watch on files, by what they were when they were last checked.
type fileWatch map[string]fileState

// newFileWatch checks the files for the first time.
func newFileWatch(names []string) fileWatch {
	w := make(fileWatch, len(names))
	for _, name := range names {
		w[name] = lookAt(name, fileState{})
	}
	return w
}

// run calls changed when the content of a file has changed, until ctx ends.
func (w fileWatch) run(ctx context.Context, changed func(names []string)) {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		var other []string
		for name, was := range w {
			now := lookAt(name, was)
			w[name] = now
			if now.sum != was.sum {
				other = append(other, name)
			}
		}
		if len(other) > 0 {
			slices.Sort(other)
			changed(other)
		}
	}
}

// fileState is the state of a file when it was last checked.
type fileState struct {
	info os.FileInfo
	sum  [sha256.Size]byte
}

// lookAt reads a file if it may have changed. If it cannot be read, its state stays.
func lookAt(name string, was fileState) fileState {
	info, err := os.Stat(name)
	if err != nil {
		return was
	}
	if was.info != nil && os.SameFile(was.info, info) && was.info.ModTime().Equal(info.ModTime()) && was.info.Size() == info.Size() {
		return was
	}
	b, err := os.ReadFile(name)
	if err != nil || len(b) == 0 {
		return was
	}
	return fileState{info, sha256.Sum256(b)}
}

// fileList is a set of file names.
type fileList map[string]bool

func (l fileList) add(names ...string) {
	for _, name := range names {
		if name != "" {
			l[name] = true
		}
	}
}

func (l fileList) names() []string { return slices.Sorted(maps.Keys(l)) }
