package tokenendpoint_test

import (
	"encoding/base64"
	"fmt"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-bearer/caddy-bearer/tokensource/internal/wiretest"
	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenendpoint"
)

// lifetimeOf is what an endpoint makes of an answer with this expires_in.
func lifetimeOf(t *testing.T, kind tokenendpoint.ExpiryKind, access, expiresIn string) time.Duration {
	t.Helper()
	body := fmt.Sprintf(`{"access_token":%q}`, access)
	if expiresIn != "" {
		body = fmt.Sprintf(`{"access_token":%q,"expires_in":%s}`, access, expiresIn)
	}
	ep := wiretest.Endpoint(wiretest.Responding(200, "application/json", body))
	ep.Response.ExpiryKind = kind
	return wiretest.MustCall(t, ep).Lifetime
}

// docs/faults.md, fault 13, and what providers were seen to send: whatever expires_in is, the
// token is not lost; where it makes no sense, nothing is said.
func TestAbsurdExpiresIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(26 * 365 * 24 * time.Hour) // a bubble begins in 2000, before 10^9 s
		epoch := time.Now().Unix()
		for _, c := range []struct {
			json string
			want time.Duration
		}{
			{"", 0},
			{"0", 0},
			{"-1", 0},
			{"null", 0},
			{`""`, 0},
			{`"abc"`, 0},
			{"3600.5", 3600500 * time.Millisecond},
			{"3600.0", time.Hour},
			{"1e18", 0},
			{"1e400", 0},
			{`"1h"`, time.Hour},
			{`"NaN"`, 0},
			{`"Infinity"`, 0},
			{"5", 5 * time.Second},
			{strconv.FormatInt(epoch+600, 10), 10 * time.Minute},
			{strconv.FormatInt((epoch+600)*1000, 10), 10 * time.Minute},
			{strconv.FormatInt(epoch-600, 10), 0},
			{"[3600]", 0},
			{`{"seconds":3600}`, 0},
			{"true", 0},
			{`" 43200 "`, 12 * time.Hour},
			{`"3599"`, 3599 * time.Second},
			{`"1:02:03"`, 26*time.Hour + 3*time.Minute},
			{strconv.Quote(time.Now().Add(time.Hour).Format(time.RFC3339)), time.Hour},
		} {
			if got := lifetimeOf(t, "", "tok", c.json); !near(got, c.want) {
				t.Errorf("expires_in %s: %v, want %v", c.json, got, c.want)
			}
		}
	})
}

// near allows for the rounding of floating point over seconds since 1970.
func near(got, want time.Duration) bool { return (got - want).Abs() < time.Microsecond*10 }

func TestExpiryKinds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		epoch := now.Unix() + 600
		for _, c := range []struct {
			kind tokenendpoint.ExpiryKind
			json string
			want time.Duration
		}{
			{tokenendpoint.ExpiryAuto, "3600", time.Hour},
			{tokenendpoint.ExpirySeconds, "3600", time.Hour},
			{tokenendpoint.ExpirySeconds, `"1h"`, 0},
			{tokenendpoint.ExpirySeconds, "1e30", 0},
			{tokenendpoint.ExpiryMillis, "3600000", time.Hour},
			{tokenendpoint.ExpiryMillis, "-5", 0},
			{tokenendpoint.ExpiryEpoch, strconv.FormatInt(epoch, 10), 10 * time.Minute},
			{tokenendpoint.ExpiryEpoch, strconv.Quote(strconv.FormatInt(epoch, 10)), 10 * time.Minute},
			{tokenendpoint.ExpiryEpoch, "3600", 0},
			{tokenendpoint.ExpiryEpochMs, strconv.FormatInt(epoch*1000, 10), 10 * time.Minute},
			{tokenendpoint.ExpiryRFC3339, `"` + now.Add(time.Hour).In(time.FixedZone("", 7200)).Format(time.RFC3339) + `"`, time.Hour},
			{tokenendpoint.ExpiryRFC3339, `"tomorrow"`, 0},
			{tokenendpoint.ExpiryRFC3339, `"1999-01-01T00:00:00Z"`, 0},
			{tokenendpoint.ExpiryDuration, `"1h30m"`, 90 * time.Minute},
			{tokenendpoint.ExpiryDuration, `"-1h"`, 0},
			{tokenendpoint.ExpiryDHHMM, `"0:01:30"`, 90 * time.Minute},
			{tokenendpoint.ExpiryDHHMM, `"1:00"`, 0},
			{tokenendpoint.ExpiryDHHMM, `"65535:65535:65535"`, 65535 * (24*time.Hour + time.Hour + time.Minute)},
			{tokenendpoint.ExpiryDHHMM, `"65536:0:0"`, 0},
			{tokenendpoint.ExpiryDHHMM, `"-1:0:0"`, 0},
		} {
			if got := lifetimeOf(t, c.kind, "tok", c.json); !near(got, c.want) {
				t.Errorf("%s of %s: %v, want %v", c.kind, c.json, got, c.want)
			}
		}
	})
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
			"a number":    {jwt(fmt.Sprintf(`{"exp":%d}`, epoch)), 10 * time.Minute},
			"a fraction":  {jwt(fmt.Sprintf(`{"exp":%d.5}`, epoch)), 10*time.Minute + time.Second/2},
			"a string":    {jwt(fmt.Sprintf(`{"exp":"%d"}`, epoch)), 10 * time.Minute},
			"past":        {jwt(`{"exp":1}`), 0},
			"none":        {jwt(`{"sub":"me"}`), 0},
			"a list":      {jwt(`[1]`), 0},
			"not JSON":    {jwt(`exp`), 0},
			"not base64":  {"e30.!!!.c2ln", 0},
			"opaque":      {"opaque", 0},
			"padded":      {"e30." + base64.URLEncoding.EncodeToString([]byte(fmt.Sprintf(`{"exp":%d }`, epoch))) + ".c2ln", 10 * time.Minute},
			"a JWE":       {"a.b.c.d.e", 0},
			"dots only":   {"..", 0},
			"three parts": {"a.b.c", 0},
		} {
			// expires_in is not asked: the token's own word counts
			if got := lifetimeOf(t, tokenendpoint.ExpiryJWT, c.token, "5"); !near(got, c.want) {
				t.Errorf("%s: %v, want %v", name, got, c.want)
			}
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
