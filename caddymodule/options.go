package caddymodule

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/dustin/go-humanize"
)

// option describes one option of a Caddyfile block. All our blocks are parsed
// by tables of them, so that every option rejects the same mistakes in the
// same words: misspelt, doubled, too many or too few arguments, wrong type.
type option struct {
	// usage shows the arguments, as in "<name> <value>".
	usage string
	// min and max count the arguments; max -1 is any number.
	min, max int
	// repeat allows the option more than once.
	repeat bool
	// parse takes the arguments; d stands at the last one, for blocks and errors.
	parse func(d *caddyfile.Dispenser, args []string) error
}

type options map[string]option

// parse reads the block that opens at d, if there is one, noting in o where
// each option stands. within names the block in errors. other, if not nil,
// takes the options that are not in the table.
func (os options) parse(d *caddyfile.Dispenser, within string, o *Origin, other func(*caddyfile.Dispenser) (bool, error)) error {
	seen := make(map[string]int)
	last := ""
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		name, line := d.Val(), d.Line()
		opt, known := os[name]
		if first, twice := seen[name]; twice && !opt.repeat {
			return d.Errf("%s: given twice in %s (first on line %d): expected it once", name, within, first)
		}
		seen[name] = line
		if name == "{" {
			return d.Errf("%s takes no block: expected an option of %s", last, within)
		}
		last = name
		if !known {
			if other != nil {
				if taken, err := other(d); taken || err != nil {
					if err != nil {
						return err
					}
					continue
				}
			}
			return d.Errf("unrecognized option %q in %s: expected %s", name, within, os.expected(name))
		}
		args := d.RemainingArgs()
		if len(args) < opt.min || (opt.max >= 0 && len(args) > opt.max) {
			return d.Errf("%s: got %s: expected %s", name, counted(len(args), "argument"), strings.TrimSpace(name+" "+opt.usage))
		}
		if i := slices.Index(args, ""); i >= 0 {
			return d.Errf("%s: argument %d is empty: expected %s %s", name, i+1, name, opt.usage)
		}
		o.note(name, line)
		if opt.repeat && len(args) > 0 {
			o.note(name+" "+args[0], line)
		}
		if err := opt.parse(d, args); err != nil {
			if !strings.HasPrefix(err.Error(), name) {
				err = fmt.Errorf("%s: %w", name, err)
			}
			return err
		}
	}
	return nil
}

func counted(n int, noun string) string {
	switch n {
	case 0:
		return "no " + noun
	case 1:
		return "1 " + noun
	}
	return strconv.Itoa(n) + " " + noun + "s"
}

// expected lists the options, the nearest first when the word looks like a
// misspelling of it.
func (os options) expected(word string) string {
	names := slices.Sorted(maps.Keys(os))
	list := "one of " + strings.Join(names, ", ")
	best, distance := "", 3
	for _, name := range names {
		if d := editDistance(word, name); d < distance {
			best, distance = name, d
		}
	}
	if best != "" {
		return best + "? (" + list + ")"
	}
	return list
}

// editDistance is Levenshtein's.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(row[j]+1, row[j+1]+1, diagonal+cost)
		}
	}
	return row[len(b)]
}

// The kinds of options that fill one field.

func textOption(field *string, usage string) option {
	return option{usage: usage, min: 1, max: 1, parse: func(_ *caddyfile.Dispenser, args []string) error {
		*field = args[0]
		return nil
	}}
}

func listOption(field *[]string, usage string) option {
	return option{usage: usage, min: 1, max: -1, parse: func(_ *caddyfile.Dispenser, args []string) error {
		*field = args
		return nil
	}}
}

// choiceOption takes one of a list of words.
func choiceOption(field *string, words ...string) option {
	return option{usage: strings.Join(words, "|"), min: 1, max: 1, parse: func(d *caddyfile.Dispenser, args []string) error {
		if !slices.Contains(words, args[0]) {
			return d.Errf("%q: expected one of %s", args[0], strings.Join(words, ", "))
		}
		*field = args[0]
		return nil
	}}
}

func durationOption(field *caddy.Duration) option {
	return option{usage: "<duration>", min: 1, max: 1, parse: func(d *caddyfile.Dispenser, args []string) (err error) {
		*field, err = parseDuration(d, args[0])
		return err
	}}
}

func parseDuration(d *caddyfile.Dispenser, text string) (caddy.Duration, error) {
	dur, err := caddy.ParseDuration(text)
	if err != nil || dur < 0 {
		return 0, d.Errf("%q is not a duration: expected one such as 30s, 5m or 12h", text)
	}
	return caddy.Duration(dur), nil
}

// flagOption takes no argument: the option being there is all that it says.
func flagOption(field *bool) option {
	return option{max: 0, parse: func(*caddyfile.Dispenser, []string) error {
		*field = true
		return nil
	}}
}

func countOption(field *int) option {
	return option{usage: "<number>", min: 1, max: 1, parse: func(d *caddyfile.Dispenser, args []string) error {
		n, err := strconv.Atoi(args[0])
		if err != nil || n < 1 {
			return d.Errf("%q is not a count: expected a whole number from 1", args[0])
		}
		*field = n
		return nil
	}}
}

func sizeOption(field **int64) option {
	return option{usage: "<size>", min: 1, max: 1, parse: func(d *caddyfile.Dispenser, args []string) error {
		n, err := humanize.ParseBytes(args[0])
		if err != nil || n > 1<<30 {
			return d.Errf("%q is not a size: expected one such as 64KiB, at most 1GiB", args[0])
		}
		size := int64(n)
		*field = &size
		return nil
	}}
}

// parsePercent reads a share such as 20%.
func parsePercent(d *caddyfile.Dispenser, text string) (float64, error) {
	digits, ok := strings.CutSuffix(text, "%")
	share, err := strconv.ParseFloat(digits, 64)
	if !ok || err != nil || !(share > 0 && share <= 100) {
		return 0, d.Errf("%q is not a share: expected one such as 20%%, above 0%% and at most 100%%", text)
	}
	return share / 100, nil
}

func statusList(d *caddyfile.Dispenser, args []string) ([]int, error) {
	var list []int
	for _, arg := range args {
		code, err := strconv.Atoi(arg)
		if err != nil || code < 100 || code > 599 {
			return nil, d.Errf("%q is not a status: expected a number from 100 to 599", arg)
		}
		list = append(list, code)
	}
	return list, nil
}
