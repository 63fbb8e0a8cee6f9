package tokensource

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
)

// Key tells one user's token from another's within a source. It is an ordered
// list of values, one for each of the source's key names. Values are kept
// byte for byte (neither case nor Unicode form is folded) behind their
// lengths, so that ("a","bc") and ("ab","c") stay apart. The zero Key is that
// of a source without keys.
type Key struct{ encoded string }

// NewKey makes the key of values, in the order of [Config.KeyNames].
func NewKey(values ...string) Key {
	if len(values) == 0 {
		return Key{}
	}
	size := 0
	for _, v := range values {
		size += len(v) + binary.MaxVarintLen32
	}
	b := make([]byte, 0, size)
	for _, v := range values {
		b = appendPart(b, v)
	}
	return Key{string(b)}
}

// Values returns what [NewKey] was given.
func (k Key) Values() []string {
	var values []string
	for b := []byte(k.encoded); len(b) > 0; {
		n, used := binary.Uvarint(b)
		values = append(values, string(b[used:used+int(n)]))
		b = b[used+int(n):]
	}
	return values
}

// String never shows the values: a key names a person.
func (k Key) String() string {
	if k.encoded == "" {
		return ""
	}
	return hashParts("log", k.encoded)[:12]
}

// Format prints as String does, under every verb.
func (k Key) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(k.String())) }

func appendPart(b []byte, part string) []byte {
	b = binary.AppendUvarint(b, uint64(len(part)))
	return append(b, part...)
}

// hashParts is the SHA-256, in hex, of length-prefixed parts: a name for
// storage that holds no user text and that no two lists of parts share.
func hashParts(parts ...string) string {
	var b []byte
	for _, p := range parts {
		b = appendPart(b, p)
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}
