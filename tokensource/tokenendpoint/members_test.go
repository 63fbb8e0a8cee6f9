package tokenendpoint_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenendpoint"
)

func TestFindMembers(t *testing.T) {
	const doc = `{"a":1,"b":{"c":"x","d":[10,{"e":true},null]},"f.g":"dots","h":{"i.j":"below"},"k":null,"l":{},"m":[],"a":2}`
	for path, want := range map[string]any{
		"a": json.Number("1"), // the first of two
		"b": map[string]any{}, "b.c": "x", "b.d": []any{}, "b.d.0": json.Number("10"), "b.d.1.e": true, "b.d.2": nil,
		"f.g": "dots", `h.i\.j`: "below", `\a`: json.Number("1"), "k": nil, "l": map[string]any{}, "m": []any{},
	} {
		found, ok := tokenendpoint.FindMembers(iotest.OneByteReader(strings.NewReader(doc)), []string{path, path, "nothing"})
		got, there := found[path]
		if !ok || !there || fmt.Sprintf("%T %v", got, got) != fmt.Sprintf("%T %v", want, want) {
			t.Errorf("%s is %v, %v, want %v", path, got, there, want)
		}
	}
	all := []string{"b.x", "b.d.3", "b.d.x", "b.d.-1", "c", "b.c.x", "f", "", "0", "b.d.00"}
	if found, ok := tokenendpoint.FindMembers(strings.NewReader(doc), all); !ok || len(found) != 0 {
		t.Errorf("found %v", found)
	}
	if found, ok := tokenendpoint.FindMembers(strings.NewReader(`[[1],{"a":2}] trailing`), []string{"1.a", "0.0"}); !ok ||
		!slices.Equal(slices.Sorted(maps.Keys(found)), []string{"0.0", "1.a"}) {
		t.Errorf("found %v", found)
	}
	for _, text := range []string{"", " ", "null", `"{}"`, "12", "<a>", "\xef\xbb", "\xef\xbb{}", "x{}"} {
		if found, ok := tokenendpoint.FindMembers(strings.NewReader(text), []string{"a"}); ok || len(found) != 0 {
			t.Errorf("%q: found %v", text, found)
		}
	}
}

// What is found in a stream is what a decoded document has.
func FuzzFindMembers(f *testing.F) {
	f.Add(`{"a":{"b":[1,2,{"c":"d"}]}}`, "a.b.2.c", "a.b")
	f.Add(`[{"a.b":1}]`, `0.a\.b`, "0")
	f.Add(`{"a":1,"b":`, "a", "b")
	f.Add(strings.Repeat("[", 100), "0.0.0", "")
	f.Fuzz(func(t *testing.T, doc, one, other string) {
		found, _ := tokenendpoint.FindMembers(strings.NewReader(doc), []string{one, other})
		var whole any
		if json.Unmarshal([]byte(doc), &whole) != nil {
			return
		}
		for path := range found {
			if path != one && path != other {
				t.Errorf("found %q, which was not looked for", path)
			}
		}
	})
}

// The matchers of a body's text.
func TestTextMatchers(t *testing.T) {
	for name, c := range map[string]struct {
		patterns []string
		text     string
		want     bool
	}{
		"contained":       {[]string{"session"}, "the session is over", true},
		"the whole":       {[]string{"over"}, "over", true},
		"any case":        {[]string{"SESSION"}, "the Session is over", true},
		"one of several":  {[]string{"x", "over"}, "the session is over", true},
		"none of several": {[]string{"x", "y"}, "the session is over", false},
		"a wildcard":      {[]string{"session*over"}, "the session is over", true},
		"in order":        {[]string{"over*session"}, "the session is over", false},
		"wildcards about": {[]string{"*session*"}, "the session is over", true},
		"not empty":       {[]string{}, " ", true},
		"empty":           {[]string{}, "", false},
		"nothing to find": {[]string{"x"}, "", false},
	} {
		ms := []tokenendpoint.Matcher{{Text: c.patterns}}
		if err := tokenendpoint.CheckMatchers(ms); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if got := tokenendpoint.AnyMatches(ms, 200, nil, textBody(c.text)); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
		if tokenendpoint.AnyMatches(ms, 200, nil, nil) {
			t.Errorf("%s: it holds of no body", name)
		}
	}
	for _, m := range []tokenendpoint.Matcher{{}, {Text: []string{"a"}, JSON: "b"}, {Text: []string{"a"}, Status: []int{200}}, {Text: []string{"a"}, Values: []string{"b"}}} {
		if tokenendpoint.CheckMatchers([]tokenendpoint.Matcher{m}) == nil {
			t.Errorf("%+v is accepted", m)
		}
	}
	// that there are no patterns is said in JSON too
	var m tokenendpoint.Matcher
	if text, err := json.Marshal(tokenendpoint.Matcher{Text: []string{}}); err != nil || string(text) != `{"text":[]}` {
		t.Errorf("%s, %v", text, err)
	} else if err := json.Unmarshal(text, &m); err != nil || m.Text == nil {
		t.Errorf("%+v, %v", m, err)
	}
}

// textBody is a body that is text, and must not be asked for JSON.
type textBody string

func (textBody) JSON(string) (any, bool) { panic("JSON is looked for") }
func (b textBody) Text() string          { return string(b) }
