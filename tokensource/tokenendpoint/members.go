package tokenendpoint

import (
	"io"
	"slices"
	"strconv"
)

// FindMembers looks for members in the JSON document that r begins with, by paths
// such as those of a [Matcher], and returns the values of those that are there. It
// stops as soon as all are found, and reads little further than that, or than the
// document's end: what follows may be a long time coming. Of a document that is
// cut off or broken it returns what stands before that. An object or an array
// that is found is returned empty. It also stops where the document nests more than
// 64 levels deep: that is an attack, and the rest is not worth waiting for. ok is
// false if there is no object or array at all.
//
// It reads each byte once, and allocates little more than what it returns.
func FindMembers(r io.Reader, paths []string) (found map[string]any, ok bool) {
	f := finder{scanner: scanner{in: r, buf: make([]byte, 0, 4<<10)}}
	if !f.begin() {
		return nil, false
	}
	paths = slices.Compact(slices.Sorted(slices.Values(paths)))
	f.found, f.missing = make(map[string]any, len(paths)), len(paths)
	var root wanted
	for _, path := range paths {
		root.add(path)
	}
	for f.missing > 0 && f.step(&root) {
	}
	return f.found, true
}

// begin passes over a byte order mark and blanks, and reports whether an object or
// an array begins there.
func (s *scanner) begin() bool {
	c, err := s.read()
	if err == nil && c == byteOrderMark[0] {
		if s.word(byteOrderMark[1:]) != nil {
			return false
		}
		c, err = s.read()
	}
	for err == nil && (c == ' ' || c == '\t' || c == '\n' || c == '\r') {
		c, err = s.read()
	}
	if err != nil || (c != '{' && c != '[') {
		return false
	}
	s.unread()
	return true
}

const byteOrderMark = "\ufeff"

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

// finder goes through a document. It remembers of each level that is open only
// what is looked for in it, so that a piece costs the same at any depth.
type finder struct {
	scanner
	found   map[string]any
	missing int
	levels  []level
}

// level is an object or an array that is open.
type level struct {
	want  *wanted // nil: nothing in it
	array bool
	index int     // of the array's next element
	value *wanted // what is wanted of the object's member whose name was read
}

// step takes the next piece; false: the document has ended, or is too deep.
func (f *finder) step(root *wanted) bool {
	var l *level
	want := root // of a value that comes next
	if n := len(f.levels); n > 0 {
		l = &f.levels[n-1]
		if want = l.value; l.array {
			want = l.want.element(l.index)
		}
	}
	// a name must be read where something in the object is wanted
	f.keep = want != nil || (l != nil && l.want != nil)
	k, err := f.next()
	switch {
	case err != nil:
		return false
	case k == jsonEnd:
		f.levels = f.levels[:len(f.levels)-1]
		return len(f.levels) > 0
	case k == jsonName:
		l.value = l.want.member(f.text)
		return true
	}
	if l != nil {
		l.index++
	}
	f.note(want, k)
	if k == jsonObject || k == jsonArray {
		f.levels = append(f.levels, level{want: want, array: k == jsonArray})
	}
	return len(f.levels) <= maxDepth
}

// member is what is wanted of a member, by its name as it is written.
func (w *wanted) member(name []byte) *wanted {
	if w == nil || len(w.below) == 0 {
		return nil
	}
	return w.below[string(unquote(name[1:len(name)-1]))]
}

// element is what is wanted of an array's element.
func (w *wanted) element(index int) *wanted {
	if w == nil || len(w.below) == 0 {
		return nil
	}
	var digits [20]byte
	return w.below[string(strconv.AppendInt(digits[:0], int64(index), 10))]
}

// note remembers a value that was looked for; the first counts.
func (f *finder) note(want *wanted, k kind) {
	if want == nil {
		return
	}
	for _, path := range want.paths {
		if _, twice := f.found[path]; !twice {
			f.found[path] = valueOf(k, f.text)
			f.missing--
		}
	}
}
