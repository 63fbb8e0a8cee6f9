package tokenendpoint

import (
	"encoding/json"
	"errors"
	"io"
	"unicode/utf16"
	"unicode/utf8"
)

// Reading JSON that may have been made to cost a lot. encoding/json makes a map of
// each object and a string of each name, which is some sixty times the size of a
// document of small objects. What is read here is looked at in place, and only what
// is asked for becomes a value. So a document costs the same for each of its bytes,
// whatever it consists of.

// maxDepth is how deep a document is looked into: tokens and errors lie near the
// top, and what nests deeper is an attack. What stands deeper is passed over.
const maxDepth = 64

// errJSON says that a text is not JSON.
var errJSON = errors.New("not JSON (RFC 8259)")

// kind says what a piece of a document is.
type kind byte

const (
	jsonName   kind = 'n'
	jsonString kind = '"'
	jsonNumber kind = '0'
	jsonTrue   kind = 't'
	jsonFalse  kind = 'f'
	jsonNull   kind = 'z'
	jsonObject kind = '{'
	jsonArray  kind = '['
	jsonEnd    kind = '}' // of an object or an array
)

// scanner reads a document piece by piece, from memory or from a reader. It checks
// the grammar as encoding/json does, and takes NaN and Infinity, which some encoders
// write, for null. It remembers one byte for each level that is open, and a piece
// only if it is told to.
type scanner struct {
	in     io.Reader // where buf is filled from; nil: there is nothing but buf
	buf    []byte
	i      int // in buf
	before int // bytes before buf

	open    []byte // the brackets that are open
	expects expectation

	start int    // where the last piece begins
	keep  bool   // pieces are remembered in text
	text  []byte // the last name, string or number, as it is written
}

// expectation is what may come next.
type expectation byte

const (
	expectValue      expectation = iota
	expectElement                // a value, or the end of an array
	expectFirstName              // a name, or the end of an object
	expectName                   // behind a comma
	expectColon                  // behind a name
	expectComma                  // or an end
	expectEndOfInput             // the document is complete
)

// at is where the next byte is.
func (s *scanner) at() int { return s.before + s.i }

// read reads a byte.
func (s *scanner) read() (byte, error) {
	if s.i == len(s.buf) {
		if err := s.fill(); err != nil {
			return 0, err
		}
	}
	c := s.buf[s.i]
	s.i++
	return c, nil
}

// unread takes back the byte that was read last.
func (s *scanner) unread() { s.i-- }

// fill reads on. It returns as soon as there is anything: the rest may be a long
// time coming.
func (s *scanner) fill() error {
	if s.in == nil {
		return io.EOF
	}
	s.before += len(s.buf)
	s.buf, s.i = s.buf[:0], 0
	for range 100 {
		n, err := s.in.Read(s.buf[:cap(s.buf)])
		switch {
		case n > 0:
			s.buf = s.buf[:n]
			return nil // if err is not nil, it comes again
		case err != nil:
			return err
		}
	}
	return io.ErrNoProgress
}

// take reads a byte that belongs to the piece.
func (s *scanner) take() (byte, error) {
	c, err := s.read()
	if s.keep && err == nil {
		s.text = append(s.text, c)
	}
	return c, err
}

// skipBlanks reads the first byte that is not blank.
func (s *scanner) skipBlanks() (byte, error) {
	for {
		c, err := s.read()
		if err != nil || (c != ' ' && c != '\t' && c != '\n' && c != '\r') {
			return c, err
		}
	}
}

// next reads the next piece. The error is io.EOF, the reader's own, or errJSON.
func (s *scanner) next() (kind, error) {
	for {
		c, err := s.skipBlanks()
		if err != nil {
			return 0, err
		}
		switch s.expects {
		case expectComma:
			switch {
			case c != ',':
				return s.end(c)
			case s.open[len(s.open)-1] == '{':
				s.expects = expectName
			default:
				s.expects = expectValue
			}
		case expectColon:
			if c != ':' {
				return 0, errJSON
			}
			s.expects = expectValue
		case expectFirstName, expectName:
			switch {
			case c == '"':
				s.expects = expectColon
				return jsonName, s.string(c)
			case s.expects == expectFirstName:
				return s.end(c)
			}
			return 0, errJSON
		case expectElement, expectValue:
			if c == ']' && s.expects == expectElement {
				return s.end(c)
			}
			return s.value(c)
		default:
			return 0, errJSON
		}
	}
}

