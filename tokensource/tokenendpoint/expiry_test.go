package tokenendpoint_test

import (
	"encoding/base64"
	"fmt"
	"math"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-bearer/caddy-bearer/tokensource/internal/wiretest"
	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenendpoint"
)

// expiryOf is what an endpoint makes of a response with this member; empty JSON:
// it has none.
func expiryOf(t *testing.T, kind tokenendpoint.ExpiryKind, access, name, json string) tokenendpoint.Expiry {
	t.Helper()
	body := fmt.Sprintf(`{"access_token":%q}`, access)
	if json != "" {
		body = fmt.Sprintf(`{"access_token":%q,%q:%s}`, access, name, json)
	}
	ep := wiretest.Endpoint(wiretest.Responding(200, "application/json", body))
	ep.Response.ExpiryKind = kind
	if name != "expires_in" {
		ep.Response.ExpiresIn = []string{name}
	}
	return wiretest.MustCall(t, ep).Expiry
}

// What the tables say instead of a lifetime.
const (
	notSaid    = time.Duration(-1)
	unreadable = time.Duration(-2)
	dead       = time.Duration(-3)
	longest    = time.Duration(math.MaxInt64)
)

func checkExpiry(t *testing.T, what string, got tokenendpoint.Expiry, want time.Duration) {
	t.Helper()
	state := tokenendpoint.ExpirySaid
	switch want {
	case notSaid:
		state = tokenendpoint.ExpiryNotSaid
	case unreadable:
		state = tokenendpoint.ExpiryUnreadable
	case dead:
		state = tokenendpoint.ExpiryDead
	}
	// floating point over seconds since 1970 rounds
	if got.State != state || (state == tokenendpoint.ExpirySaid && (got.In-want).Abs() > 10*time.Microsecond) {
		t.Errorf("%s: %+v, want %v", what, got, want)
	}
	if (state == tokenendpoint.ExpiryUnreadable) != (got.Path != "" && got.Found != "") {
		t.Errorf("%s: path %q, found %q", what, got.Path, got.Found)
	}
}

