package tokensource

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"time"
)

// Store keeps a source's records, for one process or for many that share it.
// Keys are hexadecimal hashes and a slash; values are opaque. See
// docs/decisions/0008-renewal-in-a-fleet.md for what hangs on it.
type Store interface {
	// Load returns the value under key. An error that is [fs.ErrNotExist] says
	// that there is none, and that the store has just shown that it answers:
	// an engine that is down must not look empty.
	Load(ctx context.Context, key string) ([]byte, error)
	// Swap replaces the value under key if it is old, which is what Load gave;
	// nil: if there is none. [ErrConflict] says that something else is there,
	// and that nothing was changed. After any other error the value may or may
	// not have been written. It returns when the value is durable: a token is
	// used only after that.
	Swap(ctx context.Context, key string, old, value []byte) error
}

// ErrConflict is a Store's answer when another process was faster.
var ErrConflict = errors.New("the stored value has changed")

// LivenessStore is a Store that may know whether a process that shares it
// still runs, so that what a dead one left behind is cleared up at once.
type LivenessStore interface {
	Store
	// Instance names this process to the others, for as long as it lives.
	Instance() string
	// Dead reports whether the process of that name surely runs no more. When
	// it cannot be known, it does not.
	Dead(ctx context.Context, instance string) bool
}

// recordVersion is the format that this release writes.
const recordVersion = 1

// record is a token as it is stored. Fields of later formats go behind a new
// version, so that an older release can tell that it must keep its hands off.
type record struct {
	Version      int       `json:"version"`
	Generation   uint64    `json:"generation"`
	AccessToken  string    `json:"access_token"`
	RefreshToken string    `json:"refresh_token,omitempty"`
	TokenType    string    `json:"token_type,omitempty"`
	Issued       time.Time `json:"issued"`
	Due          time.Time `json:"due,omitzero"`
	Expiry       time.Time `json:"expiry,omitzero"`
	Fields       []Field   `json:"fields,omitempty"`
}

func (t *Token) record() ([]byte, error) {
	return json.Marshal(record{
		Version:      recordVersion,
		Generation:   t.generation,
		AccessToken:  t.AccessToken(),
		RefreshToken: t.refresh,
		TokenType:    t.tokenType,
		Issued:       t.issued.UTC(),
		Due:          t.due.UTC(),
		Expiry:       t.expiry.UTC(),
		Fields:       t.fields,
	})
}

// errNewerRecord: a later release wrote the record; it is left alone.
var errNewerRecord = errors.New("the stored token was written by a newer release")

func tokenFromRecord(b []byte, now time.Time) (*Token, error) {
	var r record
	if err := json.Unmarshal(b, &r); err != nil {
		// encoding/json's errors may quote what they read
		return nil, errors.New("the stored token is not a record")
	}
	switch {
	case r.Version > recordVersion:
		return nil, fmt.Errorf("%w: version %d, this one reads up to %d", errNewerRecord, r.Version, recordVersion)
	case r.Version < 1 || r.Generation < 1 || !injectable(r.AccessToken):
		return nil, errors.New("the stored token is damaged")
	}
	t := newToken(r.AccessToken, r.RefreshToken)
	t.generation, t.tokenType, t.fields = r.Generation, r.TokenType, r.Fields
	// now carries a monotonic reading and the record does not: adding the
	// difference gives the moments one.
	t.issued = now.Add(r.Issued.Sub(now.Round(0)))
	if !r.Expiry.IsZero() {
		t.expiry = now.Add(r.Expiry.Sub(now.Round(0)))
		t.due = now.Add(r.Due.Sub(now.Round(0)))
	}
	return t, nil
}

// recordKey names the record of one key. What the token belongs to (the
// endpoint, the client) is part of the name: with other settings it is
// another record, and putting the settings back brings the token back.
func (s *Source) recordKey(k Key) string {
	return s.recordPrefix + "/" + hashParts(k.encoded)
}

// load reads the stored token; nil and no error means that there is none.
func (s *Source) load(ctx context.Context, e *entry) (*Token, error) {
	if s.cfg.Store == nil {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	name := s.recordKey(e.key)
	b, err := s.cfg.Store.Load(ctx, name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the stored token: %w", err)
	}
	t, err := tokenFromRecord(b, time.Now())
	if err == nil {
		return t, nil
	}
	if errors.Is(err, errNewerRecord) {
		return nil, err
	}
	// Set aside, for a person to look at; what follows may overwrite it.
	sum := sha256.Sum256(b)
	e.mu.Lock()
	known := e.setAside == sum
	e.setAside = sum
	e.mu.Unlock()
	if known {
		return nil, nil
	}
	s.log.Error("stored token set aside", "source", s.cfg.Name, "key", e.key.String(), "error", err)
	if err := s.swap(ctx, name+".corrupt", b); err != nil {
		return nil, fmt.Errorf("setting a damaged record aside: %w", err)
	}
	return nil, nil
}

// save writes the token. The end of ctx does not cut it off: by then the
// provider has given the token, and may give no other.
func (s *Source) save(ctx context.Context, e *entry, t *Token) error {
	if s.cfg.Store == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTimeout)
	defer cancel()
	b, err := t.record()
	if err != nil {
		return fmt.Errorf("writing the token: %w", err)
	}
	if err := s.swap(ctx, s.recordKey(e.key), b); err != nil {
		return fmt.Errorf("writing the token: %w", err)
	}
	return nil
}

// swap writes over whatever is there.
func (s *Source) swap(ctx context.Context, name string, value []byte) error {
	old, err := s.cfg.Store.Load(ctx, name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return s.cfg.Store.Swap(ctx, name, old, value)
}

// storeTimeout bounds one call of the store within a renewal.
const storeTimeout = 10 * time.Second