// end reads the end of an object or an array, which c must be.
func (s *scanner) end(c byte) (kind, error) {
	last := len(s.open) - 1
	if (c != '}' && c != ']') || (c == '}') != (s.open[last] == '{') {
		return 0, errJSON
	}
	s.open = s.open[:last]
	s.valueRead()
	return jsonEnd, nil
}

func (s *scanner) valueRead() {
	s.expects = expectComma
	if len(s.open) == 0 {
		s.expects = expectEndOfInput
	}
}

// value reads a value that begins with c: an object or an array no further than
// its bracket.
func (s *scanner) value(c byte) (kind, error) {
	s.start, s.text = s.at()-1, s.text[:0]
	switch c {
	case '{', '[':
		s.open = append(s.open, c)
		s.expects = expectFirstName
		if c == '[' {
			s.expects = expectElement
		}
		return kind(c), nil
	case '"':
		s.valueRead()
		return jsonString, s.string(c)
	case 't':
		s.valueRead()
		return jsonTrue, s.word("rue")
	case 'f':
		s.valueRead()
		return jsonFalse, s.word("alse")
	case 'n', 'N', 'I':
		s.valueRead()
		return jsonNull, s.word(nulls[c])
	}
	s.valueRead()
	return s.number(c)
}

// nulls are the rests of the words that are null, by their first letters.
var nulls = map[byte]string{'n': "ull", 'N': "aN", 'I': "nfinity"}

func (s *scanner) word(rest string) error {
	for i := range len(rest) {
		if c, err := s.read(); err != nil || c != rest[i] {
			return orJSON(err)
		}
	}
	return nil
}

// orJSON is err, or errJSON if there is none.
func orJSON(err error) error {
	if err == nil {
		return errJSON
	}
	return err
}

// string reads a string up to its end.
func (s *scanner) string(quote byte) error {
	s.start, s.text = s.at()-1, s.text[:0]
	if s.keep {
		s.text = append(s.text, quote)
	}
	for {
		c, err := s.take()
		switch {
		case err != nil:
			return err
		case c == '"':
			return nil
		case c < ' ':
			return errJSON
		case c != '\\':
			continue
		}
		switch c, err = s.take(); {
		case err != nil:
			return err
		case c == 'u':
			for range 4 {
				if c, err = s.take(); err != nil || unhex(c) > 0xf {
					return orJSON(err)
				}
			}
		case escapes[c] == 0:
			return errJSON
		}
	}
}

// escapes are what may follow a backslash, and what that stands for.
var escapes = [256]byte{'"': '"', '\\': '\\', '/': '/', 'b': '\b', 'f': '\f', 'n': '\n', 'r': '\r', 't': '\t'}

// unhex is the value of a hexadecimal digit; more than 15: it is none.
func unhex(c byte) byte {
	switch {
	case '0' <= c && c <= '9':
		return c - '0'
	case 'a' <= c|0x20 && c|0x20 <= 'f':
		return c | 0x20 - 'a' + 10
	}
	return 0xff
}

