package tokensource

import (
	"context"
	"errors"
	"hash/fnv"
	"strconv"
	"sync"
	"time"

	"github.com/caddy-bearer/caddy-bearer/internal/sleep"
	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenstore"
)

// A keyed source has too many records to look through at the start, and a
// renewal that was cut off must not wait until its key is next used: some
// providers take the old refresh token for seconds only. So before a lease
// is written, its key is noted in one of a few records beside the others, which
// all processes share and each reads at its start.

const (
	// pendingShards is how many there are: processes that renew other keys should
	// not be in each other's way.
	pendingShards = 16
	// pendingKept is how long a note stays that nobody takes away.
	pendingKept = time.Hour
)

// finished are keys whose notes this process may take away: that is done with
// the next one, in the same write.
type finished struct {
	mu   sync.Mutex
	keys map[Key]bool
}

func (f *finished) add(k Key) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.keys == nil {
		f.keys = make(map[Key]bool)
	}
	f.keys[k] = true
}

func (f *finished) has(k Key) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.keys[k]
}

func (f *finished) drop(keys []Key) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, k := range keys {
		delete(f.keys, k)
	}
}

// notesPending reports whether renewals are noted: where a key's refresh token
// is worth a person.
func (s *Source) notesPending() bool {
	return s.table != nil && s.store != nil && s.grant.Interactive && s.grant.Refreshable
}

func (s *Source) pendingName(shard int) string {
	return s.recordPrefix + "/" + hashParts("pending", strconv.Itoa(shard))
}

func shardOf(k Key) int {
	h := fnv.New32a()
	_, _ = h.Write([]byte(k.encoded))
	return int(h.Sum32() % pendingShards)
}

// notePending writes down that the key is about to be renewed. The error is of
// the store.
func (s *Source) notePending(ctx context.Context, k Key) error {
	shard := shardOf(k)
	name := s.pendingName(shard)
	select { // of this process's renewals one at a time: they would only be in each other's way
	case s.noting[shard] <- struct{}{}:
		defer func() { <-s.noting[shard] }()
	case <-ctx.Done():
		return ctx.Err()
	}
	for range maxConflicts {
		raw, notes, err := s.readPending(ctx, name)
		if err != nil {
			return err
		}
		now := time.Now().UTC()
		kept := []tokenstore.Note{{Key: []byte(k.encoded), At: now}}
		var gone []Key
		for _, note := range notes {
			switch other := (Key{string(note.Key)}); {
			case other == k:
			case s.finished.has(other):
				gone = append(gone, other)
			case now.Sub(note.At) < pendingKept:
				kept = append(kept, note)
			}
		}
		_, err = s.store.Write(ctx, name, raw, &tokenstore.Record{Notes: kept})
		if errors.Is(err, tokenstore.ErrConflict) {
			continue
		}
		if err == nil {
			s.finished.drop(append(gone, k))
		}
		return storeFailed(err)
	}
	return errConflicts
}

// readPending reads a shard's notes. One that is damaged, or not sealed, has none:
// notes only say where to look, and are written over.
func (s *Source) readPending(ctx context.Context, name string) (raw []byte, notes []tokenstore.Note, err error) {
	r, raw, err := s.store.Read(ctx, name)
	switch {
	case errors.Is(err, tokenstore.ErrDamaged), errors.Is(err, tokenstore.ErrUnsealed):
		if s.warned.first("notes " + name) {
			s.log.Error("stored notes are not used", "source", s.cfg.Name, "record", name, "error", err)
		}
		return raw, nil, nil
	case err != nil || r == nil:
		return nil, nil, storeFailed(err)
	}
	return raw, r.Notes, nil
}

// resumePending looks at the start for renewals that were cut off, and sees to
// each. It goes on until the store answers, or the source is closed.
func (s *Source) resumePending() {
	for shard := range pendingShards {
		notes, err := s.waitForPending(shard)
		if err != nil {
			if s.life.Err() == nil {
				s.log.Error("renewals that were cut off cannot be looked up", "source", s.cfg.Name, "error", err)
			}
			return
		}
		for _, note := range notes {
			e, err := s.entry(Key{string(note.Key)}, time.Now())
			if err != nil {
				continue // of a source of this name that had other keys
			}
			e.mu.Lock()
			if e.flight == nil && !e.evicted && e.tok == nil {
				s.launch(s.life, e, reasonResume, nil, (*renewal).look)
			}
			e.mu.Unlock()
		}
	}
}

func (s *Source) waitForPending(shard int) ([]tokenstore.Note, error) {
	for {
		_, notes, err := s.readPending(s.life, s.pendingName(shard))
		if !ofStore(err) {
			return notes, err
		}
		if err := sleep.For(s.life, storeRetryMax); err != nil {
			return nil, err
		}
	}
}
