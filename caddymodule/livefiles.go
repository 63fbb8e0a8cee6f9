package caddymodule

import (
	"context"
	"crypto/sha256"
	"maps"
	"os"
	"slices"
	"sync"
	"time"
)

// Some files are replaced while Caddy runs: rotated secrets, tokens that Kubernetes
// projects. They are read for each call, so that no reload is needed. If a file cannot
// be read, because it is just being replaced, its last content counts. TLS files are
// watched; see liveTLS.

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

// run calls changed when the content of a file has changed, until ctx ends. After an
// error it calls it again at the next check.
func (w fileWatch) run(ctx context.Context, changed func(names []string) error) {
	if len(w) == 0 {
		return
	}
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		other := make(fileWatch)
		for name, was := range w {
			now := lookAt(name, was)
			w[name] = now
			if now.sum != was.sum {
				other[name] = was
			}
		}
		if len(other) > 0 && changed(slices.Sorted(maps.Keys(other))) != nil {
			maps.Copy(w, other)
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
