package caddymodule

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
)

func init() {
	httpcaddyfile.RegisterGlobalOption("token_source", parseTokenSource)
}

// parseTokenSource parses the global option token_source, which may be given
// once for each source. Syntax:
//
//	token_source <name> {
//	    grant <type> {
//	        ...
//	    }
//	    refresh {
//	        ...
//	    }
//	    key           <name> <placeholder>
//	    lifetime      <duration>|forever [max <duration>]
//	    refresh_ahead <share>% [max <duration>]
//	    grace         <duration>
//	    min_interval  <duration>
//	    retry_max     <duration>
//	    max_wait      <duration>
//	    lazy
//	    max_keys      <number>
//	    max_memory    <size>
//	    breaker {
//	        trip_after <number>
//	        open_for   <duration>
//	    }
//	}
func parseTokenSource(d *caddyfile.Dispenser, existing any) (any, error) {
	app := new(App)
	if previous, ok := existing.(httpcaddyfile.App); ok {
		if err := json.Unmarshal(previous.Value, app); err != nil {
			return nil, err
		}
	}
	if app.Sources == nil {
		app.Sources = make(map[string]*TokenSource)
	}
	d.Next() // token_source
	if !d.NextArg() {
		return nil, d.Err("token_source: got no name: expected token_source <name> { ... }")
	}
	name := d.Val()
	if !validName(name) {
		return nil, d.Errf("token_source %q: not a name: %s", name, nameHelp)
	}
	if first, twice := app.Sources[name]; twice {
		return nil, d.Errf("token_source %s: defined twice (first on line %d): expected a name of its own", name, first.Origin.Lines[""])
	}
	ts := &TokenSource{Origin: originAt(d)}
	if d.NextArg() {
		return nil, d.Errf("token_source %s: unexpected %q: expected its options in a block", name, d.Val())
	}
	at, line := d.File(), d.Line()
	if err := ts.options().parse(d, "token_source "+name, ts.Origin, nil); err != nil {
		return nil, err
	}
	if len(ts.GrantRaw) == 0 {
		return nil, fmt.Errorf("token_source %s has no grant: expected grant <type> { ... }, at %s:%d", name, at, line)
	}
	app.Sources[name] = ts
	value, err := json.Marshal(app)
	if err != nil {
		return nil, fmt.Errorf("token_source %s: %w, at %s:%d", name, err, at, line)
	}
	return httpcaddyfile.App{Name: appName, Value: value}, nil
}

// options is the table of a source's options.
func (ts *TokenSource) options() options {
	return options{
		"grant": {usage: "<type> { ... }", min: 1, max: 1, parse: ts.parseGrant},
		"refresh": {usage: "{ ... }", max: 0, parse: func(d *caddyfile.Dispenser, _ []string) error {
			ts.Refresh = &Endpoint{Origin: originAt(d)}
			return ts.Refresh.options().parse(d, "refresh", ts.Refresh.Origin, nil)
		}},
		"key":           {usage: "<name> <placeholder>", min: 2, max: 2, repeat: true, parse: ts.parseKey},
		"lifetime":      {usage: "<duration>|forever [max <duration>]", min: 1, max: 3, parse: ts.parseLifetime},
		"refresh_ahead": {usage: "<share>% [max <duration>]", min: 1, max: 3, parse: ts.parseRefreshAhead},
		"grace":         durationOption(&ts.Grace),
		"min_interval":  positiveOption(&ts.MinInterval),
		"retry_max":     positiveOption(&ts.RetryMax),
		"max_wait":      positiveOption(&ts.MaxWait),
		"lazy":          flagOption(&ts.Lazy),
		"max_keys":      countOption(&ts.MaxKeys),
		"max_memory":    sizeOption(&ts.MaxMemory),
		"breaker":       breakerOption(&ts.Breaker),
	}
}

