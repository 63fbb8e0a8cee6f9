package tokenstore

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"
)

// recordVersion is the format that this release writes. Version 1 had neither
// checksum nor lease, and was never sealed; it is still read.
const recordVersion = 2

// Record is what is stored of one key: its token, and who is renewing it. New
// fields go behind a new version, so that an older release can tell that it
// must keep its hands off.
type Record struct {
	// Generation counts the renewals; 0: there was no token yet.
	Generation   uint64    `json:"generation"`
	AccessToken  string    `json:"access_token,omitempty"`
	RefreshToken string    `json:"refresh_token,omitempty"`
	TokenType    string    `json:"token_type,omitempty"`
	Issued       time.Time `json:"issued,omitzero"`
	Expiry       time.Time `json:"expiry,omitzero"`
	Fields       []Field   `json:"fields,omitempty"`
	// Lacks are members that were looked for and that the response had not. A
	// release that drops them costs one renewal, and so they need no new version.
	Lacks []string `json:"lacks,omitempty"`
	// Renewed is when the token was written, and by whom.
	Renewed *Stamp `json:"renewed,omitempty"`

	// Lease is held by the renewal under way, or was left by one that was cut off.
	Lease *Lease `json:"intent,omitempty"`
	// Doubt counts the renewals that were cut off or whose response did not come:
	// the refresh token may be used up.
	Doubt int `json:"doubt,omitempty"`
	// Codes are hashes of the authorization codes that were sent last: a code is
	// sent once, whatever process it is handed to.
	Codes []string `json:"codes,omitempty"`
	// Notes are the keys whose renewals are under way. They are in records of
	// their own.
	Notes []Note `json:"pending,omitempty"`
	// Refused is when the refresh token was refused for good: only a person can
	// bring the next.
	Refused *Stamp `json:"refused,omitempty"`
}

// Field is one named value of the response that the token came in.
type Field struct{ Name, Value string }

// Note says that a key's renewal is under way.
type Note struct {
	// Key holds the key's values, encoded.
	Key []byte    `json:"key"`
	At  time.Time `json:"at"`
}

// Stamp says when something was done, and by which process. The time is that
// process's own, for people to read: no decision hangs on it.
type Stamp struct {
	At time.Time `json:"at"`
	By string    `json:"by"`
}

// Lease says that a process has sent, or is about to send, what may be sent
// only once. See docs/decisions/0008-renewal-in-a-fleet.md.
type Lease struct {
	// ID tells one renewal from every other.
	ID string `json:"id"`
	Stamp
	// Call is why the token is renewed.
	Call string `json:"call"`
	// Heartbeat is counted up while the process lives.
	Heartbeat uint64 `json:"beat,omitempty"`
	// TTL is for how long the lease must not have changed, in milliseconds by the
	// observer's clock, until its holder is taken for dead.
	TTL int64 `json:"lapse_ms"`
}

// envelope is a record's outside: how it is to be read.
type envelope struct {
	Version int `json:"version"`
	// Sum is the SHA-256 of the record's name and the record, in hexadecimal.
	Sum    string          `json:"sum,omitempty"`
	Record json.RawMessage `json:"record,omitempty"`
	// Key names the key that sealed the record; Sealed is nonce and ciphertext.
	Key    string `json:"key,omitempty"`
	Sealed []byte `json:"sealed,omitempty"`
}

// Why a record cannot be used.
var (
	// ErrUnreadable: it is for another release or key to read, and is left alone.
	ErrUnreadable = errors.New("left alone")
	// ErrDamaged: nobody can read it any more. It is set aside.
	ErrDamaged = errors.New("damaged")
	// ErrUnsealed: there are keys, and it is sealed with none. It may be forged, or
	// be from before there was a key: so it is not used, and what becomes of it is
	// for the reader to decide.
	ErrUnsealed = errors.New("not sealed")
)

// Encode writes the record as it is stored under name.
func (s *Codec) Encode(name string, r *Record) ([]byte, error) {
	inside, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	env := envelope{Version: recordVersion}
	if s.seals() {
		env.Key, env.Sealed = s.seal(name, inside)
	} else {
		env.Sum, env.Record = sumOf(name, inside), inside
	}
	return json.Marshal(env)
}

