package tokenendpoint

import (
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// Matcher is one thing that can be said of a response: its status, a header, a
// member of its JSON body, or the body's text. Exactly one of Status, Header,
// JSON and Text is set. The same matchers judge token endpoints and APIs.
type Matcher struct {
	// Status: the response's status is one of these.
	Status []int `json:"status,omitempty"`
	// Header: a header of this name has a value that matches one of Values.
	Header string `json:"header,omitempty"`
	// JSON: the member at this path matches one of Values. An array index may
	// stand for a name; a backslash takes a dot as it is.
	JSON string `json:"json,omitempty"`
	// Values are patterns, compared without regard to case; * stands for any
	// text. None: the header or member is there, and neither empty nor null.
	Values []string `json:"values,omitempty"`
	// Text: the body's text contains one of these patterns, compared without regard
	// to case; * stands for any text within one. An empty list: the body is not
	// empty.
	Text []string `json:"text,omitzero"`
}

// Body is what matchers look at in a response's body. Its methods are called only
// where a matcher asks, so that it may be read no further than is needed.
type Body interface {
	// JSON returns the member at a path of the JSON document that the body is, as
	// encoding/json decodes it, with numbers as json.Number. ok is false if there is
	// no such member, or no JSON.
	JSON(path string) (value any, ok bool)
	// Text returns the body as it is written.
	Text() string
}

// Matches reports whether the matcher holds. body is nil when there is none.
func (p Matcher) Matches(status int, header http.Header, body Body) bool {
	return p.matches(status, header, body, new(lowered))
}

func (p Matcher) matches(status int, header http.Header, body Body, low *lowered) bool {
	switch {
	case len(p.Status) > 0:
		return slices.Contains(p.Status, status)
	case p.Header != "":
		return slices.ContainsFunc(header.Values(p.Header), func(value string) bool { return p.matchesText(value, low) })
	case body == nil:
		return false
	case p.JSON != "":
		value, ok := body.JSON(p.JSON)
		if !ok || value == nil {
			return false
		}
		text, scalar := scalarText(value)
		if !scalar {
			return len(p.Values) == 0
		}
		return p.matchesText(text, low)
	case p.Text != nil:
		return p.containedIn(body.Text(), low)
	}
	return false
}

// LooksInside reports whether the matcher is about the body.
func (p Matcher) LooksInside() bool { return p.JSON != "" || p.Text != nil }

// CheckMatchers reports a matcher that says nothing, or several things.
func CheckMatchers(ms []Matcher) error {
	for _, m := range ms {
		said := 0
		for _, has := range []bool{len(m.Status) > 0, m.Header != "", m.JSON != "", m.Text != nil} {
			if has {
				said++
			}
		}
		if said != 1 {
			return errors.New("a matcher says nothing, or several things: expected a status, a header, a json path or text")
		}
		if len(m.Values) > 0 && m.Header == "" && m.JSON == "" {
			return errors.New("a matcher has values, and neither a header nor a json path: expected one of them, or the patterns in text")
		}
	}
	return nil
}

// AnyMatches reports whether one of the matchers holds. Those that look into the
// body come last.
func AnyMatches(ps []Matcher, status int, header http.Header, body Body) bool {
	low := new(lowered)
	if whole, ok := body.(*wholeBody); ok {
		low = &whole.low
	}
	for _, inside := range []bool{false, true} {
		if slices.ContainsFunc(ps, func(p Matcher) bool { return p.LooksInside() == inside && p.matches(status, header, body, low) }) {
			return true
		}
	}
	return false
}

// containedIn reports whether one of the patterns of Text stands in a text.
func (p Matcher) containedIn(text string, low *lowered) bool {
	if len(p.Text) == 0 {
		return text != ""
	}
	text = low.of(text)
	return slices.ContainsFunc(p.Text, func(pattern string) bool {
		return wildcard("*"+strings.ToLower(pattern)+"*", text)
	})
}

func (p Matcher) matchesText(text string, low *lowered) bool {
	if len(p.Values) == 0 {
		return text != ""
	}
	text = low.of(text)
	return slices.ContainsFunc(p.Values, func(pattern string) bool {
		return wildcard(strings.ToLower(pattern), text)
	})
}

// lowered has long texts in lower case. Many matchers look at the same text, and
// each would make its own copy.
type lowered struct{ texts map[string]string }

func (l *lowered) of(text string) string {
	const long = 256
	if len(text) < long {
		return strings.ToLower(text)
	}
	low, ok := l.texts[text]
	if !ok {
		if l.texts == nil {
			l.texts = make(map[string]string)
		}
		low = strings.ToLower(text)
		l.texts[text] = low
	}
	return low
}

// wholeBody is a body that has been read. What one matcher has found in it, others
// find again.
type wholeBody struct {
	doc  *document // nil: it is neither JSON nor a form
	text []byte

	found map[string]any // by path
	plain *string        // text
	low   lowered
}

// JSON implements [Body].
func (b *wholeBody) JSON(path string) (any, bool) {
	value, ok := b.found[path]
	if !ok {
		if value, ok = b.doc.lookup(path); ok {
			if b.found == nil {
				b.found = make(map[string]any)
			}
			b.found[path] = value
		}
	}
	return value, ok
}

// Text implements [Body].
func (b *wholeBody) Text() string {
	if b.plain == nil {
		text := string(b.text)
		b.plain = &text
	}
	return *b.plain
}

// wildcard reports whether text matches a pattern in which * is any text.
func wildcard(pattern, text string) bool {
	piece, rest, more := strings.Cut(pattern, "*")
	if !more {
		return pattern == text
	}
	text, ok := strings.CutPrefix(text, piece)
	for ok {
		if piece, rest, more = strings.Cut(rest, "*"); !more {
			return strings.HasSuffix(text, piece)
		}
		_, text, ok = strings.Cut(text, piece)
	}
	return false
}

// scalarText is a scalar as text; false for objects, arrays and null.
func scalarText(v any) (string, bool) {
	switch v := v.(type) {
	case string:
		return v, true
	case json.Number:
		return v.String(), true
	case bool:
		return strconv.FormatBool(v), true
	}
	return "", false
}