// docs/faults.md, fault 13, and what providers were seen to send: whatever expires_in is, it is
// read, or told of.
func TestExpiryByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(26 * 365 * 24 * time.Hour) // a bubble begins in 2000, before 10^9 s
		now := time.Now().UTC()
		epoch := now.Unix()
		in := now.Add(time.Hour)
		text := func(format string) string { return strconv.Quote(in.Format(format)) }
		for _, c := range []struct {
			json string
			want time.Duration
		}{
			{"", notSaid},
			{"null", notSaid},
			{"NaN", notSaid},
			{`""`, notSaid},
			{`"  "`, notSaid},

			{"0", dead},
			{"-1", dead},
			{`"0"`, dead},
			{"-1e400", dead},
			{strconv.FormatInt(epoch-600, 10), dead},
			{`"PT0S"`, dead},
			{`"-1h"`, dead},
			{strconv.Quote(now.Add(-time.Second).Format(time.RFC3339)), dead},

			{`"abc"`, unreadable},
			{`"NaN"`, unreadable},
			{`"Infinity"`, unreadable},
			{`"0x10"`, unreadable},
			{`"tomorrow"`, unreadable},
			{`"6 fortnights"`, unreadable},
			{`"hours"`, unreadable},
			{`"P"`, unreadable},
			{`"PT"`, unreadable},
			{`"2026-11-27"`, unreadable},
			{`"2026-02-31T10:00:00Z"`, unreadable},
			{`"2026-13-01T10:00:00Z"`, unreadable},
			{`"2026-11-27T25:00:00Z"`, unreadable},
			{`"Fri, 27 Nov 2026 15:04:05 EST"`, unreadable},
			{`"1:00"`, unreadable},
			{strconv.Quote(strings.Repeat("1s", 30_000)), unreadable}, // and in no time
			{"[3600]", unreadable},
			{`{"seconds":3600}`, unreadable},
			{"true", unreadable},
			{"false", unreadable},

			{"5", 5 * time.Second},
			{"3600.5", 3600500 * time.Millisecond},
			{"3600.0", time.Hour},
			{"3.6e3", time.Hour},
			{`" 43200 "`, 12 * time.Hour},
			{`"3599"`, 3599 * time.Second},

			{"1e18", longest},
			{"1e400", longest},
			{`"1e999"`, longest},
			{"999999999999999999999999999999", longest},
			{`"9999-12-31T23:59:59Z"`, longest},
			{`"P1000Y"`, longest},
			{`"99999999999 days"`, longest},

			{`"1h"`, time.Hour},
			{`"1h30m"`, 90 * time.Minute},
			{`"3600 seconds"`, time.Hour},
			{`"3600 SECONDS"`, time.Hour},
			{`"3600s"`, time.Hour},
			{`"60 minutes"`, time.Hour},
			{`"60 min"`, time.Hour},
			{`"1 hour"`, time.Hour},
			{`"1.5 hours"`, 90 * time.Minute},
			{`"1 hour, 30 minutes"`, 90 * time.Minute},
			{`"1 hour and 30 minutes"`, 90 * time.Minute},
			{`"500 ms"`, 500 * time.Millisecond},
			{`"7 days"`, 7 * 24 * time.Hour},
			{`"PT6S"`, 6 * time.Second},
			{`"PT0.5S"`, 500 * time.Millisecond},
			{`"PT1H30M"`, 90 * time.Minute},
			{`"P1DT2H"`, 26 * time.Hour},
			{`"P2W"`, 14 * 24 * time.Hour},
			{`"pt1h"`, time.Hour},
			{`"1:02:03"`, 26*time.Hour + 3*time.Minute},

			{strconv.FormatInt(epoch+600, 10), 10 * time.Minute},
			{strconv.FormatInt((epoch+600)*1000, 10), 10 * time.Minute},
			{strconv.Quote(strconv.FormatInt((epoch+600)*1000, 10)), 10 * time.Minute},

			{text(time.RFC3339), time.Hour},
			{text("2006-01-02T15:04:05.0000000Z07:00"), time.Hour},
			{text("2006-01-02T15:04:05.000000000"), time.Hour},
			{text("2006-01-02T15:04:05.000-0700"), time.Hour},
			{text("2006-01-02T15:04:05-07"), time.Hour},
			{text("2006-01-02T15:04:05"), time.Hour},
			{text("2006-01-02t15:04:05z"), time.Hour},
			{text("2006-01-02 15:04:05"), time.Hour},
			{text("2006-01-02 15:04:05 -0700"), time.Hour},
			{text("2006-01-02 15:04:05 -0700 MST"), time.Hour},
			{text("2006-01-02 15:04:05 UTC"), time.Hour},
			{text("2006/01/02 15:04:05"), time.Hour},
			{text("2006-01-02T15:04Z"), time.Hour},
			{text("20060102150405"), time.Hour},
			{in.Format("20060102150405"), time.Hour},
			{text("20060102T150405Z"), time.Hour},
			{strconv.Quote(in.In(time.FixedZone("", 19800)).Format("2006-01-02T15:04:05-0700")), time.Hour},
			{strconv.Quote(in.In(time.FixedZone("", -19800)).Format("2006-01-02T15:04:05-07:00")), time.Hour},

			{text("Mon, 02 Jan 2006 15:04:05 GMT"), time.Hour},
			{text(time.RFC1123), time.Hour}, // it writes UTC
			{text(time.RFC1123Z), time.Hour},
			{text("Monday, 02-Jan-06 15:04:05 GMT"), time.Hour},
			{text(time.ANSIC), time.Hour},
			{text(time.UnixDate), time.Hour},
			{text(time.RubyDate), time.Hour},
			{strings.Replace(text("Mon Jan 02 2006 15:04:05 GMT-0700 (#)"), "#", "Coordinated Universal Time", 1), time.Hour},
		} {
			checkExpiry(t, "expires_in "+c.json, expiryOf(t, "", "tok", "expires_in", c.json), c.want)
		}
	})
}

// A member's name may tell the unit of a bare number.
func TestExpiryUnitOfTheName(t *testing.T) {
	for name, want := range map[string]time.Duration{
		"expires_minutes": 6 * time.Minute, "expiresInMinutes": 6 * time.Minute, "expires_in_ms": 6 * time.Millisecond, "expiresInMillis": 6 * time.Millisecond,
		"expiresInMS": 6 * time.Millisecond, "validity-hours": 6 * time.Hour, "days": 6 * 24 * time.Hour, "expires_in_seconds": 6 * time.Second,
		"expires_in": 6 * time.Second, "ttl": 6 * time.Second, "expires_m": 6 * time.Second, "minutes_left": 6 * time.Second, "items": 6 * time.Second,
	} {
		checkExpiry(t, name, expiryOf(t, "", "tok", name, "6"), want)
		checkExpiry(t, name+", by kind", expiryOf(t, tokenendpoint.ExpirySeconds, "tok", name, "6"), 6*time.Second)
	}
}

