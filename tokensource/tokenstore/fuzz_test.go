package tokenstore

import (
	"bytes"
	"errors"
	"reflect"
	"testing"
)

// FuzzDecode: whatever lies in a store, it is a record, or an error that says why not. With a key only what was sealed for
// this name is one. A record that was read is written and read again without a change.
func FuzzDecode(f *testing.F) {
	plain, err := NewCodec(nil, false)
	if err != nil {
		f.Fatal(err)
	}
	keyed, err := NewCodec([][]byte{bytes.Repeat([]byte{1}, KeySize), bytes.Repeat([]byte{2}, KeySize)}, false)
	if err != nil {
		f.Fatal(err)
	}
	const name = "source/key"
	record := &Record{Generation: 3, Codes: []string{"a"}}
	for _, c := range []*Codec{plain, keyed} {
		for _, n := range []string{name, "source/another"} {
			b, err := c.Encode(n, record)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(b)
		}
	}
	for _, text := range []string{"", "{}", "[]", `{"version":1,"generation":1,"access_token":"planted"}`, `{"version":2,"record":{},"sum":""}`, `{"version":99}`, `{"version":2,"key":"x","sealed":"AAAA"}`, `{"version":-1}`} {
		f.Add([]byte(text))
	}
	sealed, err := keyed.Encode(name, record)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for what, c := range map[string]*Codec{"plain": plain, "keyed": keyed} {
			r, err := c.Decode(name, b)
			if err != nil {
				if !errors.Is(err, ErrUnreadable) && !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrUnsealed) {
					t.Errorf("%s: %v", what, err)
				}
				continue
			}
			if what == "keyed" && !reflect.DeepEqual(r, record) {
				t.Errorf("a record that nobody has sealed: %+v, of %q; the sealed one is %q", r, b, sealed)
			}
			again, err := c.Encode(name, r)
			if err != nil {
				t.Fatal(err)
			}
			if twice, err := c.Decode(name, again); err != nil || !reflect.DeepEqual(twice, r) {
				t.Errorf("%s: %+v became %+v, %v", what, r, twice, err)
			}
		}
	})
}