// Decode reads what is stored under name. Its errors hold nothing of it.
func (s *Codec) Decode(name string, b []byte) (*Record, error) {
	r, _, err := s.decode(name, b)
	return r, err
}

// decode is Decode. unsealed: there are keys, and the record is sealed with none.
func (s *Codec) decode(name string, b []byte) (r *Record, unsealed bool, err error) {
	var env envelope
	if err := json.Unmarshal(b, &env); err != nil { // it may quote what it read
		return nil, false, fmt.Errorf("the stored token is %w: not a record", ErrDamaged)
	}
	switch {
	case env.Version > recordVersion:
		return nil, false, fmt.Errorf("the stored token was written by a newer release, and is %w: it has version %d, this one reads up to %d",
			ErrUnreadable, env.Version, recordVersion)
	case env.Version < 1:
		return nil, false, fmt.Errorf("the stored token is %w: no version", ErrDamaged)
	}
	// Version 1 was never sealed, whatever members it has.
	unsealed = s.seals() && (env.Version == 1 || env.Key == "")
	switch {
	case unsealed && !s.migrate: // before anything in it is looked at: a checksum is no proof
		return nil, true, fmt.Errorf("the stored token is %w, and is not used because storage_key is set: "+
			"expected `migrate` in storage_key if the record is from before there was a key, or else its removal", ErrUnsealed)
	case env.Version == 1:
		r, err = decodeFirst(b)
	default:
		r, err = s.decodeSecond(name, &env)
	}
	return r, unsealed, err
}

// decodeSecond reads version 2, sealed or not.
func (s *Codec) decodeSecond(name string, env *envelope) (*Record, error) {
	inside := []byte(env.Record)
	if env.Key != "" {
		var err error
		if inside, err = s.open(name, env.Key, env.Sealed); err != nil {
			return nil, err
		}
	} else {
		var compact bytes.Buffer
		if json.Compact(&compact, inside) != nil || sumOf(name, compact.Bytes()) != env.Sum {
			return nil, fmt.Errorf("the stored token is %w: its checksum does not match", ErrDamaged)
		}
	}
	var r Record
	if err := json.Unmarshal(inside, &r); err != nil {
		return nil, fmt.Errorf("the stored token is %w: its inside is not a record", ErrDamaged)
	}
	return &r, nil
}

// decodeFirst reads version 1, whose members lay outside.
func decodeFirst(b []byte) (*Record, error) {
	var r Record
	if err := json.Unmarshal(b, &r); err != nil {
		return nil, fmt.Errorf("the stored token is %w: not a record", ErrDamaged)
	}
	if r.Generation < 1 {
		return nil, fmt.Errorf("the stored token is %w: no generation", ErrDamaged)
	}
	return &r, nil
}

// sumOf covers the name, so that a record under another's name is noticed.
func sumOf(name string, inside []byte) string {
	b := binary.AppendUvarint(nil, uint64(len(name)))
	sum := sha256.Sum256(append(append(b, name...), inside...))
	return hex.EncodeToString(sum[:])
}

// Writer names who wrote the record's token.
func (r *Record) Writer() string {
	if r.Renewed == nil {
		return ""
	}
	return r.Renewed.By
}

// maxCodes is how many codes a record remembers. They are good for ten minutes
// at most (RFC 6749, section 4.1.2).
const maxCodes = 8

// CodeHash is how a record remembers a code.
func CodeHash(sum [sha256.Size]byte) string { return hex.EncodeToString(sum[:16]) }

// WithCode is the record with one more code that was sent, or with one less.
func (r *Record) WithCode(hash string, sent bool) *Record {
	next := *r
	next.Codes = slices.DeleteFunc(slices.Clone(r.Codes), func(c string) bool { return c == hash })
	if sent {
		next.Codes = append(next.Codes, hash)
		next.Codes = next.Codes[max(0, len(next.Codes)-maxCodes):]
	}
	return &next
}
