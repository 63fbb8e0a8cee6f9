package tokenstore

import (
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"

	"golang.org/x/crypto/chacha20poly1305"
)

// KeySize is the length of an encryption key, in bytes.
const KeySize = 32

// Codec writes records as they are stored, and reads them back. Without a key
// they carry a checksum. With keys they are sealed with XChaCha20-Poly1305: its nonces are long enough to
// be drawn at random by any number of processes. The first key seals, all open,
// so that keys are changed without downtime. The record's name is authenticated
// too: one user's record under another's name does not open.
//
// With keys a record that is not sealed is an [ErrUnsealed]: anybody who can write
// to the store can make one, checksum and all. See
// docs/decisions/0012-records-that-are-not-sealed.md.
type Codec struct {
	first   string // the name of the key that seals; "": records are not sealed
	keys    map[string]cipher.AEAD
	migrate bool // records that are not sealed are read all the same
}

const sealLabel = "caddy-bearer stored token v2"

// NewCodec returns a codec with keys of [KeySize] bytes each, or with none. With
// migrate it reads records that are not sealed, too, for a store that was used
// before there was a key; without keys that is an error.
func NewCodec(keys [][]byte, migrate bool) (*Codec, error) {
	if migrate && len(keys) == 0 {
		return nil, errors.New("records cannot be sealed: expected a storage key")
	}
	s := &Codec{keys: make(map[string]cipher.AEAD, len(keys)), migrate: migrate}
	for i, key := range keys {
		if len(key) != KeySize {
			return nil, fmt.Errorf("storage key %d has %d bytes: expected %d", i+1, len(key), KeySize)
		}
		// Two outputs of one secret that tell nothing of it or of each other.
		derived, err := hkdf.Key(sha256.New, key, nil, sealLabel, chacha20poly1305.KeySize+8)
		if err != nil {
			return nil, fmt.Errorf("storage key %d: %w", i+1, err)
		}
		aead, err := chacha20poly1305.NewX(derived[:chacha20poly1305.KeySize])
		if err != nil {
			return nil, fmt.Errorf("storage key %d: %w", i+1, err)
		}
		name := hex.EncodeToString(derived[chacha20poly1305.KeySize:])
		s.keys[name] = aead
		if i == 0 {
			s.first = name
		}
	}
	return s, nil
}

func (s *Codec) seals() bool { return s.first != "" }

func (s *Codec) seal(name string, inside []byte) (key string, sealed []byte) {
	aead := s.keys[s.first]
	nonce := make([]byte, aead.NonceSize(), aead.NonceSize()+len(inside)+aead.Overhead())
	_, _ = rand.Read(nonce) // never fails
	return s.first, aead.Seal(nonce, nonce, inside, []byte(name))
}

func (s *Codec) open(name, key string, sealed []byte) ([]byte, error) {
	aead, ok := s.keys[key]
	switch {
	case !ok && len(s.keys) == 0:
		return nil, fmt.Errorf("the stored token is sealed, and is %w: expected storage_key to have key %s, but none is set", ErrUnreadable, key)
	case !ok:
		return nil, fmt.Errorf("the stored token is sealed with another key, and is %w: expected storage_key to have key %s among its keys", ErrUnreadable, key)
	case len(sealed) < aead.NonceSize():
		return nil, fmt.Errorf("the stored token is %w: too short", ErrDamaged)
	}
	inside, err := aead.Open(nil, sealed[:aead.NonceSize()], sealed[aead.NonceSize():], []byte(name))
	if err != nil {
		return nil, fmt.Errorf("the stored token is %w: its seal is broken", ErrDamaged)
	}
	return inside, nil
}
