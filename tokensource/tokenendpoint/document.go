package tokenendpoint

import (
	"bytes"
	"strconv"
)

// document is a response's body, JSON or a form, that has been read. It knows where
// each value stands, and makes one only when it is asked for. A nil document has
// nothing.
type document struct {
	text []byte
	form bool
	// values are in the order of the text; the first is the document itself.
	values []placed
	// cut: there is more than is looked at, see maxDepth and maxValues.
	cut bool
}

// placed says where a value stands in a text.
type placed struct {
	name       int32 // where its name begins; of an array's element nothing
	start, end int32
	after      int32 // the index of the first value that is neither this nor in it
}

// maxValues is how many values of a document are looked at, from its beginning.
// Real token responses have some tens.
const maxValues = 10_000

// parseJSON reads a text that is one JSON document; nil: it is none, or null.
func parseJSON(text []byte) *document {
	text = bytes.TrimPrefix(text, []byte(byteOrderMark))
	d := &document{text: text}
	s := scanner{buf: text}
	d.makeRoom(",", "{", "[")
	var open [maxDepth]int32 // the values that are open; -1: one that was not looked at
	depth, name := 0, 0
	for {
		k, err := s.next()
		switch {
		case err != nil:
			return nil
		case k == jsonName:
			name = s.start
			continue
		case k == jsonEnd:
			depth--
			if depth < maxDepth && open[depth] >= 0 {
				d.close(open[depth], s.at())
			}
		default:
			i := int32(-1)
			if depth <= maxDepth {
				i = d.add(name, s.start, s.at())
			}
			d.cut = d.cut || i < 0
			if k == jsonObject || k == jsonArray {
				if depth < maxDepth {
					open[depth] = i
				}
				depth++
			}
		}
		if depth == 0 {
			break
		}
	}
	if !s.ended() || d.kind(0) == jsonNull {
		return nil
	}
	return d
}

// parseForm reads a text as a form (application/x-www-form-urlencoded); nil: it is
// none, or it is empty.
func parseForm(text []byte) *document {
	d := &document{text: text, form: true}
	d.makeRoom("&")
	d.add(0, 0, len(text))
	for start := 0; start <= len(text); {
		end := start + index(text[start:], '&')
		if pair := text[start:end]; len(pair) > 0 {
			if !wellFormedPair(pair) {
				return nil
			}
			value := min(start+index(pair, '=')+1, end)
			d.cut = d.add(start, value, end) < 0 || d.cut
		}
		start = end + 1
	}
	if len(d.values) == 1 {
		return nil
	}
	d.values[0].after = int32(len(d.values))
	return d
}

// index is where c stands in a text; where the text ends if it does not.
func index(text []byte, c byte) int {
	if i := bytes.IndexByte(text, c); i >= 0 {
		return i
	}
	return len(text)
}

// wellFormedPair is what [net/url.ParseQuery] says of a pair.
func wellFormedPair(pair []byte) bool {
	for i, c := range pair {
		if c == ';' || (c == '%' && (i+2 >= len(pair) || unhex(pair[i+1]) > 0xf || unhex(pair[i+2]) > 0xf)) {
			return false
		}
	}
	return true
}

// makeRoom makes room for all values at once. There is at most one more than there
// are separators.
func (d *document) makeRoom(separators ...string) {
	n := 1
	for _, s := range separators {
		n += bytes.Count(d.text, []byte(s))
	}
	if d.form {
		n++
	}
	d.values = make([]placed, 0, min(n, maxValues))
}

// add adds a value without anything in it, and returns its index; -1: there are
// too many.
func (d *document) add(name, start, end int) int32 {
	n := len(d.values)
	if n == maxValues {
		return -1
	}
	d.values = append(d.values, placed{int32(name), int32(start), int32(end), int32(n + 1)})
	return int32(n)
}

// close ends an object or an array.
func (d *document) close(i int32, end int) {
	d.values[i].end, d.values[i].after = int32(end), int32(len(d.values))
}

// kind is what a value is.
func (d *document) kind(i int32) kind {
	switch {
	case d.form && i == 0:
		return jsonObject
	case d.form:
		return jsonString
	}
	switch c := d.text[d.values[i].start]; c {
	case '{', '[', '"', 't', 'f':
		return kind(c)
	case 'n', 'N', 'I':
		return jsonNull
	case '-':
		if next := d.text[d.values[i].start+1]; !isDigit(next) {
			return jsonNull // -Infinity
		}
	}
	return jsonNumber
}

// value is a value as encoding/json decodes it; of an object or an array an empty
// one.
func (d *document) value(i int32) any {
	text := d.text[d.values[i].start:d.values[i].end]
	if d.form && i > 0 {
		return string(unescape(text))
	}
	return valueOf(d.kind(i), text)
}

// name is the name of a member as it is written.
func (d *document) name(i int32) []byte {
	at := d.values[i].name
	if !d.form {
		s := scanner{buf: d.text, i: int(at) + 1}
		_ = s.string('"') // it was read before
		return d.text[at+1 : s.at()-1]
	}
	end := d.values[i].start
	if end > at && d.text[end-1] == '=' {
		end--
	}
	return d.text[at:end]
}