// number reads a number that begins with c. The byte behind it must be there,
// unless the number is the whole document: it may have been cut off.
func (s *scanner) number(c byte) (kind, error) {
	if s.keep {
		s.text = append(s.text, c)
	}
	var err error
	if c == '-' {
		if c, err = s.take(); err != nil {
			return 0, err
		}
		if rest := nulls[c]; rest != "" && c != 'n' {
			return jsonNull, s.word(rest)
		}
	}
	switch {
	case c == '0':
		c, err = s.take()
	case '1' <= c && c <= '9':
		c, err = s.digits()
	default:
		return 0, errJSON
	}
	if err == nil && c == '.' {
		if c, err = s.take(); err != nil || !isDigit(c) {
			return 0, orJSON(err)
		}
		c, err = s.digits()
	}
	if err == nil && c|0x20 == 'e' {
		if c, err = s.take(); err == nil && (c == '+' || c == '-') {
			c, err = s.take()
		}
		if err != nil || !isDigit(c) {
			return 0, orJSON(err)
		}
		_, err = s.digits()
	}
	switch {
	case err == nil:
		s.unread()
		if s.keep {
			s.text = s.text[:len(s.text)-1]
		}
	case !errors.Is(err, io.EOF) || len(s.open) > 0:
		return 0, err
	}
	return jsonNumber, nil
}

// digits reads on to the first byte that is no digit, and returns that.
func (s *scanner) digits() (byte, error) {
	for {
		if c, err := s.take(); err != nil || !isDigit(c) {
			return c, err
		}
	}
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// ended reports whether nothing but blanks follows the document.
func (s *scanner) ended() bool {
	_, err := s.skipBlanks()
	return s.expects == expectEndOfInput && errors.Is(err, io.EOF)
}

// valueOf is the value of a piece, as encoding/json decodes it; of an object or an
// array an empty one. text is how it is written.
func valueOf(k kind, text []byte) any {
	switch k {
	case jsonString:
		return string(unquote(text[1 : len(text)-1]))
	case jsonNumber:
		return json.Number(text)
	case jsonTrue, jsonFalse:
		return k == jsonTrue
	case jsonObject:
		return map[string]any{}
	case jsonArray:
		return []any{}
	}
	return nil
}

// unquote is what a string says, between its quotes. It is text itself if that
// holds no escapes and is UTF-8.
func unquote(text []byte) []byte {
	plain := 0
	for plain < len(text) && text[plain] != '\\' && text[plain] < utf8.RuneSelf {
		plain++
	}
	if plain == len(text) {
		return text
	}
	out := append(make([]byte, 0, len(text)), text[:plain]...)
	for rest := text[plain:]; len(rest) > 0; {
		r, size := unquoteRune(rest)
		out, rest = utf8.AppendRune(out, r), rest[size:]
	}
	return out
}

// saysString reports whether a string between quotes says what is wanted.
func saysString(text []byte, wanted string) bool {
	if len(text) < len(wanted)/utf8.UTFMax {
		return false
	}
	for len(text) > 0 {
		if c := text[0]; c != '\\' && c < utf8.RuneSelf {
			if wanted == "" || wanted[0] != c {
				return false
			}
			text, wanted = text[1:], wanted[1:]
			continue
		}
		var said [utf8.UTFMax]byte
		r, size := unquoteRune(text)
		n := utf8.EncodeRune(said[:], r)
		if len(wanted) < n || wanted[:n] != string(said[:n]) {
			return false
		}
		text, wanted = text[size:], wanted[n:]
	}
	return wanted == ""
}

// unquoteRune is the first character that a string says, and how many bytes that
// is written with. Half a surrogate pair and what is not UTF-8 become U+FFFD, as in
// encoding/json.
func unquoteRune(text []byte) (rune, int) {
	if text[0] != '\\' {
		return utf8.DecodeRune(text)
	}
	if text[1] != 'u' {
		return rune(escapes[text[1]]), 2
	}
	r := hexRune(text)
	if !utf16.IsSurrogate(r) {
		return r, 6
	}
	if len(text) >= 12 && text[6] == '\\' && text[7] == 'u' {
		if pair := utf16.DecodeRune(r, hexRune(text[6:])); pair != utf8.RuneError {
			return pair, 12
		}
	}
	return utf8.RuneError, 6
}

// hexRune reads \uXXXX.
func hexRune(text []byte) (r rune) {
	for _, c := range text[2:6] {
		r = r<<4 | rune(unhex(c))
	}
	return r
}
