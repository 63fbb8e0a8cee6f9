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

// Matcher is one thing that can be said of a response: its status, a header,
// or a member of its JSON body. Exactly one of Status, Header and JSON is
// set. The same matchers judge token endpoints and APIs.
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
}

// Matches reports whether the matcher holds. body is the decoded JSON body,
// nil when there is none.
func (p Matcher) Matches(status int, header http.Header, body any) bool {
	switch {
	case len(p.Status) > 0:
		return slices.Contains(p.Status, status)
	case p.Header != "":
		return slices.ContainsFunc(header.Values(p.Header), p.matchesText)
	case p.JSON != "":
		value, ok := lookupPath(body, p.JSON)
		if !ok || value == nil {
			return false
		}
		text, scalar := scalarText(value)
		if !scalar {
			return len(p.Values) == 0
		}
		return p.matchesText(text)
	}
	return false
}

// CheckMatchers reports a matcher that says nothing, or several things.
func CheckMatchers(ms []Matcher) error {
	for _, m := range ms {
		said := 0
		for _, has := range []bool{len(m.Status) > 0, m.Header != "", m.JSON != ""} {
			if has {
				said++
			}
		}
		if said != 1 {
			return errors.New("a matcher says nothing, or several things: expected a status, a header or a json path")
		}
	}
	return nil
}

// AnyMatches reports whether one of the matchers holds.
func AnyMatches(ps []Matcher, status int, header http.Header, body any) bool {
	return slices.ContainsFunc(ps, func(p Matcher) bool { return p.Matches(status, header, body) })
}

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

// DecodeFirstJSON decodes the document that r begins with, and reads little
// further than its end; nil when there is none.
func DecodeFirstJSON(r io.Reader) any {
	d := json.NewDecoder(r)
	d.UseNumber()
	var v any
	if d.Decode(&v) != nil {
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