// A kind takes every spelling of what it means, and no other thing.
func TestExpiryKinds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := time.Now().UTC()
		epoch := now.Unix() + 600
		date := func(format string) string { return strconv.Quote(now.Add(time.Hour).Format(format)) }
		for _, c := range []struct {
			kind tokenendpoint.ExpiryKind
			json string
			want time.Duration
		}{
			{tokenendpoint.ExpiryAuto, "3600", time.Hour},
			{tokenendpoint.ExpirySeconds, "3600", time.Hour},
			{tokenendpoint.ExpirySeconds, `"1h"`, time.Hour},
			{tokenendpoint.ExpirySeconds, `"3600 seconds"`, time.Hour},
			{tokenendpoint.ExpirySeconds, "1e30", longest},
			{tokenendpoint.ExpirySeconds, "-5", dead},
			{tokenendpoint.ExpirySeconds, date(time.RFC3339), unreadable},
			{tokenendpoint.ExpiryMillis, "3600000", time.Hour},
			{tokenendpoint.ExpiryMillis, `"3600000"`, time.Hour},
			{tokenendpoint.ExpiryMillis, `"3600000 ms"`, time.Hour},
			{tokenendpoint.ExpiryMillis, "-5", dead},
			{tokenendpoint.ExpiryMinutes, "60", time.Hour},
			{tokenendpoint.ExpiryMinutes, "0.1", 6 * time.Second},
			{tokenendpoint.ExpiryMinutes, `"1 hour"`, time.Hour},
			{tokenendpoint.ExpiryEpoch, strconv.FormatInt(epoch, 10), 10 * time.Minute},
			{tokenendpoint.ExpiryEpoch, strconv.Quote(strconv.FormatInt(epoch, 10)), 10 * time.Minute},
			{tokenendpoint.ExpiryEpoch, strconv.FormatInt(epoch*1000, 10), 10 * time.Minute},
			{tokenendpoint.ExpiryEpoch, date(time.RFC3339), time.Hour},
			{tokenendpoint.ExpiryEpoch, "3600", unreadable}, // of 1970
			{tokenendpoint.ExpiryEpoch, "0", dead},
			{tokenendpoint.ExpiryEpoch, "1e300", longest},
			{tokenendpoint.ExpiryEpochMs, strconv.FormatInt(epoch*1000, 10), 10 * time.Minute},
			{tokenendpoint.ExpiryEpochMs, "20261127153641", longest}, // no date
			{tokenendpoint.ExpiryRFC3339, strconv.Quote(now.Add(time.Hour).In(time.FixedZone("", 7200)).Format(time.RFC3339)), time.Hour},
			{tokenendpoint.ExpiryRFC3339, date("2006-01-02T15:04:05.000+0000"), time.Hour},
			{tokenendpoint.ExpiryRFC3339, date("2006-01-02 15:04:05"), time.Hour},
			{tokenendpoint.ExpiryRFC3339, date("Mon, 02 Jan 2006 15:04:05 GMT"), time.Hour},
			{tokenendpoint.ExpiryRFC3339, date("20060102150405"), time.Hour},
			{tokenendpoint.ExpiryRFC3339, strconv.FormatInt(epoch, 10), 10 * time.Minute},
			{tokenendpoint.ExpiryRFC3339, `"tomorrow"`, unreadable},
			{tokenendpoint.ExpiryRFC3339, "3600", unreadable},
			{tokenendpoint.ExpiryRFC3339, `"PT6S"`, unreadable},
			{tokenendpoint.ExpiryRFC3339, `"1999-01-01T00:00:00Z"`, dead},
			{tokenendpoint.ExpiryRFC3339, `"2600-01-01T00:00:00Z"`, longest},
			{tokenendpoint.ExpiryDuration, `"1h30m"`, 90 * time.Minute},
			{tokenendpoint.ExpiryDuration, `"PT6S"`, 6 * time.Second},
			{tokenendpoint.ExpiryDuration, `"6 seconds"`, 6 * time.Second},
			{tokenendpoint.ExpiryDuration, "6", 6 * time.Second},
			{tokenendpoint.ExpiryDuration, `"-1h"`, dead},
			{tokenendpoint.ExpiryDHHMM, `"0:01:30"`, 90 * time.Minute},
			{tokenendpoint.ExpiryDHHMM, `"1:00"`, unreadable},
			{tokenendpoint.ExpiryDHHMM, `"65535:65535:65535"`, 65535 * (24*time.Hour + time.Hour + time.Minute)},
			{tokenendpoint.ExpiryDHHMM, `"999999999:0:0"`, longest},
			{tokenendpoint.ExpiryDHHMM, `"-1:0:0"`, unreadable},
			{tokenendpoint.ExpiryDHHMM, `"0:0:0"`, dead},
		} {
			checkExpiry(t, fmt.Sprintf("%s of %s", c.kind, c.json), expiryOf(t, c.kind, "tok", "expires_in", c.json), c.want)
		}
		if got := expiryOf(t, tokenendpoint.ExpiryNever, "tok", "expires_in", "5"); got.State != tokenendpoint.ExpiryNone {
			t.Errorf("never: %+v", got)
		}
	})
}

