package caddymodule

import (
	"bytes"
	"encoding/json"
	"fmt"
)

// Origin remembers where in a Caddyfile something was written, so that what
// is found wrong only when the config is loaded (a missing source, an empty
// environment variable) is still told with file and line. The Caddyfile
// adapter fills it in; hand-written JSON has no use for it.
type Origin struct {
	// File is the Caddyfile's name.
	File string `json:"file,omitempty"`
	// Lines are the options' lines, by option; "" is the block itself.
	Lines map[string]int `json:"lines,omitempty"`
}

// note is nil-safe: not every block's lines are wanted.
func (o *Origin) note(option string, line int) {
	if o == nil {
		return
	}
	if o.Lines == nil {
		o.Lines = make(map[string]int)
	}
	if _, ok := o.Lines[option]; !ok {
		o.Lines[option] = line
	}
}

// errorf makes an error about an option, with its place if that is known. It
// looks for the option's line, then for the block's.
func (o *Origin) errorf(option, format string, args ...any) error {
	err := fmt.Errorf(format, args...)
	if option != "" {
		err = fmt.Errorf("%s: %w", option, err)
	}
	if o == nil || o.File == "" {
		return err
	}
	line, ok := o.Lines[option]
	if !ok {
		line = o.Lines[""]
	}
	return fmt.Errorf("%s:%d: %w", o.File, line, err)
}

// withoutOrigin is a grant's settings without where they were written: for
// telling whether they changed. A line added above does not change them. Only a
// member of an Origin's form counts, and only the grant's own: a parameter may be
// called origin, too.
func withoutOrigin(grant json.RawMessage) (json.RawMessage, error) {
	var members map[string]json.RawMessage
	if err := json.Unmarshal(grant, &members); err != nil {
		return nil, err
	}
	d := json.NewDecoder(bytes.NewReader(members["origin"]))
	d.DisallowUnknownFields()
	if d.Decode(new(Origin)) == nil {
		delete(members, "origin")
	}
	return json.Marshal(members)
}
