package rig

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
)

// Line is one thing that happened.
type Line struct {
	At   time.Time
	Text string
}

// Timeline tells all that happened from one moment to another: what the provider was asked, what was stored, what the
// replicas logged, and what else the caller knows.
func (f *Fleet) Timeline(from, to time.Time, stored *Watch, more ...Line) string {
	lines := more
	for _, c := range f.Provider.TokenCalls() {
		lines = append(lines, Line{c.Time, "provider: " + c.String()})
	}
	if stored != nil {
		for _, at := range stored.Between(from, to) {
			lines = append(lines, Line{at, "store: the record has changed"})
		}
	}
	for _, r := range f.Replicas {
		logged, _ := r.Logged(from)
		for _, l := range logged {
			lines = append(lines, Line{l.At, r.Name + " logs: " + l.Level + " " + l.Text})
		}
	}
	lines = slices.DeleteFunc(lines, func(l Line) bool { return l.At.Before(from) || l.At.After(to) })
	slices.SortStableFunc(lines, func(a, b Line) int { return a.At.Compare(b.At) })
	var text strings.Builder
	for _, l := range lines {
		fmt.Fprintf(&text, "%9.1f ms  %s\n", l.At.Sub(from).Seconds()*1e3, l.Text)
	}
	return text.String()
}

// Logged is one line of a replica's log.
type Logged struct {
	At    time.Time
	Level string
	// Text is the message and the fields that belong to it.
	Text string
}

// Logged gives what a replica has logged of its token sources since a moment.
func (r *Replica) Logged(since time.Time) ([]Logged, error) {
	text, err := os.ReadFile(r.Log)
	if err != nil {
		return nil, err
	}
	var out []Logged
	lines := bufio.NewScanner(bytes.NewReader(text))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		fields := map[string]any{}
		if json.Unmarshal(lines.Bytes(), &fields) != nil {
			continue // a panic's, maybe
		}
		ts, _ := fields["ts"].(float64)
		logger, _ := fields["logger"].(string)
		at := time.UnixMicro(int64(ts * 1e6))
		if at.Before(since) || !strings.HasPrefix(logger, "token_sources") {
			continue
		}
		level, _ := fields["level"].(string)
		l := Logged{At: at, Level: level, Text: fmt.Sprint(fields["msg"])}
		for _, name := range []string{"reason", "result", "via", "error"} {
			if value, ok := fields[name]; ok {
				l.Text += fmt.Sprintf(" %s=%q", name, fmt.Sprint(value))
			}
		}
		out = append(out, l)
	}
	return out, lines.Err()
}
