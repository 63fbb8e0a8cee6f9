package tokenstore_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenstore"
)

func key(fill byte) []byte { return bytes.Repeat([]byte{fill}, tokenstore.KeySize) }

func newCodec(t *testing.T, migrate bool, keys ...[]byte) *tokenstore.Codec {
	t.Helper()
	c, err := tokenstore.NewCodec(keys, migrate)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

const name = "aa/bb"

// stored is what the records below hold.
var stored = &tokenstore.Record{
	Generation: 3, AccessToken: "canary-access", RefreshToken: "canary-refresh", TokenType: "Bearer",
	Issued: time.Unix(1.7e9, 0).UTC(), Expiry: time.Unix(1.7e9+3600, 0).UTC(), Codes: []string{"c0de"},
}

// Records as the releases before wrote them, under name. They stay readable.
const (
	sealedRecord = `{"version":2,"key":"2c76bb6e6d6cacd2","sealed":"XyyE8yehCWAsTWluzg9jrUHMi5R8DqYt8csf/3cd3wJ/rFcUm6BGuILmze+qcCxsGnTYe1qEUmEdV8z5AGdEmLOJpkQfU0TFsijzWejYNr9MFtQEHJakEcGv+uABqvzGQc67q8aqAwG/A5uL6gR2ybjOjtqr0Z5JkpTS+0JLfbcioHVZGLawN8ZfruE234LiBURAZFY28z6qeQnMYiI+kQBUTcHrKaYO9qzPJmJKREmIypPt3p6RUCx187fLasZRm2Zd8Ox1CFLlQIdp8ySeXS9xuYrGpPgTD1Y9awWE/Q=="}`
	plainRecord  = `{"version":2,"sum":"dbfca07083be787a71899a2e83928b8fe23837d22560ba809c1ddcf0a586e0ba","record":{"generation":3,"access_token":"canary-access","refresh_token":"canary-refresh","token_type":"Bearer","issued":"2023-11-14T22:13:20Z","expiry":"2023-11-14T23:13:20Z","codes":["c0de"]}}`
	firstRecord  = `{"version":1,"generation":3,"access_token":"canary-access","refresh_token":"canary-refresh","token_type":"Bearer","issued":"2023-11-14T22:13:20Z","expiry":"2023-11-14T23:13:20Z","codes":["c0de"]}`
)

// with is a record's text with a member more, or another one.
func with(t *testing.T, record, member string, value any) string {
	t.Helper()
	var m map[string]json.RawMessage // the record in it stays byte for byte, for its checksum
	err := json.Unmarshal([]byte(record), &m)
	if err != nil {
		t.Fatal(err)
	}
	if m[member], err = json.Marshal(value); err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestDecode is the table of what is read with which keys. An attacker who can
// write to the store has no key, and so can make only records that are not sealed:
// with a key none of them is read, whatever its version and its members.
func TestDecode(t *testing.T) {
	plain, keyed, rotated, other := newCodec(t, false), newCodec(t, false, key(1)), newCodec(t, false, key(2), key(1)), newCodec(t, false, key(2))
	migrating := newCodec(t, true, key(1))
	const damaged, unreadable, unsealed = "damaged", "left alone", "not sealed"
	for what, c := range map[string]struct {
		record string
		// what comes of it with no key, with its key, with its key as an older one, with another, and with its key and migrate
		plain, keyed, rotated, other, migrating string
	}{
		"sealed":                      {sealedRecord, unreadable, "", "", unreadable, ""},
		"sealed, and a plain record":  {with(t, sealedRecord, "record", json.RawMessage(`{"generation":9}`)), unreadable, "", "", unreadable, ""},
		"sealed, seal broken":         {strings.Replace(sealedRecord, "XyyE", "XyyF", 1), unreadable, damaged, damaged, unreadable, damaged},
		"sealed, cut off":             {with(t, sealedRecord, "sealed", "XyyE"), unreadable, damaged, damaged, unreadable, damaged},
		"plain":                       {plainRecord, "", unsealed, unsealed, unsealed, ""},
		"plain, name of a key empty":  {with(t, plainRecord, "key", ""), "", unsealed, unsealed, unsealed, ""},
		"plain, something sealed":     {with(t, plainRecord, "sealed", "XyyE"), "", unsealed, unsealed, unsealed, ""},
		"plain, sum wrong":            {strings.Replace(plainRecord, "canary-access", "canary-excess", 1), damaged, unsealed, unsealed, unsealed, damaged},
		"plain, sum gone":             {with(t, plainRecord, "sum", ""), damaged, unsealed, unsealed, unsealed, damaged},
		"first version":               {firstRecord, "", unsealed, unsealed, unsealed, ""},
		"first version, with a key":   {with(t, firstRecord, "key", "2c76bb6e6d6cacd2"), "", unsealed, unsealed, unsealed, ""},
		"first version, with a sum":   {with(t, firstRecord, "sum", "00"), "", unsealed, unsealed, unsealed, ""},
		"first version, sealed":       {strings.Replace(sealedRecord, `"version":2`, `"version":1`, 1), damaged, unsealed, unsealed, unsealed, damaged},
		"first version, nothing":      {`{"version":1}`, damaged, unsealed, unsealed, unsealed, damaged},
		"no version":                  {with(t, firstRecord, "version", 0), damaged, damaged, damaged, damaged, damaged},
		"version below":               {with(t, firstRecord, "version", -1), damaged, damaged, damaged, damaged, damaged},
		"newer release":               {with(t, plainRecord, "version", 3), unreadable, unreadable, unreadable, unreadable, unreadable},
		"nothing":                     {"", damaged, damaged, damaged, damaged, damaged},
		"null":                        {"null", damaged, damaged, damaged, damaged, damaged},
		"sealed with an unknown key":  {with(t, sealedRecord, "key", "0000000000000000"), unreadable, unreadable, unreadable, unreadable, unreadable},
		"plain, with an unknown key":  {with(t, plainRecord, "key", "0000000000000000"), unreadable, unreadable, unreadable, unreadable, unreadable},
		"plain, with the name of one": {with(t, plainRecord, "key", "2c76bb6e6d6cacd2"), unreadable, damaged, damaged, unreadable, damaged},
	} {
		for keys, d := range map[string]struct {
			codec *tokenstore.Codec
			want  string
		}{
			"none": {plain, c.plain}, "its key": {keyed, c.keyed}, "its key as an older one": {rotated, c.rotated},
			"another": {other, c.other}, "migrate": {migrating, c.migrating},
		} {
			r, err := d.codec.Decode(name, []byte(c.record))
			switch got := sentinel(err); {
			case got != d.want:
				t.Errorf("%s, keys: %s: %q (%v), want %q", what, keys, got, err, d.want)
			case err == nil && !reflect.DeepEqual(r, stored):
				t.Errorf("%s, keys: %s: %+v", what, keys, r)
			case err != nil && (r != nil || strings.Contains(err.Error(), "canary")):
				t.Errorf("%s, keys: %s: %+v, %v: something of it gets out", what, keys, r, err)
			}
		}
	}
	for what, c := range map[string]struct {
		codec  *tokenstore.Codec
		record string
	}{"sealed": {keyed, sealedRecord}, "plain": {plain, plainRecord}} {
		if _, err := c.codec.Decode("aa/bc", []byte(c.record)); sentinel(err) != damaged {
			t.Errorf("%s, under another's name: %v", what, err)
		}
	}
}

// sentinel names what an error is. It is one thing only: what is left alone must
// not be set aside as well.
func sentinel(err error) string {
	var is []string
	for _, s := range []error{tokenstore.ErrDamaged, tokenstore.ErrUnreadable, tokenstore.ErrUnsealed} {
		if errors.Is(err, s) {
			is = append(is, s.Error())
		}
	}
	if err != nil && len(is) == 0 {
		return err.Error()
	}
	return strings.Join(is, " and ")
}

// TestUnsealedSaysWhatToDo: the error names both ways out.
func TestUnsealedSaysWhatToDo(t *testing.T) {
	_, err := newCodec(t, false, key(1)).Decode(name, []byte(firstRecord))
	for _, word := range []string{"not sealed", "storage_key", "migrate", "removal"} {
		if err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("%v does not say %q", err, word)
		}
	}
}

// TestMigrateNeedsAKey: without one nothing could be sealed.
func TestMigrateNeedsAKey(t *testing.T) {
	if _, err := tokenstore.NewCodec(nil, true); err == nil || !strings.Contains(err.Error(), "expected a storage key") {
		t.Errorf("got %v", err)
	}
}

// memory is a store with one record. before is called before each write.
type memory struct {
	record []byte
	fails  error
	before func()
	writes int
}

func (m *memory) Load(context.Context, string) ([]byte, error) {
	if m.record == nil {
		return nil, fs.ErrNotExist
	}
	return m.record, nil
}

func (m *memory) Swap(_ context.Context, _ string, old, value []byte) error {
	m.writes++
	if m.before != nil {
		m.before()
	}
	switch {
	case m.fails != nil:
		return m.fails
	case !bytes.Equal(m.record, old):
		return tokenstore.ErrConflict
	}
	m.record = value
	return nil
}

// reading reads the store's record once, and returns how often something was said to
// be sealed.
func reading(t *testing.T, s *memory, c *tokenstore.Codec) (r *tokenstore.Record, raw []byte, told int, err error) {
	t.Helper()
	client := tokenstore.NewClient(s, c, "self", func(error) {}, func(n string) {
		if told++; n != name {
			t.Errorf("sealed is %q", n)
		}
	})
	r, raw, err = client.Read(t.Context(), name)
	return r, raw, told, err
}

// TestMigrate: what is not sealed is sealed when it is read, and says the same.
func TestMigrate(t *testing.T) {
	for what, record := range map[string]string{"plain": plainRecord, "first version": firstRecord} {
		s := &memory{record: []byte(record)}
		r, raw, told, err := reading(t, s, newCodec(t, true, key(2), key(1)))
		if err != nil || told != 1 || !reflect.DeepEqual(r, stored) || !bytes.Equal(raw, s.record) {
			t.Errorf("%s: %+v, %v, told %d times; the store has %s, and Read says %s", what, r, err, told, s.record, raw)
		}
		if bytes.Contains(s.record, []byte("canary")) {
			t.Errorf("%s: not sealed: %s", what, s.record)
		}
		again, _, told, err := reading(t, s, newCodec(t, false, key(2))) // with the first key
		if err != nil || told != 0 || s.writes != 1 || !reflect.DeepEqual(again, stored) {
			t.Errorf("%s, read again: %+v, %v, %d writes", what, again, err, s.writes)
		}
	}
}

// TestMigrateLeavesAlone what is none of its business: without migrate nothing is
// written, and with it only what is not sealed.
func TestMigrateLeavesAlone(t *testing.T) {
	leased := *stored
	leased.Lease = &tokenstore.Lease{ID: "lease", TTL: 5000}
	held, err := newCodec(t, false).Encode(name, &leased)
	if err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]struct {
		codec  *tokenstore.Codec
		record string
	}{
		"no keys": {newCodec(t, false), plainRecord}, "no migrate": {newCodec(t, false, key(1)), plainRecord},
		"sealed": {newCodec(t, true, key(1)), sealedRecord}, "sealed with an older key": {newCodec(t, true, key(2), key(1)), sealedRecord},
		// its holder may be a process that has no key yet, and must be able to write
		// over it: the token that is on the way hangs on that
		"a lease": {newCodec(t, true, key(1)), string(held)},
		"damaged": {newCodec(t, true, key(1)), with(t, plainRecord, "sum", "00")},
		"newer":   {newCodec(t, true, key(1)), with(t, plainRecord, "version", 3)},
	} {
		s := &memory{record: []byte(c.record)}
		if _, raw, told, _ := reading(t, s, c.codec); s.writes > 0 || told > 0 || string(raw) != c.record {
			t.Errorf("%s: %d writes, told %d times, Read says %s", what, s.writes, told, raw)
		}
	}
}

