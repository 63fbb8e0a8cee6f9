package tokenendpoint

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"regexp"
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
	switch {
	case len(p.Status) > 0:
		return slices.Contains(p.Status, status)
	case p.Header != "":
		return slices.ContainsFunc(header.Values(p.Header), p.matchesText)
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
		return p.matchesText(text)
	case p.Text != nil:
		return p.containedIn(body.Text())
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
	for _, inside := range []bool{false, true} {
		if slices.ContainsFunc(ps, func(p Matcher) bool { return p.LooksInside() == inside && p.Matches(status, header, body) }) {
			return true
		}
	}
	return false
}

// containedIn reports whether one of the patterns of Text stands in a text.
func (p Matcher) containedIn(text string) bool {
	if len(p.Text) == 0 {
		return text != ""
	}
	text = strings.ToLower(text)
	return slices.ContainsFunc(p.Text, func(pattern string) bool {
		return wildcard("*"+strings.ToLower(pattern)+"*", text)
	})
}

// wholeBody is a body that has been read.
type wholeBody struct {
	doc  any // nil: it is neither JSON nor a form
	text []byte
}

// JSON implements [Body].
func (b *wholeBody) JSON(path string) (any, bool) { return lookupPath(b.doc, path) }

// Text implements [Body].
func (b *wholeBody) Text() string { return string(b.text) }

func (p Matcher) matchesText(text string) bool {
	if len(p.Values) == 0 {
		return text != ""
	}
	return slices.ContainsFunc(p.Values, func(pattern string) bool {
		return wildcard(strings.ToLower(pattern), strings.ToLower(text))
	})
}

// wildcard reports whether text matches a pattern in which * is any text.
func wildcard(pattern, text string) bool {
	pieces := strings.Split(pattern, "*")
	if len(pieces) == 1 {
		return pattern == text
	}
	if !strings.HasPrefix(text, pieces[0]) {
		return false
	}
	text = text[len(pieces[0]):]
	last := pieces[len(pieces)-1]
	for _, piece := range pieces[1 : len(pieces)-1] {
		i := strings.Index(text, piece)
		if i < 0 {
			return false
		}
		text = text[i+len(piece):]
	}
	return strings.HasSuffix(text, last)
}

// DecodeJSON decodes one JSON document, numbers kept as written; nil when it
// is not one. NaN and Infinity, which some encoders write, are taken for null.
func DecodeJSON(body []byte) any {
	body = bytes.TrimPrefix(body, []byte("\ufeff"))
	if v, ok := decodeJSON(body); ok {
		return v
	}
	if !bytes.Contains(body, []byte("NaN")) && !bytes.Contains(body, []byte("Infinity")) {
		return nil
	}
	v, ok := decodeJSON(notNumbers.ReplaceAllFunc(body, func(match []byte) []byte {
		if match[0] == '"' {
			return match
		}
		return []byte("null")
	}))
	if !ok {
		return nil
	}
	return v
}

// notNumbers finds strings too, so that what stands in them is passed over.
var notNumbers = regexp.MustCompile(`"(?:[^"\\]|\\.)*"|-?(?:NaN|Infinity)`)

func decodeJSON(body []byte) (any, bool) {
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	var v any
	if d.Decode(&v) != nil {
		return nil, false
	}
	_, err := d.Token()
	return v, errors.Is(err, io.EOF)
}

// lookupPath finds a member by its dotted path. A name that itself holds dots
// is found too.
func lookupPath(v any, path string) (any, bool) {
	if object, ok := v.(map[string]any); ok {
		if value, ok := object[path]; ok {
			return value, true
		}
	}
	for _, name := range splitPath(path) {
		switch node := v.(type) {
		case map[string]any:
			value, ok := node[name]
			if !ok {
				return nil, false
			}
			v = value
		case []any:
			i, err := strconv.Atoi(name)
			if err != nil || i < 0 || i >= len(node) {
				return nil, false
			}
			v = node[i]
		default:
			return nil, false
		}
	}
	return v, true
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
