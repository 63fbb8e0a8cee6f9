package tokenendpoint

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
)

// Template is text with variables in braces, such as "Bearer {token}" or
// "{key.user}". A variable begins with a letter, so that JSON needs no
// escapes; a backslash takes any brace as it is. The zero Template is empty
// text. It prints as a placeholder: what is resolved into it may be a secret.
type Template struct{ list *[]templatePart }

type templatePart struct {
	literal  string
	variable string // when not empty, the part is this variable
	resolved string // the variable that the literal is the value of, if it is one
}

func newTemplate(parts []templatePart) Template { return Template{&parts} }

func (t Template) parts() []templatePart {
	if t.list == nil {
		return nil
	}
	return *t.list
}

// String returns a placeholder, never the text.
func (t Template) String() string { return redacted }

// Format prints a placeholder under every verb.
func (t Template) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(redacted)) }

// MarshalText returns a placeholder; encoding/json uses it too.
func (t Template) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// LogValue implements [slog.LogValuer].
func (t Template) LogValue() slog.Value { return slog.StringValue(redacted) }

// ParseTemplate reads a template. A brace that is never closed is an error.
func ParseTemplate(text string) (Template, error) {
	var parts []templatePart
	var literal strings.Builder
	flush := func() {
		if literal.Len() > 0 {
			parts = append(parts, templatePart{literal: literal.String()})
			literal.Reset()
		}
	}
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == '\\' && i+1 < len(text) && (text[i+1] == '{' || text[i+1] == '}'):
			i++
			literal.WriteByte(text[i])
		case c == '{' && i+1 < len(text) && isLetter(text[i+1]):
			end := strings.IndexByte(text[i:], '}')
			if end < 0 {
				return Template{}, errors.New("a placeholder is never closed: expected } after {")
			}
			flush()
			parts = append(parts, templatePart{variable: text[i+1 : i+end]})
			i += end
		default:
			literal.WriteByte(c)
		}
	}
	flush()
	return newTemplate(parts), nil
}

func isLetter(c byte) bool { return 'a' <= c|0x20 && c|0x20 <= 'z' }

// Literal makes a template of text in which braces mean nothing.
func Literal(text string) Template {
	if text == "" {
		return Template{}
	}
	return newTemplate([]templatePart{{literal: text}})
}

// IsZero reports whether t is empty text.
func (t Template) IsZero() bool { return len(t.parts()) == 0 }

// Variables lists the variables in t, in order, each once.
func (t Template) Variables() []string {
	var names []string
	for _, p := range t.parts() {
		if p.variable != "" && !slices.Contains(names, p.variable) {
			names = append(names, p.variable)
		}
	}
	return names
}

// Resolve replaces by text the variables for which known says so, and leaves
// the others. Text that it puts in is never read as a template again: a
// secret may hold braces.
func (t Template) Resolve(known func(name string) (text string, ok bool, err error)) (Template, error) {
	var out []templatePart
	for _, p := range t.parts() {
		if p.variable != "" {
			text, ok, err := known(p.variable)
			if err != nil {
				return Template{}, err
			}
			if ok {
				p = templatePart{literal: text, resolved: p.variable}
			}
		}
		out = append(out, p)
	}
	return newTemplate(out), nil
}

// Expand returns the text with every variable replaced. A variable that
// lookup does not know is an error.
func (t Template) Expand(lookup func(name string) (string, bool)) (string, error) {
	if parts := t.parts(); len(parts) == 1 && parts[0].variable == "" {
		return parts[0].literal, nil
	}
	var b strings.Builder
	for _, p := range t.parts() {
		if p.variable == "" {
			b.WriteString(p.literal)
			continue
		}
		text, ok := lookup(p.variable)
		if !ok {
			return "", fmt.Errorf("{%s} has no value", p.variable)
		}
		b.WriteString(text)
	}
	return b.String(), nil
}

// Text is the template without its variables' values: an identity for
// settings that hold only constants.
func (t Template) Text() string {
	return t.write(func(p templatePart) string { return p.variable })
}

// shown is Text for people: what was resolved is shown by its name as well, for
// its value may be a secret.
func (t Template) shown() string {
	return t.write(func(p templatePart) string { return cmp.Or(p.variable, p.resolved) })
}

// write puts the parts together, those with a name as that name in braces.
func (t Template) write(name func(templatePart) string) string {
	var b strings.Builder
	for _, p := range t.parts() {
		if n := name(p); n != "" {
			b.WriteString("{" + n + "}")
		} else {
			b.WriteString(p.literal)
		}
	}
	return b.String()
}