// TestMigrateInAFleet: others write meanwhile. What they have written holds.
func TestMigrateInAFleet(t *testing.T) {
	migrating := newCodec(t, true, key(1))
	newer := *stored
	newer.Generation = 4
	sealed, err := migrating.Encode(name, &newer)
	if err != nil {
		t.Fatal(err)
	}
	s := &memory{record: []byte(plainRecord)}
	s.before = func() { s.record = sealed }
	r, raw, told, err := reading(t, s, migrating)
	if err != nil || r.Generation != 4 || told != 0 || !bytes.Equal(raw, sealed) || !bytes.Equal(s.record, sealed) {
		t.Errorf("%+v, %v, told %d times", r, err, told)
	}

	// and writes on without end: it is read all the same
	n := 0
	s = &memory{record: []byte(plainRecord)}
	s.before = func() {
		n++
		s.record = []byte(with(t, plainRecord, "x", n))
	}
	if r, _, told, err = reading(t, s, migrating); err != nil || told != 0 || !reflect.DeepEqual(r, stored) || n > 10 {
		t.Errorf("%+v, %v, told %d times after %d writes", r, err, told, n)
	}
}

// TestMigrateWithoutWriting: a store that takes no writes gives its tokens all the
// same, and counts as failing.
func TestMigrateWithoutWriting(t *testing.T) {
	s := &memory{record: []byte(plainRecord), fails: errors.New("disk full")}
	client := tokenstore.NewClient(s, newCodec(t, true, key(1)), "self", func(error) {}, func(string) { t.Error("it is not sealed") })
	r, raw, err := client.Read(t.Context(), name)
	if err != nil || !reflect.DeepEqual(r, stored) || string(raw) != plainRecord {
		t.Errorf("%+v, %v, %s", r, err, raw)
	}
	if client.Err() == nil {
		t.Error("the store counts as working")
	}
}