func (ts *TokenSource) parseGrant(d *caddyfile.Dispenser, args []string) error {
	grantType := args[0]
	var known []string
	for _, mod := range caddy.GetModules("token_sources.grants") {
		known = append(known, mod.ID.Name())
	}
	if !slices.Contains(known, grantType) {
		return d.Errf("grant %q: expected one of %s", grantType, strings.Join(known, ", "))
	}
	unm, err := caddyfile.UnmarshalModule(d, "token_sources.grants."+grantType)
	if err != nil {
		return err
	}
	ts.GrantRaw = caddyconfig.JSONModuleObject(unm, "type", grantType, nil)
	return nil
}

// parseKey takes a name and a placeholder, in which Caddy's short forms work
// as they do in a site.
func (ts *TokenSource) parseKey(d *caddyfile.Dispenser, args []string) error {
	name := args[0]
	if !validName(name) {
		return d.Errf("key %q: not a name: %s", name, nameHelp)
	}
	if slices.ContainsFunc(ts.Keys, func(k KeyPart) bool { return k.Name == name }) {
		return d.Errf("key %s: given twice: expected a name of its own", name)
	}
	value := d.Token() // the last argument
	segment := caddyfile.Segment{value}
	shorthands := httpcaddyfile.NewShorthandReplacer()
	shorthands.ApplyToSegment(&segment)
	if !strings.Contains(segment[0].Text, "{") {
		return d.Errf("key %s: %q is the same for every request: expected a placeholder such as {header.X-User}", name, args[1])
	}
	ts.Keys = append(ts.Keys, KeyPart{Name: name, Value: segment[0].Text})
	return nil
}

func (ts *TokenSource) parseLifetime(d *caddyfile.Dispenser, args []string) (err error) {
	ts.Lifetime = new(Lifetime)
	if args[0] == "forever" {
		ts.Lifetime.Forever = true
		if len(args) > 1 {
			return d.Errf("lifetime forever: unexpected %q: expected nothing after it", args[1])
		}
		return nil
	}
	if ts.Lifetime.Default, err = parsePositive(d, args[0]); err != nil {
		return err
	}
	ts.Lifetime.Max, err = parseMax(d, "lifetime", args[1:])
	return err
}

func (ts *TokenSource) parseRefreshAhead(d *caddyfile.Dispenser, args []string) (err error) {
	ts.RefreshAhead = new(RefreshAhead)
	if ts.RefreshAhead.Share, err = parsePercent(d, args[0]); err != nil {
		return err
	}
	ts.RefreshAhead.Max, err = parseMax(d, "refresh_ahead", args[1:])
	return err
}

func positiveOption(field *caddy.Duration) option {
	return option{usage: "<duration>", min: 1, max: 1, parse: func(d *caddyfile.Dispenser, args []string) (err error) {
		*field, err = parsePositive(d, args[0])
		return err
	}}
}

func parsePositive(d *caddyfile.Dispenser, text string) (caddy.Duration, error) {
	dur, err := parseDuration(d, text)
	if err == nil && time.Duration(dur) <= 0 {
		return 0, d.Errf("%q is no time at all: expected a duration above 0", text)
	}
	return dur, err
}

// parseMax reads the optional words "max <duration>".
func parseMax(d *caddyfile.Dispenser, option string, args []string) (caddy.Duration, error) {
	switch {
	case len(args) == 0:
		return 0, nil
	case args[0] != "max":
		return 0, d.Errf("%s: unexpected %q: expected max <duration>", option, args[0])
	case len(args) != 2:
		return 0, d.Errf("%s: max: got no duration: expected max <duration>", option)
	}
	return parsePositive(d, args[1])
}

// breakerOption takes a breaker's block, which sources and transports have.
func breakerOption(field **Breaker) option {
	return option{usage: "{ ... }", max: 0, parse: func(d *caddyfile.Dispenser, _ []string) error {
		b := new(Breaker)
		*field = b
		return options{
			"trip_after": countOption(&b.TripAfter),
			"open_for":   positiveOption(&b.OpenFor),
		}.parse(d, "breaker", nil, nil)
	}}
}
