package tokenendpoint

import (
	"bufio"
	"encoding/json"
	"io"
	"slices"
	"strconv"
)

// FindMembers looks for members in the JSON document that r begins with, by paths
// such as those of a [Matcher], and returns the values of those that are there. It
// stops as soon as all are found, and reads little further than that, or than the
// document's end: what follows may be a long time coming. Of a document that is
// cut off or broken it returns what stands before that. An object or an array
// that is found is returned empty. ok is false if there is no object or array at
// all.
func FindMembers(r io.Reader, paths []string) (found map[string]any, ok bool) {
	in := bufio.NewReader(r)
	if !beginsJSON(in) {
		return nil, false
	}
	paths = slices.Compact(slices.Sorted(slices.Values(paths)))
	f := finder{found: make(map[string]any, len(paths)), missing: len(paths)}
	var root wanted
	for _, path := range paths {
		root.add(path)
	}
	d := json.NewDecoder(in)
	d.UseNumber()
	for f.missing > 0 {
		token, err := d.Token()
		if err != nil || !f.take(token, &root) {
			break
		}
	}
	return f.found, true
}

// beginsJSON reports whether what stands there is an object or an array, and
// passes over a byte order mark.
func beginsJSON(in *bufio.Reader) bool {
	if mark, err := in.Peek(1); err == nil && mark[0] == 0xef {
		if mark, err = in.Peek(3); err != nil || string(mark) != "\ufeff" {
			return false
		}
		_, _ = in.Discard(3)
	}
	for {
		c, err := in.ReadByte()
		switch {
		case err != nil:
			return false
		case c == '{' || c == '[':
			return in.UnreadByte() == nil
		case c != ' ' && c != '\t' && c != '\n' && c != '\r':
			return false
		}
	}
}

// wanted is a place in a document, as far as paths lead through it.
type wanted struct {
	paths []string // that end here
	below map[string]*wanted
}

// add adds a path. A name that itself holds dots is found too, at the root.
func (w *wanted) add(path string) {
	names := splitPath(path)
	w.at([]string{path}).end(path)
	if len(names) > 1 || names[0] != path {
		w.at(names).end(path)
	}
}

func (w *wanted) at(names []string) *wanted {
	for _, name := range names {
		next := w.below[name]
		if next == nil {
			if w.below == nil {
				w.below = make(map[string]*wanted)
			}
			next = new(wanted)
			w.below[name] = next
		}
		w = next
	}
	return w
}

func (w *wanted) end(path string) { w.paths = append(w.paths, path) }

// maxFindDepth is how deep a document is looked into: errors lie near the top,
// and what nests deeper is an attack.
const maxFindDepth = 64

// finder goes through a document. It remembers of each level that is open only
// what is looked for in it, so that a token costs the same at any depth.
type finder struct {
	found   map[string]any
	missing int
	open    []level
}

// level is an object or an array that is open.
type level struct {
	want  *wanted // nil: nothing in it
	array bool
	index int    // of the array's next element
	name  string // of the object's member
	named bool   // name was read, and its value comes next
}

// take takes the next token; false: the document has ended, or is too deep.
func (f *finder) take(token json.Token, root *wanted) bool {
	delim, isDelim := token.(json.Delim)
	if isDelim && (delim == '}' || delim == ']') {
		f.open = f.open[:len(f.open)-1]
		return len(f.open) > 0
	}
	want := root
	if n := len(f.open); n > 0 {
		l := &f.open[n-1]
		switch {
		case l.array:
			want = l.want.element(l.index)
			l.index++
		case !l.named:
			l.name, l.named = token.(string), true
			return true
		default:
			want = l.want.member(l.name)
			l.named = false
		}
	}
	if !isDelim {
		f.note(want, token)
		return true
	}
	if delim == '{' {
		f.note(want, map[string]any{})
	} else {
		f.note(want, []any{})
	}
	if len(f.open) == maxFindDepth {
		return false
	}
	f.open = append(f.open, level{want: want, array: delim == '['})
	return true
}

// member is what is wanted of a member.
func (w *wanted) member(name string) *wanted {
	if w == nil {
		return nil
	}
	return w.below[name]
}

// element is what is wanted of an array's element.
func (w *wanted) element(index int) *wanted {
	if w == nil || len(w.below) == 0 {
		return nil
	}
	return w.below[strconv.Itoa(index)]
}

// note remembers a value that was looked for; the first counts.
func (f *finder) note(want *wanted, value any) {
	if want == nil {
		return
	}
	for _, path := range want.paths {
		if _, twice := f.found[path]; !twice {
			f.found[path] = value
			f.missing--
		}
	}
}
