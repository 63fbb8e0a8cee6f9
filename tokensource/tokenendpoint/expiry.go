package tokenendpoint

import (
	"encoding/base64"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// ExpiryKind is what a response's expiry is counted in.
type ExpiryKind string

// The kinds.
const (
	ExpiryAuto     ExpiryKind = "auto"     // seconds, or whatever else it looks like
	ExpirySeconds  ExpiryKind = "seconds"  // from now (RFC 6749, section 5.1)
	ExpiryMillis   ExpiryKind = "ms"       // from now
	ExpiryEpoch    ExpiryKind = "epoch"    // seconds since 1970
	ExpiryEpochMs  ExpiryKind = "epoch_ms" // milliseconds since 1970
	ExpiryRFC3339  ExpiryKind = "rfc3339"  // a date and time
	ExpiryDuration ExpiryKind = "duration" // such as 1h30m
	ExpiryDHHMM    ExpiryKind = "d:hh:mm"  // days, hours, minutes from now
	ExpiryJWT      ExpiryKind = "jwt_exp"  // the token is a JWT: its exp
	ExpiryNever    ExpiryKind = "never"    // it does not expire
)

// ExpiryKinds lists them all.
func ExpiryKinds() []ExpiryKind {
	return []ExpiryKind{
		ExpiryAuto, ExpirySeconds, ExpiryMillis, ExpiryEpoch, ExpiryEpochMs,
		ExpiryRFC3339, ExpiryDuration, ExpiryDHHMM, ExpiryJWT, ExpiryNever,
	}
}

// Where a bare number stops being believable as seconds and is an epoch (QPay
// sends one as expires_in): thirty years of seconds; the year 2286 in seconds.
const (
	epochFrom   = 1e9
	epochMsFrom = 1e10
)

// parseExpiry reads the value of an expiry as a time from now. It returns 0
// for whatever makes no sense: the caller then assumes a lifetime. Servers
// were seen to send "", " 43200 ", 3600.0, null, 0 and -1.
func parseExpiry(kind ExpiryKind, text string, now time.Time) time.Duration {
	text = strings.TrimSpace(text)
	number, err := strconv.ParseFloat(text, 64)
	numeric := err == nil && !math.IsNaN(number) && !math.IsInf(number, 0)
	if kind == ExpiryAuto || kind == "" {
		kind = guessKind(text, number, numeric)
	}
	switch kind {
	case ExpirySeconds, ExpiryMillis, ExpiryEpoch, ExpiryEpochMs:
		if !numeric {
			return 0
		}
	}
	switch kind {
	case ExpirySeconds:
		return positive(number * float64(time.Second))
	case ExpiryMillis:
		return positive(number * float64(time.Millisecond))
	case ExpiryEpoch:
		return positive((number - float64(now.UnixNano())/1e9) * float64(time.Second))
	case ExpiryEpochMs:
		return positive((number - float64(now.UnixNano())/1e6) * float64(time.Millisecond))
	case ExpiryRFC3339:
		if t, err := time.Parse(time.RFC3339, text); err == nil {
			return max(t.Sub(now), 0)
		}
	case ExpiryDuration:
		if d, err := time.ParseDuration(text); err == nil {
			return max(d, 0)
		}
	case ExpiryDHHMM:
		return parseDHHMM(text)
	}
	return 0
}

func guessKind(text string, number float64, numeric bool) ExpiryKind {
	switch {
	case numeric && number >= epochMsFrom:
		return ExpiryEpochMs
	case numeric && number >= epochFrom:
		return ExpiryEpoch
	case numeric:
		return ExpirySeconds
	case strings.Count(text, "T") == 1 && strings.Count(text, "-") >= 2:
		return ExpiryRFC3339
	case strings.Count(text, ":") == 2:
		return ExpiryDHHMM
	}
	return ExpiryDuration
}

// positive is a duration of ns nanoseconds, 0 when that is none or too long
// to be one.
func positive(ns float64) time.Duration {
	if ns <= 0 || ns >= math.MaxInt64 {
		return 0
	}
	return time.Duration(ns)
}

func parseDHHMM(text string) time.Duration {
	parts := strings.Split(text, ":")
	if len(parts) != 3 {
		return 0
	}
	var total time.Duration
	for i, unit := range []time.Duration{24 * time.Hour, time.Hour, time.Minute} {
		n, err := strconv.ParseUint(parts[i], 10, 16)
		if err != nil {
			return 0
		}
		total += time.Duration(n) * unit
	}
	return total
}

// jwtExpiry reads exp from a JWT without checking it: the token is not ours
// to judge, its lifetime is a hint.
func jwtExpiry(token string, now time.Time) time.Duration {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return 0
	}
	payload, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(parts[1], "="))
	if err != nil {
		return 0
	}
	exp, _ := lookupPath(DecodeJSON(payload), "exp")
	text, ok := scalarText(exp)
	if !ok {
		return 0
	}
	return parseExpiry(ExpiryEpoch, text, now)
}

// ValidExpiryKind reports whether there is such a kind.
func ValidExpiryKind(kind ExpiryKind) bool { return slices.Contains(ExpiryKinds(), kind) }