// What is told of an expiry that cannot be read: where it is and what kind of
// thing, and never the thing itself.
func TestExpiryUnreadable(t *testing.T) {
	for json, found := range map[string]string{`"canary"`: "string", "true": "bool", "[1]": "array", `{"a":1}`: "object"} {
		if got := expiryOf(t, "", "tok", "ttl", json); got != (tokenendpoint.Expiry{State: tokenendpoint.ExpiryUnreadable, Path: "ttl", Found: found}) {
			t.Errorf("%s: %+v", json, got)
		}
	}
	if got := expiryOf(t, tokenendpoint.ExpiryRFC3339, "tok", "ttl", "3600"); got.Found != "number" {
		t.Errorf("%+v", got)
	}
	ep := wiretest.Endpoint(wiretest.Responding(200, "", `{"access_token":"tok","second":60}`, "X-Ttl", "soon"))
	ep.Response.ExpiresIn = []string{"header:X-Ttl"}
	if got := wiretest.MustCall(t, ep).Expiry; got.Found != "header" || got.Path != "header:X-Ttl" {
		t.Errorf("%+v", got)
	}
	ep.Response.ExpiresIn = []string{"header:X-Ttl", "first", "second"}
	checkExpiry(t, "the first that can be read", wiretest.MustCall(t, ep).Expiry, time.Minute)
}

func jwt(payload string) string {
	return "e30." + base64.RawURLEncoding.EncodeToString([]byte(payload)) + ".c2ln"
}

func TestJWTExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		epoch := time.Now().Unix() + 600
		for name, c := range map[string]struct {
			token string
			want  time.Duration
		}{
			"a number":      {jwt(fmt.Sprintf(`{"exp":%d}`, epoch)), 10 * time.Minute},
			"a fraction":    {jwt(fmt.Sprintf(`{"exp":%d.5}`, epoch)), 10*time.Minute + time.Second/2},
			"a string":      {jwt(fmt.Sprintf(`{"exp":"%d"}`, epoch)), 10 * time.Minute},
			"milliseconds":  {jwt(fmt.Sprintf(`{"exp":%d}`, epoch*1000)), 10 * time.Minute},
			"past":          {jwt(`{"exp":1}`), dead},
			"none":          {jwt(`{"sub":"me"}`), notSaid},
			"null":          {jwt(`{"exp":null}`), notSaid},
			"exp is a list": {jwt(`{"exp":[1]}`), unreadable},
			"exp is text":   {jwt(`{"exp":"soon"}`), unreadable},
			"a list":        {jwt(`[1]`), unreadable},
			"not JSON":      {jwt(`exp`), unreadable},
			"not base64":    {"e30.!!!.c2ln", unreadable},
			"opaque":        {"opaque", unreadable},
			"padded":        {"e30." + base64.URLEncoding.EncodeToString([]byte(fmt.Sprintf(`{"exp":%d }`, epoch))) + ".c2ln", 10 * time.Minute},
			"a JWE":         {"a.b.c.d.e", unreadable},
			"dots only":     {"..", unreadable},
			"three parts":   {"a.b.c", unreadable},
		} {
			// expires_in is not asked: the token's own word counts
			checkExpiry(t, name, expiryOf(t, tokenendpoint.ExpiryJWT, c.token, "expires_in", "5"), c.want)
		}
	})
}

// Each of them is known, and nothing else is.
func TestValidExpiryKind(t *testing.T) {
	for _, kind := range tokenendpoint.ExpiryKinds() {
		if !tokenendpoint.ValidExpiryKind(kind) {
			t.Errorf("%s is not valid", kind)
		}
	}
	for _, kind := range []tokenendpoint.ExpiryKind{"", "days", "EPOCH"} {
		if tokenendpoint.ValidExpiryKind(kind) {
			t.Errorf("%q is valid", kind)
		}
	}
}
