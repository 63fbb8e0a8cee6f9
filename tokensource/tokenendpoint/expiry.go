package tokenendpoint

import (
	"encoding/base64"
	"math"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Expiry is what a response says of its token's end.
type Expiry struct {
	State ExpiryState
	// In is how long the token lives, from the moment that the response was read;
	// with ExpirySaid. What no Duration can hold is the longest there is.
	In time.Duration
	// Path is where the expiry was looked for, and Found what is there instead of
	// one: string, number, bool, object, array, header, cookie, or "no JWT"; with
	// ExpiryUnreadable.
	Path, Found string
}

// ExpiryState says which of them holds.
type ExpiryState int

// The states.
const (
	// ExpiryNotSaid: there is no such member, or it is null or empty.
	ExpiryNotSaid ExpiryState = iota
	// ExpirySaid: the token lives for a while.
	ExpirySaid
	// ExpiryUnreadable: the member is there, and cannot be read as an expiry.
	ExpiryUnreadable
	// ExpiryDead: the token has expired already, by a lifetime of 0 or less or by
	// a date in the past.
	ExpiryDead
	// ExpiryNone: the token does not expire.
	ExpiryNone
)

// ExpiresIn is the expiry of a token that lives for a time; of 0 or less: it is
// dead.
func ExpiresIn(d time.Duration) Expiry {
	if d <= 0 {
		return Expiry{State: ExpiryDead}
	}
	return Expiry{State: ExpirySaid, In: d}
}

// ExpiryKind is what a response's expiry is counted in. Each kind takes all
// spellings of what it means: a lifetime as a number or with its unit in words,
// a moment as a number or as a date.
type ExpiryKind string

// The kinds.
const (
	ExpiryAuto     ExpiryKind = "auto"     // seconds, or whatever else it looks like
	ExpirySeconds  ExpiryKind = "seconds"  // from now (RFC 6749, section 5.1)
	ExpiryMillis   ExpiryKind = "ms"       // from now
	ExpiryMinutes  ExpiryKind = "minutes"  // from now
	ExpiryEpoch    ExpiryKind = "epoch"    // seconds since 1970
	ExpiryEpochMs  ExpiryKind = "epoch_ms" // milliseconds since 1970
	ExpiryRFC3339  ExpiryKind = "rfc3339"  // a date and time
	ExpiryDuration ExpiryKind = "duration" // such as 1h30m, 6 seconds or PT6S (ISO 8601)
	ExpiryDHHMM    ExpiryKind = "d:hh:mm"  // days, hours, minutes from now
	ExpiryJWT      ExpiryKind = "jwt_exp"  // the token is a JWT: its exp
	ExpiryNever    ExpiryKind = "never"    // it does not expire
)

// ExpiryKinds lists them all.
func ExpiryKinds() []ExpiryKind {
	return []ExpiryKind{
		ExpiryAuto, ExpirySeconds, ExpiryMillis, ExpiryMinutes, ExpiryEpoch, ExpiryEpochMs,
		ExpiryRFC3339, ExpiryDuration, ExpiryDHHMM, ExpiryJWT, ExpiryNever,
	}
}

// ValidExpiryKind reports whether there is such a kind.
func ValidExpiryKind(kind ExpiryKind) bool { return slices.Contains(ExpiryKinds(), kind) }

// expiry reads the expiry of a response: of the paths the first whose value can
// be read.
func (r *ResponseOptions) expiry(header http.Header, doc *document, access string) Expiry {
	now := time.Now()
	switch r.ExpiryKind {
	case ExpiryJWT:
		return jwtExpiry(access, now)
	case ExpiryNever:
		return Expiry{State: ExpiryNone}
	}
	paths := r.ExpiresIn
	if len(paths) == 0 {
		paths = []string{"expires_in"}
	}
	var unreadable Expiry
	for _, path := range paths {
		text, found := expiryText(path, header, doc)
		if found == "" {
			continue
		}
		if d, ok := parseExpiry(r.ExpiryKind, path, text, now); ok {
			return ExpiresIn(d)
		}
		if unreadable.State == ExpiryNotSaid {
			unreadable = Expiry{State: ExpiryUnreadable, Path: path, Found: found}
		}
	}
	return unreadable
}

// expiryText is memberText without the blanks around it; nothing else than blanks
// is nothing.
func expiryText(path string, header http.Header, doc *document) (text, found string) {
	text, found = memberText(path, header, doc)
	trimmed := strings.TrimSpace(text)
	if trimmed == "" && text != "" {
		return "", ""
	}
	return trimmed, found
}

// Where a bare number stops being believable as seconds and is an epoch (QPay
// sends one as expires_in): thirty years of seconds; the year 2286 in seconds.
const (
	epochFrom   = 1e9
	epochMsFrom = 1e10
)

// epochLeast is what an epoch has at the least, in seconds: 1973. A lifetime is
// less, and was not meant as one.
const epochLeast = 1e8

// maxExpiryText is the longest that an expiry is written, in bytes: JavaScript's
// dates, with a zone's name in a long language.
const maxExpiryText = 128

// parseExpiry reads the value of an expiry as a time from now, which may have
// passed; false if it is none. path is where it was found: its name may tell the
// unit. Servers were seen to send " 43200 ", 3600.0, 0, -1 and dates of many
// kinds.
func parseExpiry(kind ExpiryKind, path, text string, now time.Time) (time.Duration, bool) {
	if len(text) > maxExpiryText {
		return 0, false
	}
	switch kind {
	case ExpirySeconds, ExpiryMillis, ExpiryMinutes, ExpiryDuration:
		return parseLifetime(kind, text)
	case ExpiryEpoch, ExpiryEpochMs, ExpiryRFC3339:
		return parseMoment(kind, text, now)
	case ExpiryDHHMM:
		return parseDHHMM(text)
	case ExpiryAuto, "":
	default:
		return 0, false
	}
	number, numeric := parseNumber(text)
	switch {
	case numeric && number < epochFrom:
		return saturated(number * float64(unitOfName(path))), true
	case numeric:
		return parseMoment(kind, text, now)
	}
	if d, ok := parseLifetime(ExpirySeconds, text); ok {
		return d, true
	}
	if d, ok := parseMoment(kind, text, now); ok {
		return d, true
	}
	return parseDHHMM(text)
}

// parseLifetime reads how long something lives: a bare number in the kind's
// unit, or a text that names its own.
func parseLifetime(kind ExpiryKind, text string) (time.Duration, bool) {
	unit := time.Second
	switch kind {
	case ExpiryMillis:
		unit = time.Millisecond
	case ExpiryMinutes:
		unit = time.Minute
	}
	if number, ok := parseNumber(text); ok {
		return saturated(number * float64(unit)), true
	}
	if d, ok := parseISODuration(text); ok {
		return d, true
	}
	return parseWords(text)
}

// parseMoment reads a moment as the time until then: a date, or an epoch, whose
// size tells its unit. 14 digits are a date, unless an epoch is expected.
func parseMoment(kind ExpiryKind, text string, now time.Time) (time.Duration, bool) {
	number, numeric := parseNumber(text)
	if !numeric || (kind != ExpiryEpoch && kind != ExpiryEpochMs && compactDate.MatchString(text)) {
		t, ok := parseDate(text)
		return t.Sub(now), ok
	}
	if number > 0 && number < epochLeast {
		return 0, false
	}
	return untilEpoch(number, now), true
}

// untilEpoch is the time until an epoch, in seconds or milliseconds.
func untilEpoch(number float64, now time.Time) time.Duration {
	unit := time.Second
	if number >= epochMsFrom {
		unit = time.Millisecond
	}
	return saturated((number - float64(now.UnixNano())/float64(unit)) * float64(unit))
}

// parseNumber reads a number as people and JSON write them; without NaN,
// Infinity and hexadecimals, which strconv takes too. One that is too large for
// a float is infinite.
func parseNumber(text string) (float64, bool) {
	if !plainNumber.MatchString(text) {
		return 0, false
	}
	number, _ := strconv.ParseFloat(text, 64) // its error is ErrRange
	return number, true
}

var plainNumber = regexp.MustCompile(`^[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?$`)

// saturated is a duration of ns nanoseconds, or the nearest that there is.
func saturated(ns float64) time.Duration {
	switch {
	case ns >= math.MaxInt64:
		return math.MaxInt64
	case ns <= math.MinInt64:
		return math.MinInt64
	}
	return time.Duration(ns)
}

const day = 24 * time.Hour

// units are the words for units of time.
var units = func() map[string]time.Duration {
	all := make(map[string]time.Duration)
	for unit, words := range map[time.Duration]string{
		time.Nanosecond:  "ns nanosecond nanoseconds",
		time.Microsecond: "us µs μs microsecond microseconds",
		time.Millisecond: "ms msec msecs milli millis millisecond milliseconds",
		time.Second:      "s sec secs second seconds",
		time.Minute:      "m min mins minute minutes",
		time.Hour:        "h hr hrs hour hours",
		day:              "d day days",
		7 * day:          "w wk wks week weeks",
		30 * day:         "month months",
		365 * day:        "y yr yrs year years",
	} {
		for word := range strings.FieldsSeq(words) {
			all[word] = unit
		}
	}
	return all
}()

// unitOfName is the unit that a member's name ends in, as expires_minutes and
// expiresInMs do. Default: a second.
func unitOfName(path string) time.Duration {
	words := nameWords.FindAllString(path, -1)
	if len(words) > 0 {
		last := strings.ToLower(words[len(words)-1])
		if unit, ok := units[last]; ok && len(last) > 1 && unit <= 7*day {
			return unit
		}
	}
	return time.Second
}

// nameWords are the words of a name, by capitals and separators.
var nameWords = regexp.MustCompile(`\p{Lu}+\p{Ll}*|\p{Ll}+`)

// parseWords reads lengths with their units, such as 1h30m, 3600 seconds, or
// "1 hour, 30 minutes".
func parseWords(text string) (time.Duration, bool) {
	text, negative := strings.CutPrefix(strings.ToLower(text), "-")
	total, rest := 0.0, strings.TrimPrefix(text, "+")
	for rest != "" {
		m := amount.FindStringSubmatch(rest)
		if m == nil {
			return 0, false
		}
		unit, ok := units[m[2]]
		number, err := strconv.ParseFloat(strings.Replace(m[1], ",", ".", 1), 64)
		if !ok || (err != nil && !math.IsInf(number, 0)) {
			return 0, false
		}
		total += number * float64(unit)
		rest = rest[len(m[0]):]
	}
	if text == "" {
		return 0, false
	}
	if negative {
		total = -total
	}
	return saturated(total), true
}

// amount is a number, a unit, and what stands before the next.
var amount = regexp.MustCompile(`^(\d+(?:[.,]\d+)?)\s*(\p{L}+)(?:\s*,\s*|\s+and\s+|\s*)`)

// parseISODuration reads a duration of ISO 8601, section 5.5.2. A year counts as
// 365 days, a month as 30.
func parseISODuration(text string) (time.Duration, bool) {
	m := isoDuration.FindStringSubmatch(strings.ToUpper(text))
	if m == nil {
		return 0, false
	}
	total, said := 0.0, false
	for i, unit := range []time.Duration{365 * day, 30 * day, 7 * day, day, time.Hour, time.Minute, time.Second} {
		if part := m[i+2]; part != "" {
			number, _ := strconv.ParseFloat(strings.Replace(part, ",", ".", 1), 64)
			total, said = total+number*float64(unit), true
		}
	}
	if m[1] == "-" {
		total = -total
	}
	return saturated(total), said
}

var isoDuration = func() *regexp.Regexp {
	part := func(letter string) string { return `(?:(\d+(?:[.,]\d+)?)` + letter + `)?` }
	return regexp.MustCompile(`^([+-]?)P` + part("Y") + part("M") + part("W") + part("D") +
		`(?:T` + part("H") + part("M") + part("S") + `)?$`)
}()

// parseDHHMM reads days, hours and minutes.
func parseDHHMM(text string) (time.Duration, bool) {
	parts := strings.Split(text, ":")
	if len(parts) != 3 {
		return 0, false
	}
	total := 0.0
	for i, unit := range []time.Duration{day, time.Hour, time.Minute} {
		if parts[i] == "" || strings.Trim(parts[i], "0123456789") != "" {
			return 0, false
		}
		n, _ := strconv.ParseFloat(parts[i], 64)
		total += n * float64(unit)
	}
	return saturated(total), true
}

// parseDate reads a date with its time. Without a zone it is UTC.
func parseDate(text string) (time.Time, bool) {
	upper := strings.ToUpper(text)
	m := isoDate.FindStringSubmatch(upper)
	if m == nil {
		m = compactDate.FindStringSubmatch(upper)
	}
	if m != nil {
		return dateOf(m[1:7], m[7], m[8])
	}
	// GMT is what HTTP writes (RFC 9110, section 5.6.7), UTC what others do. Of
	// other names of zones package time would invent the offset.
	named := strings.ReplaceAll(jsZone.ReplaceAllString(text, ""), "UTC", "GMT")
	for _, layout := range dateLayouts {
		if t, err := time.Parse(layout, named); err == nil {
			return t, true
		}
	}
	return time.Time{}, false
}

const (
	dateClock = `(\d{2}):(\d{2})(?::(\d{2})(?:[.,](\d+))?)?`
	dateZone  = `\s*(Z|UTC|GMT|[+-]\d{2}(?::?\d{2})?)?(?:\s*(?:UTC|GMT))?$`
)

var (
	// isoDate is RFC 3339, section 5.6, with what is left out or written otherwise
	// in practice; in capitals.
	isoDate = regexp.MustCompile(`^(\d{4})[-/](\d{2})[-/](\d{2})(?:T|\s+)` + dateClock + dateZone)
	// compactDate is the same without separators: yyyyMMddHHmmss.
	compactDate = regexp.MustCompile(`^((?:19|20)\d{2})(\d{2})(\d{2})T?(\d{2})(\d{2})(\d{2})(?:[.,](\d+))?` + dateZone)
	// jsZone is the name of a zone behind its offset, as JavaScript writes it.
	jsZone = regexp.MustCompile(`\s*\([^()]*\)$`)
)

var dateLayouts = []string{
	http.TimeFormat, "Mon, 2 Jan 2006 15:04:05 GMT", "2 Jan 2006 15:04:05 GMT",
	"Mon, 2 Jan 2006 15:04:05 -0700", "Mon, 2 Jan 2006 15:04:05 -07:00", "2 Jan 2006 15:04:05 -0700",
	"Monday, 02-Jan-06 15:04:05 GMT", "Mon, 02-Jan-2006 15:04:05 GMT",
	time.ANSIC, "Mon Jan _2 15:04:05 GMT 2006", time.RubyDate,
	"Mon Jan 02 2006 15:04:05 GMT-0700",
}

// dateOf puts a date together. time.Parse would not tell of a 31 February.
func dateOf(digits []string, fraction, zone string) (time.Time, bool) {
	var n [6]int
	for i, text := range digits {
		n[i], _ = strconv.Atoi(text) // digits, or none where there are no seconds
	}
	nanoseconds, _ := strconv.Atoi((fraction + "000000000")[:9])
	if n[3] > 24 || n[4] > 59 || n[5] > 60 {
		return time.Time{}, false
	}
	t := time.Date(n[0], time.Month(n[1]), n[2], n[3], n[4], n[5], nanoseconds, time.UTC)
	if midnight := time.Date(n[0], time.Month(n[1]), n[2], 0, 0, 0, 0, time.UTC); int(midnight.Month()) != n[1] || midnight.Day() != n[2] {
		return time.Time{}, false
	}
	if sign := strings.IndexAny(zone, "+-"); sign == 0 {
		offset := strings.Replace(zone[1:], ":", "", 1) + "00"
		hours, _ := strconv.Atoi(offset[:2])
		minutes, _ := strconv.Atoi(offset[2:4])
		east := time.Duration(hours)*time.Hour + time.Duration(minutes)*time.Minute
		if zone[0] == '-' {
			east = -east
		}
		t = t.Add(-east)
	}
	return t, true
}

// jwtExpiry reads exp from a JWT (RFC 7519, section 4.1.4) without checking it:
// the token is not ours to judge, its lifetime is a hint.
func jwtExpiry(token string, now time.Time) Expiry {
	unreadable := Expiry{State: ExpiryUnreadable, Path: "exp", Found: "no JWT"}
	parts := strings.SplitN(token, ".", 4) // there may be thousands of dots
	if len(parts) != 3 {
		return unreadable
	}
	payload, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(parts[1], "="))
	if err != nil {
		return unreadable
	}
	claims := parseJSON(payload)
	if claims == nil || claims.kind(0) != jsonObject {
		return unreadable
	}
	text, found := expiryText("exp", nil, claims)
	if found == "" {
		return Expiry{}
	}
	number, ok := parseNumber(text)
	if !ok {
		return Expiry{State: ExpiryUnreadable, Path: "exp", Found: found}
	}
	return ExpiresIn(untilEpoch(number, now)) // some write milliseconds
}
