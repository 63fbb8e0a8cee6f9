package tokenendpoint

// Document is a body that has been read, for tests.
type Document struct{ d *document }

// ParseJSON and ParseForm read a body; ok is false if it is none.
func ParseJSON(text []byte) (d Document, ok bool) { return parsed(parseJSON(text)) }
func ParseForm(text []byte) (d Document, ok bool) { return parsed(parseForm(text)) }

func parsed(d *document) (Document, bool) { return Document{d}, d != nil }

// Lookup finds a value by its path.
func (d Document) Lookup(path string) (any, bool) { return d.d.lookup(path) }

// Values is how many values are looked at, and Cut whether there are more.
func (d Document) Values() int { return len(d.d.values) }
func (d Document) Cut() bool   { return d.d.cut }

// What is looked at.
const (
	MaxDepth  = maxDepth
	MaxValues = maxValues
)
