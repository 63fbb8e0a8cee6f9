package rig

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"sync"
	"time"
)

// Watch notices changes of what is stored, by looking each millisecond. A change is noticed late, never early.
type Watch struct {
	stop context.CancelFunc
	done chan struct{}

	atEnd func()

	mu      sync.Mutex
	changes []time.Time
	waiting []chan time.Time
}

// Look asks until Stop whether what is stored has changed since it was last asked.
func Look(changed func() bool) *Watch {
	ctx, stop := context.WithCancel(context.Background())
	w := &Watch{stop: stop, done: make(chan struct{})}
	go func() {
		defer close(w.done)
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if changed() {
				w.note(time.Now())
			}
		}
	}()
	return w
}

func (w *Watch) note(at time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.changes = append(w.changes, at)
	for _, c := range w.waiting {
		c <- at // it has room for one
	}
	w.waiting = nil
}

// Stop ends it.
func (w *Watch) Stop() {
	w.stop()
	<-w.done
	if w.atEnd != nil {
		w.atEnd()
	}
	w.atEnd = nil
}

// AtEnd has something done by Stop.
func (w *Watch) AtEnd(f func()) { w.atEnd = f }

// Next gives a channel that the next change is told on.
func (w *Watch) Next() <-chan time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	c := make(chan time.Time, 1)
	w.waiting = append(w.waiting, c)
	return c
}

// Between gives the changes from one moment to another.
func (w *Watch) Between(from, to time.Time) []time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	i := sort.Search(len(w.changes), func(i int) bool { return !w.changes[i].Before(from) })
	j := sort.Search(len(w.changes), func(i int) bool { return w.changes[i].After(to) })
	return append([]time.Time(nil), w.changes[i:max(i, j)]...)
}

// WatchRecord watches the one record of a token below a folder.
func WatchRecord(root string) *Watch {
	path := ""
	var last fs.FileInfo
	return Look(func() bool {
		if path == "" {
			path = findRecord(root)
		}
		now, err := os.Stat(path)
		if err != nil {
			return false
		}
		// The names of inodes and the times are used again, but not both at once.
		same := last != nil && os.SameFile(now, last) && now.ModTime().Equal(last.ModTime()) && now.Size() == last.Size()
		last = now
		return !same
	})
}

// findRecord finds the record; "" while there is none.
func findRecord(root string) string {
	found, _ := filepath.Glob(filepath.Join(root, "token_sources", "*", "*.json"))
	if len(found) == 0 {
		return ""
	}
	return found[0]
}
