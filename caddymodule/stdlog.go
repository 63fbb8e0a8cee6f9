package caddymodule

import (
	"bytes"
	"context"
	"io"
	"log"
	"time"
)

// net/http writes one line to the standard library's log that quotes an API: the
// beginning of a response for which nobody has asked, on an idle connection. It may
// hold a token. Caddy sends that log to its own. So this line loses its quotation.

// filterStdLog filters the standard library's log until ctx ends. Caddy replaces the
// log's writer with every load, also with one that fails before this module is
// reached. So it looks again and again.
func filterStdLog(ctx context.Context) {
	installStdLogFilter()
	go func() {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				installStdLogFilter()
			}
		}
	}()
}

func installStdLogFilter() {
	w := log.Writer()
	if _, done := w.(stdLogFilter); !done {
		log.SetOutput(stdLogFilter{w})
	}
}

// stdLogFilter writes what it gets, except for the quotation.
type stdLogFilter struct{ w io.Writer }

// unsolicited begins the line, after what the log puts before it.
var unsolicited = []byte("Unsolicited response received on idle HTTP channel")

// Write implements io.Writer.
func (f stdLogFilter) Write(p []byte) (int, error) {
	i := bytes.Index(p, unsolicited)
	if i < 0 {
		return f.w.Write(p)
	}
	line := append(bytes.Clone(p[:i+len(unsolicited)]), "; it is left out here, because it may hold a token\n"...)
	if _, err := f.w.Write(line); err != nil {
		return 0, err
	}
	return len(p), nil
}
