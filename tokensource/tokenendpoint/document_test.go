package tokenendpoint_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/caddy-bearer/caddy-bearer/tokensource/internal/wiretest"
	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenendpoint"
)

// decoded is what encoding/json makes of a text; false: it is no document.
func decoded(text []byte) (any, bool) {
	d := json.NewDecoder(bytes.NewReader(bytes.TrimPrefix(text, []byte("\ufeff"))))
	d.UseNumber()
	var v any
	if d.Decode(&v) != nil || d.More() {
		return nil, false
	}
	_, err := d.Token()
	return v, err != nil && err.Error() == "EOF"
}

// within finds a value in a decoded document, by the names that lead there.
func within(v any, names []string) (any, bool) {
	for _, name := range names {
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

// scalarsOf lists the scalars of a decoded document, by the names that lead there.
func scalarsOf(v any, names []string, visit func(names []string, v any)) {
	switch node := v.(type) {
	case map[string]any:
		for name, value := range node {
			scalarsOf(value, append(slices.Clip(names), name), visit)
		}
	case []any:
		for i, value := range node {
			scalarsOf(value, append(slices.Clip(names), strconv.Itoa(i)), visit)
		}
	default:
		visit(names, v)
	}
}

// pathOf is the path of names.
func pathOf(names []string) string {
	var escaped []string
	for _, name := range names {
		escaped = append(escaped, strings.NewReplacer(`\`, `\\`, `.`, `\.`).Replace(name))
	}
	return strings.Join(escaped, ".")
}

// FuzzDocument: what is read of a body is what encoding/json and net/url read of
// it, as far as it is looked at.
func FuzzDocument(f *testing.F) {
	for _, seed := range []string{
		`{"a":{"b":[1,2,{"c":"d"}]}}`, `{"a.b":1,"a":{"b":2},"a":3}`, `[]`, ` [ ] `, `{}`, `"x"`, `12`, `-0.5e+7`, `1.`, `01`, `-`, `1e`, `.5`, `+1`, `tru`, `truex`, `nul`,
		`{"a":"\u00e4\ud83d\ude00\ud800x\ud800\u0041\udc00"}`, "{\"\xff\":\"\xc3\"}", `{"\u0061":"\/\b\f\n\r\t\"\\"}`, `{"a":"\x"}`, `{"a":"\u00g0"}`, "{\"a\":\"\n\"}",
		`[1,]`, `{"a":1,}`, `{,}`, `[,]`, `{"a"}`, `{"a":}`, `{1:2}`, `[1 2]`, `{"a":1 "b":2}`, `[}`, `{]`, `[1}`, `{"a":1]`, `[[]`, `[]]`, `{}{}`, "\ufeff{}", "\ufeff\ufeff{}",
		"\u00a0{}", "{}\x00", "\t\r\n{}\v", `{"":{"":{"":0}}}`, `[0,[1,[2]],{"3":4}]`, `{"a":1e400,"b":-0,"c":0.0}`, "a=b&c=d&a=e", "a+b=%41%zz", "=&&=x;y", "a", "%", "a=%4", "a%3Db=c+d",
	} {
		f.Add([]byte(seed), "a.b")
	}
	f.Fuzz(func(t *testing.T, text []byte, path string) {
		checkJSON(t, text, path)
		checkForm(t, text, path)
	})
}

func checkJSON(t *testing.T, text []byte, path string) {
	t.Helper()
	got, ok := tokenendpoint.ParseJSON(text)
	want, wellFormed := decoded(text)
	if bytes.Contains(text, []byte("NaN")) || bytes.Contains(text, []byte("Infinity")) || (ok && got.Cut()) {
		return // ours alone: tested below
	}
	if ok != (wellFormed && want != nil) {
		t.Fatalf("%q is a document: %v, want %v", text, ok, wellFormed && want != nil)
	}
	if !ok {
		return
	}
	value, there := got.Lookup(path)
	expected, wanted := want, false
	if object, ok := want.(map[string]any); ok {
		expected, wanted = object[path], false
		_, wanted = object[path]
	}
	if !wanted {
		expected, wanted = within(want, splitPath(path))
	}
	if there != wanted || !sameValue(value, expected) {
		t.Errorf("%q, %q is %v, %v, want %v, %v", text, path, value, there, expected, wanted)
	}
	checked := 0
	scalarsOf(want, nil, func(names []string, v any) {
		if checked++; checked > 20 || len(names) > tokenendpoint.MaxDepth {
			return
		}
		if object, ok := want.(map[string]any); ok && len(names) > 1 {
			if _, hidden := object[pathOf(names)]; hidden {
				return
			}
		}
		if len(names) == 0 || slices.Contains(names, "") && len(names) == 1 {
			return // no path leads there
		}
		if value, ok := got.Lookup(pathOf(names)); !ok || !sameValue(value, v) {
			t.Errorf("%q, %q is %v, %v, want %v", text, pathOf(names), value, ok, v)
		}
		// in a stream, too, where the first of several of a name counts
		found, _ := tokenendpoint.FindMembers(bytes.NewReader(text), []string{pathOf(names)})
		if value, ok := found[pathOf(names)]; got.Values() == valuesIn(want) && !got.Cut() && (!ok || !sameValue(value, v)) {
			t.Errorf("%q, %q is %v, %v in a stream, want %v", text, pathOf(names), value, ok, v)
		}
	})
}

// valuesIn counts the values of a decoded document. Where names come twice, they are
// fewer than those that stand there.
func valuesIn(v any) int {
	n := 1
	switch node := v.(type) {
	case map[string]any:
		for _, value := range node {
			n += valuesIn(value)
		}
	case []any:
		for _, value := range node {
			n += valuesIn(value)
		}
	}
	return n
}

func sameValue(got, want any) bool {
	switch want.(type) {
	case map[string]any:
		_, ok := got.(map[string]any)
		return ok
	case []any:
		_, ok := got.([]any)
		return ok
	}
	return got == want
}

// splitPath splits a path at its dots.
func splitPath(path string) (names []string) {
	name := ""
	for i := 0; i < len(path); i++ {
		switch {
		case path[i] == '\\' && i+1 < len(path):
			i++
			name += path[i : i+1]
		case path[i] == '.':
			names, name = append(names, name), ""
		default:
			name += path[i : i+1]
		}
	}
	return append(names, name)
}

func checkForm(t *testing.T, text []byte, path string) {
	t.Helper()
	got, ok := tokenendpoint.ParseForm(text)
	values, err := url.ParseQuery(string(text))
	if ok != (err == nil && len(values) > 0) {
		t.Fatalf("%q is a form: %v, want %v", text, ok, err)
	}
	if !ok {
		return
	}
	for name := range values {
		if value, ok := got.Lookup(name); !ok || value != values.Get(name) {
			t.Errorf("%q: %q is %v, %v, want %q", text, name, value, ok, values.Get(name))
		}
	}
	if value, ok := got.Lookup(path); ok != (values.Has(path) || (len(splitPath(path)) == 1 && values.Has(splitPath(path)[0]))) {
		t.Errorf("%q: %q is %v, %v", text, path, value, ok)
	}
}

// NaN and Infinity are null, where they are not in a string.
func TestNaN(t *testing.T) {
	for text, want := range map[string]string{
		`{"a":NaN,"b":1}`: "1", `{"a":[-Infinity,Infinity,-NaN],"b":1}`: "1", `{"a":"NaN","b":1}`: "1", `{"b":NaN}`: "<nil>",
		`{"b":nan}`: "", `{"b":NaNa}`: "", `{"b":Inf}`: "", `{"b":-null}`: "", `{"b":1NaN}`: "", `{"b":--Infinity}`: "", `NaN`: "",
	} {
		d, ok := tokenendpoint.ParseJSON([]byte(text))
		if !ok {
			if want != "" {
				t.Errorf("%s is no document", text)
			}
			continue
		}
		if value, _ := d.Lookup("b"); fmt.Sprint(value) != want {
			t.Errorf("%s: %v, want %q", text, value, want)
		}
	}
}

// TestAttack14Bounds: of what nests too deep, or of too many values, those before
// the bounds are found, and nothing else is looked at.
func TestAttack14Bounds(t *testing.T) {
	nested := func(depth int, inner string) string {
		return strings.Repeat(`{"a":`, depth) + inner + strings.Repeat(`}`, depth)
	}
	path := func(depth int) string { return strings.TrimSuffix(strings.Repeat("a.", depth), ".") }
	many := func(n int) string { return `{` + strings.Repeat(`"x":0,`, n) + `"last":"z"}` }
	for name, c := range map[string]struct {
		body, path         string
		found, cut, stream bool
	}{
		"as deep as may be":       {nested(tokenendpoint.MaxDepth, `"v"`), path(tokenendpoint.MaxDepth), true, false, true},
		"one deeper":              {nested(tokenendpoint.MaxDepth+1, `"v"`), path(tokenendpoint.MaxDepth + 1), false, true, false},
		"before what is too deep": {`{"t":"v","x":` + nested(5000, `1`) + `}`, "t", true, true, true},
		"behind it":               {`{"x":` + nested(5000, `1`) + `,"t":"v"}`, "t", true, true, false},
		"deeper than 10,000":      {`{"x":` + nested(20_000, `1`) + `,"t":"v"}`, "t", true, true, false},
		"as many as may be":       {many(tokenendpoint.MaxValues - 2), "last", true, false, true},
		"one more":                {many(tokenendpoint.MaxValues - 1), "last", false, true, true},
		"before too many":         {`{"t":"v",` + many(12_000)[1:], "t", true, true, true},
		"empty, before too many":  {`{"t":{},"l":[` + strings.Repeat("[],", 12_000) + `0]}`, "t", true, true, true},
	} {
		d, ok := tokenendpoint.ParseJSON([]byte(c.body))
		if !ok {
			t.Errorf("%s: no document", name)
			continue
		}
		if _, found := d.Lookup(c.path); found != c.found || d.Cut() != c.cut || d.Values() > tokenendpoint.MaxValues {
			t.Errorf("%s: found %v, cut %v, %d values, want %v, %v", name, found, d.Cut(), d.Values(), c.found, c.cut)
		}
		// of a stream whatever stands before what nests too deep, of any number
		if found, ok := tokenendpoint.FindMembers(strings.NewReader(c.body), []string{c.path}); !ok || (len(found) == 1) != c.stream {
			t.Errorf("%s: found %v in a stream, want one: %v", name, found, c.stream)
		}
	}
	if form, ok := tokenendpoint.ParseForm([]byte("t=v&" + strings.Repeat("x=0&", 12_000))); !ok || !form.Cut() || form.Values() > tokenendpoint.MaxValues {
		t.Errorf("a form of many pairs: %v", ok)
	} else if value, _ := form.Lookup("t"); value != "v" {
		t.Errorf("its first pair is %v", value)
	}
}

// What is beyond the bounds is told.
func TestAttack14BoundsAreTold(t *testing.T) {
	ep := wiretest.Endpoint(wiretest.Responding(200, "application/json", `{"x":[`+strings.Repeat("0,", 12_000)+`0],"access_token":"a"}`))
	if ee := wiretest.MustFail(t, ep); ee.Class != tokenendpoint.Transient || !strings.Contains(ee.Error(), "within 64 levels and 10000 values") {
		t.Errorf("%v", ee)
	}
	ep = wiretest.Endpoint(wiretest.Responding(200, "application/json", `{"access_token":"a","x":[`+strings.Repeat("0,", 12_000)+`0]}`))
	if res := wiretest.MustCall(t, ep); res.AccessToken.Reveal() != "a" {
		t.Errorf("%q", res.AccessToken.Reveal())
	}
}