// isNamed reports whether that is a member's name.
func (d *document) isNamed(i int32, name string) bool {
	if d.form {
		return saysEscaped(d.name(i), name)
	}
	return saysString(d.name(i), name)
}

// in visits what stands in an object or an array, until visit returns false.
func (d *document) in(i int32, visit func(child int32) bool) {
	for c := i + 1; c < d.values[i].after; c = d.values[c].after {
		if !visit(c) {
			return
		}
	}
}

// member finds a member of an object; -1: there is none. Of several with the same
// name the last counts, as in encoding/json, and in a form the first, as in net/url.
func (d *document) member(i int32, name string) int32 {
	found := int32(-1)
	d.in(i, func(child int32) bool {
		if d.isNamed(child, name) {
			found = child
		}
		return !d.form || found < 0
	})
	return found
}

// element finds an element of an array, by its index as text.
func (d *document) element(i int32, index string) int32 {
	n, err := strconv.Atoi(index)
	found := int32(-1)
	if err != nil || n < 0 {
		return found
	}
	d.in(i, func(child int32) bool {
		if n--; n < 0 {
			found = child
		}
		return n >= 0
	})
	return found
}

// lookup finds a value by its dotted path. A name that itself holds dots is found
// too, at the top.
func (d *document) lookup(path string) (any, bool) {
	if d == nil {
		return nil, false
	}
	if d.kind(0) == jsonObject {
		if i := d.member(0, path); i >= 0 {
			return d.value(i), true
		}
	}
	at := int32(0)
	for _, name := range splitPath(path) {
		switch d.kind(at) {
		case jsonObject:
			at = d.member(at, name)
		case jsonArray:
			at = d.element(at, name)
		default:
			return nil, false
		}
		if at < 0 {
			return nil, false
		}
	}
	return d.value(at), true
}

// fields lists the first scalar members that are short, by their dotted paths, with
// no value of a name or a path that is to be skipped. Of several with the same path
// the last counts.
func (d *document) fields(skip func(path, name []byte) bool) []Field {
	if d == nil {
		return nil
	}
	var fields []Field
	var path []byte
	var walk func(i int32)
	walk = func(i int32) {
		if d.kind(i) != jsonObject {
			return
		}
		d.in(i, func(child int32) bool {
			before := len(path)
			defer func() { path = path[:before] }()
			written := d.name(child)
			if before+len(written) > maxFieldSize {
				return true
			}
			if path = append(path, d.meant(written)...); skip(path, path[before:]) {
				return true
			}
			switch k := d.kind(child); k {
			case jsonObject:
				path = append(path, '.')
				walk(child)
			case jsonString, jsonNumber, jsonTrue, jsonFalse:
				fields = d.addField(fields, path, child)
			}
			return true
		})
	}
	walk(0)
	return fields
}

// meant is what a name that is written so says.
func (d *document) meant(written []byte) []byte {
	if d.form {
		return unescape(written)
	}
	return unquote(written)
}

// addField adds a field, or replaces the one of that path.
func (d *document) addField(fields []Field, path []byte, i int32) []Field {
	if size := d.values[i].end - d.values[i].start; size > 6*maxFieldSize+2 { // as \u0061
		return fields
	}
	at := -1
	for n := range fields {
		if fields[n].Name == string(path) {
			at = n
		}
	}
	if at < 0 && len(fields) == maxFields {
		return fields
	}
	text, _ := scalarText(d.value(i))
	switch {
	case len(text) > maxFieldSize:
	case at >= 0:
		fields[at].Value = text
	default:
		fields = append(fields, Field{string(path), text})
	}
	return fields
}

// unescape is what a part of a form says. It is text itself if that holds no
// escapes.
func unescape(text []byte) []byte {
	if bytes.IndexByte(text, '%') < 0 && bytes.IndexByte(text, '+') < 0 {
		return text
	}
	out := make([]byte, 0, len(text))
	for len(text) > 0 {
		c, size := unescapeByte(text)
		out, text = append(out, c), text[size:]
	}
	return out
}

// saysEscaped reports whether a part of a form says what is wanted.
func saysEscaped(text []byte, wanted string) bool {
	for len(text) > 0 {
		c, size := unescapeByte(text)
		if wanted == "" || wanted[0] != c {
			return false
		}
		text, wanted = text[size:], wanted[1:]
	}
	return wanted == ""
}

// unescapeByte is the first byte that a part of a form says, and how many bytes
// that is written with.
func unescapeByte(text []byte) (byte, int) {
	switch text[0] {
	case '+':
		return ' ', 1
	case '%':
		return unhex(text[1])<<4 | unhex(text[2]), 3
	}
	return text[0], 1
}

// looksLikeForm reports whether a text looks like a form, whatever it is called.
func looksLikeForm(text []byte) bool {
	return bytes.IndexByte(text, '=') >= 0 && !bytes.ContainsAny(text, "<>{}\n ")
}
