package tokensource_test

import (
	"slices"
	"testing"

	"github.com/caddy-bearer/caddy-bearer/tokensource"
)

// A key gives back its values, and no two lists of values are one key.
func FuzzKey(f *testing.F) {
	for _, values := range alike {
		f.Add(values[0], values[1], "x", "y")
	}
	f.Add("a", "b", "a", "b")
	f.Fuzz(func(t *testing.T, a, b, c, d string) {
		one, other := tokensource.NewKey(a, b), tokensource.NewKey(c, d)
		if got := one.Values(); !slices.Equal(got, []string{a, b}) {
			t.Errorf("NewKey(%q, %q) gives back %q", a, b, got)
		}
		if (one == other) != (a == c && b == d) || (one.String() == other.String()) != (one == other) {
			t.Errorf("(%q, %q) and (%q, %q) are taken for one or for two", a, b, c, d)
		}
		if one == tokensource.NewKey(a+b) || one == tokensource.NewKey(a, b, "") {
			t.Errorf("(%q, %q) is a key of another length too", a, b)
		}
	})
}
