package tokensource

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenendpoint"
)

// recordVersion is the format that this release writes. Version 1 had neither
// checksum nor intent, and was never sealed; it is still read.
const recordVersion = 2

// record is what is stored of one key: its token, and who is renewing it. New
// fields go behind a new version, so that an older release can tell that it
// must keep its hands off.
type record struct {
	// Generation counts the renewals; 0: there was no token yet.
	Generation   uint64                `json:"generation"`
	AccessToken  string                `json:"access_token,omitempty"`
	RefreshToken string                `json:"refresh_token,omitempty"`
	TokenType    string                `json:"token_type,omitempty"`
	Issued       time.Time             `json:"issued,omitzero"`
	Expiry       time.Time             `json:"expiry,omitzero"`
	Fields       []tokenendpoint.Field `json:"fields,omitempty"`
	// Renewed is when the token was written, and by whom.
	Renewed *stamp `json:"renewed,omitempty"`

	// Intent is a renewal under way, or one that was cut off.
	Intent *intent `json:"intent,omitempty"`
	// Doubt counts the renewals that were cut off or whose answer did not come:
	// the refresh token may be used up.
	Doubt int `json:"doubt,omitempty"`
	// Codes are hashes of the authorization codes that were sent last: a code is
	// sent once, whatever process it is handed to.
	Codes []string `json:"codes,omitempty"`
	// Pending are keys whose renewals are under way: in a record of its own.
	Pending []pendingKey `json:"pending,omitempty"`
	// Refused is when the refresh token was refused for good: only a person can
	// bring the next.
	Refused *stamp `json:"refused,omitempty"`
}

// stamp says when something was done, and by which process. The time is that
// process's own, for people to read: no decision hangs on it.
type stamp struct {
	At time.Time `json:"at"`
	By string    `json:"by"`
}

// intent says that a process has sent, or is about to send, what may be sent
// once only.
type intent struct {
	// ID tells one renewal from every other.
	ID string `json:"id"`
	stamp
	// Call is what is sent.
	Call Reason `json:"call"`
	// Beat is counted up while the process lives.
	Beat uint64 `json:"beat,omitempty"`
	// Lapse is for how long it must not have changed, in milliseconds by the
	// observer's clock, until the process is taken for dead.
	Lapse int64 `json:"lapse_ms"`
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

// Why a record cannot be used. Damaged ones are set aside; the others are left
// alone, for a release or a key that can read them.
var (
	errUnreadable = errors.New("left alone")
	errDamaged    = errors.New("damaged")
)

// unreadable is a refusal by no provider: waiting does not help, and nothing
// was asked.
type unreadable struct{ err error }

func (e unreadable) Error() string        { return e.err.Error() }
func (e unreadable) Unwrap() error        { return e.err }
func (e unreadable) Is(target error) bool { return target == ErrRefused || target == ErrUnreadable }

// encode writes the record as it is stored under name.
func (s *sealer) encode(name string, r *record) ([]byte, error) {
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

// decode reads what is stored under name. Its errors hold nothing of it.
func (s *sealer) decode(name string, b []byte) (*record, error) {
	var env envelope
	if err := json.Unmarshal(b, &env); err != nil { // it may quote what it read
		return nil, fmt.Errorf("the stored token is %w: not a record", errDamaged)
	}
	switch {
	case env.Version > recordVersion:
		return nil, fmt.Errorf("the stored token was written by a newer release, and is %w: it has version %d, this one reads up to %d",
			errUnreadable, env.Version, recordVersion)
	case env.Version == 1:
		return decodeFirst(b)
	case env.Version != recordVersion:
		return nil, fmt.Errorf("the stored token is %w: no version", errDamaged)
	}
	inside := []byte(env.Record)
	if env.Key != "" {
		var err error
		if inside, err = s.open(name, env.Key, env.Sealed); err != nil {
			return nil, err
		}
	} else {
		var compact bytes.Buffer
		if json.Compact(&compact, inside) != nil || sumOf(name, compact.Bytes()) != env.Sum {
			return nil, fmt.Errorf("the stored token is %w: its checksum does not match", errDamaged)
		}
	}
	var r record
	if err := json.Unmarshal(inside, &r); err != nil {
		return nil, fmt.Errorf("the stored token is %w: its inside is not a record", errDamaged)
	}
	return checked(&r)
}

// decodeFirst reads version 1, whose members lay outside.
func decodeFirst(b []byte) (*record, error) {
	var r record
	if err := json.Unmarshal(b, &r); err != nil {
		return nil, fmt.Errorf("the stored token is %w: not a record", errDamaged)
	}
	if r.Generation < 1 {
		return nil, fmt.Errorf("the stored token is %w: no generation", errDamaged)
	}
	return checked(&r)
}

func checked(r *record) (*record, error) {
	if r.Generation > 0 && !tokenendpoint.ValidToken(r.AccessToken) {
		return nil, fmt.Errorf("the stored token is %w: it could not be put into a header", errDamaged)
	}
	return r, nil
}

// sumOf covers the name, so that a record under another's name is noticed.
func sumOf(name string, inside []byte) string {
	sum := sha256.Sum256(append(appendPart(nil, name), inside...))
	return hex.EncodeToString(sum[:])
}

// by names who wrote the record's token.
func (r *record) by() string {
	if r.Renewed == nil {
		return ""
	}
	return r.Renewed.By
}

// keptCodes is how many codes a record remembers. They are good for ten minutes
// at most (RFC 6749, section 4.1.2).
const keptCodes = 8

// codeHash is how a record remembers a code.
func codeHash(sum [sha256.Size]byte) string { return hex.EncodeToString(sum[:16]) }

// withCode is the record with one more code that was sent, or with one less.
func (r *record) withCode(hash string, sent bool) *record {
	next := *r
	next.Codes = slices.DeleteFunc(slices.Clone(r.Codes), func(c string) bool { return c == hash })
	if sent {
		next.Codes = append(next.Codes, hash)
		next.Codes = next.Codes[max(0, len(next.Codes)-keptCodes):]
	}
	return &next
}

// put fills in what the record says of a token; nil: there is none.
func (r *record) put(t *Token) {
	if t == nil {
		return
	}
	r.Generation, r.AccessToken, r.RefreshToken = t.generation, t.AccessToken(), t.refresh
	r.TokenType, r.Fields = t.tokenType, t.fields
	r.Issued, r.Expiry = t.issued.UTC(), t.expiry.UTC()
}

// token is the record's token; nil: it has none. When it is due is drawn anew
// by each process, so that a fleet does not act at once.
func (r *record) token(now time.Time, ra RefreshAhead, random float64) *Token {
	if r.Generation == 0 {
		return nil
	}
	t := newToken(r.AccessToken, r.RefreshToken)
	t.generation, t.tokenType, t.fields = r.Generation, r.TokenType, r.Fields
	lifetime := time.Duration(0)
	if !r.Expiry.IsZero() {
		lifetime = r.Expiry.Sub(r.Issued)
	}
	// now carries a monotonic reading and the record does not: adding the
	// difference gives the moments one. Where the clocks differ, a token is not
	// younger than new.
	t.live(now.Add(min(r.Issued.Sub(now.Round(0)), 0)), lifetime, ra, random)
	t.orphan.Store(r.Refused != nil)
	if r.Intent != nil && r.Intent.Call != ReasonCode && r.Refused == nil && t.due.After(now) {
		t.due = now // somebody renews it, or was cut off doing so: a renewal finds out which
	}
	return t
}
