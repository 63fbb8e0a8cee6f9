package tokenendpoint

import (
	"fmt"
	"log/slog"
)

const redacted = "[redacted]"

// Secret holds text that must not be printed. Its String, Format, JSON, text
// and slog forms are redacted; [Secret.Reveal] is the one way to the text, so
// that a search for that name finds every use of it. The zero Secret is empty.
//
// The text lies behind a pointer: package fmt calls no methods on unexported
// fields, and prints of a pointer there no more than the address.
type Secret struct{ text *string }

// NewSecret wraps text.
func NewSecret(text string) Secret { return Secret{&text} }

// Reveal returns the text.
func (s Secret) Reveal() string {
	if s.text == nil {
		return ""
	}
	return *s.text
}

// Empty reports whether there is no text.
func (s Secret) Empty() bool { return s.Reveal() == "" }

// String returns a placeholder, never the text.
func (s Secret) String() string { return redacted }

// Format prints a placeholder under every verb: %v and %#v of a struct print
// unexported fields, which String alone would not stop.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(redacted)) }

// MarshalText returns a placeholder; encoding/json uses it too.
func (s Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// LogValue implements [slog.LogValuer].
func (s Secret) LogValue() slog.Value { return slog.StringValue(redacted) }
