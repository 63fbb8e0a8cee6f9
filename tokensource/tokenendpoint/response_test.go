package tokenendpoint_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-bearer/caddy-bearer/tokensource/internal/wiretest"
	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenendpoint"
)

// K7 and K8: how a token is found in an answer.
func TestAnswers(t *testing.T) {
	for name, c := range map[string]struct {
		response          tokenendpoint.ResponseOptions
		status            int
		contentType, body string
		headers           []string
		access, refresh   string
		lifetime          time.Duration
	}{
		"RFC 6749":              {contentType: "application/json", body: `{"access_token":"a","refresh_token":"r","expires_in":60}`, access: "a", refresh: "r", lifetime: time.Minute},
		"JSON as text":          {contentType: "text/plain", body: `{"access_token":"a","expires_in":60}`, access: "a", lifetime: time.Minute},
		"JSON as HTML":          {contentType: "text/html", body: "\n {\"access_token\":\"a\"} \n", access: "a"},
		"JSON as a form":        {contentType: formType, body: `{"access_token":"a"}`, access: "a"},
		"a form":                {contentType: formType, body: "access_token=a%2Bb&refresh_token=r&expires_in=60", access: "a+b", refresh: "r", lifetime: time.Minute},
		"a form as HTML":        {contentType: "text/html; charset=utf-8", body: "access_token=a&expires_in=60\n", access: "a", lifetime: time.Minute},
		"a form as JSON":        {contentType: "application/json", body: "access_token=a&expires_in=60", access: "a", lifetime: time.Minute},
		"a form without a type": {body: "access_token=a", access: "a"},
		"Facebook's old form":   {response: tokenendpoint.ResponseOptions{ExpiresIn: []string{"expires"}}, contentType: "text/plain", body: "access_token=a&expires=60", access: "a", lifetime: time.Minute},
		"a form by the settings": {
			response: tokenendpoint.ResponseOptions{Format: tokenendpoint.FormatForm}, contentType: "application/json",
			body: "access_token=a&note={x}", access: "a",
		},
		"text":                   {response: tokenendpoint.ResponseOptions{Format: tokenendpoint.FormatText}, body: " a.b=c \n", access: "a.b=c"},
		"201":                    {status: 201, body: `{"access_token":"a"}`, access: "a"},
		"a status by settings":   {response: tokenendpoint.ResponseOptions{Status: []int{418}}, status: 418, body: `{"access_token":"a"}`, access: "a"},
		"a path":                 {response: tokenendpoint.ResponseOptions{AccessToken: []string{"data.token.value"}}, body: `{"data":{"token":{"value":"a"}}}`, access: "a"},
		"the first that is":      {response: tokenendpoint.ResponseOptions{AccessToken: []string{"x", "y.z", "accessToken"}}, body: `{"y":{},"accessToken":"a"}`, access: "a"},
		"an empty one is none":   {response: tokenendpoint.ResponseOptions{AccessToken: []string{"x", "y"}}, body: `{"x":"","y":"a"}`, access: "a"},
		"an array at the root":   {response: tokenendpoint.ResponseOptions{AccessToken: []string{"0.access_token"}, ExpiresIn: []string{"0.expires"}}, body: `[{"code":1,"access_token":"a","expires":"60"}]`, access: "a", lifetime: time.Minute},
		"an index":               {response: tokenendpoint.ResponseOptions{AccessToken: []string{"tokens.1"}}, body: `{"tokens":["x","a"]}`, access: "a"},
		"a name with dots":       {response: tokenendpoint.ResponseOptions{AccessToken: []string{"urn:x.token"}}, body: `{"urn:x.token":"a"}`, access: "a"},
		"a name with dots below": {response: tokenendpoint.ResponseOptions{AccessToken: []string{`d.x\.y`}}, body: `{"d":{"x.y":"a"}}`, access: "a"},
		"a header":               {response: tokenendpoint.ResponseOptions{AccessToken: []string{"header:X-Auth"}}, headers: []string{"X-Auth", "a"}, access: "a"},
		"a header beside JSON":   {response: tokenendpoint.ResponseOptions{AccessToken: []string{"header:X-Auth"}, RefreshToken: []string{"r"}}, headers: []string{"X-Auth", "a"}, body: `{"r":"rr"}`, access: "a", refresh: "rr"},
		"a number":               {body: `{"access_token":12345678901234567890}`, access: "12345678901234567890"},
		"null refresh token":     {body: `{"access_token":"a","refresh_token":null}`, access: "a"},
		"eBay's token type":      {body: `{"access_token":"a","token_type":"Application Access Token"}`, access: "a"},
		"with its scheme":        {body: `{"access_token":"Bearer eyJ.a.b"}`, access: "eyJ.a.b"},
		"in other capitals":      {body: `{"access_token":"bEARER  eyJ.a.b"}`, access: "eyJ.a.b"},
		"a token called bearer":  {body: `{"access_token":"bearer"}`, access: "bearer"},
		"header with a scheme":   {response: tokenendpoint.ResponseOptions{AccessToken: []string{"header:Authorization"}}, headers: []string{"Authorization", "Bearer eyJ.a.b"}, access: "eyJ.a.b"},
		"text with a scheme":     {response: tokenendpoint.ResponseOptions{Format: tokenendpoint.FormatText}, body: "Bearer a\n", access: "a"},
		"a cookie":               {response: tokenendpoint.ResponseOptions{AccessToken: []string{"cookie:jwt"}}, headers: []string{"Set-Cookie", "id=1; Path=/", "Set-Cookie", "jwt=eyJ.a.b; Path=/; HttpOnly"}, access: "eyJ.a.b"},
		"the last that is set":   {response: tokenendpoint.ResponseOptions{AccessToken: []string{"cookie:jwt"}}, headers: []string{"Set-Cookie", "jwt=old", "Set-Cookie", "jwt=a", "Set-Cookie", "jwt=gone; Max-Age=0"}, access: "a"},
		"cookies beside JSON": {
			response: tokenendpoint.ResponseOptions{AccessToken: []string{"t"}, RefreshToken: []string{"cookie:r"}, ExpiresIn: []string{"cookie:ttl"}},
			headers:  []string{"Set-Cookie", "r=rr", "Set-Cookie", "ttl=60"}, body: `{"t":"a"}`, access: "a", refresh: "rr", lifetime: time.Minute,
		},
		"every visible sign": {body: `{"access_token":"!#$%&'()*+,-./:;<=>?@[]^_{|}~a"}`, access: "!#$%&'()*+,-./:;<=>?@[]^_{|}~a"},
	} {
		t.Run(name, func(t *testing.T) {
			if c.status == 0 {
				c.status = 200
			}
			ep := wiretest.Endpoint(wiretest.Responding(c.status, c.contentType, c.body, c.headers...))
			ep.Response = c.response
			a := wiretest.MustCall(t, ep)
			if a.AccessToken.Reveal() != c.access || a.RefreshToken.Reveal() != c.refresh || a.Expiry.In != c.lifetime {
				t.Errorf("token %q, refresh token %q, lifetime %v, want %q, %q, %v", a.AccessToken.Reveal(), a.RefreshToken.Reveal(), a.Expiry.In, c.access, c.refresh, c.lifetime)
			}
		})
	}
}

// docs/faults.md, faults 4 and 5: what is no answer is no refusal either.
func TestAnswersWithoutToken(t *testing.T) {
	for name, body := range map[string]string{
		"empty":            "",
		"HTML":             "<!doctype html><title>Canary Gateway</title><a href=x?a=b>",
		"cut short":        `{"access_token":"can`,
		"two documents":    `{"access_token":"a"}{"access_token":"b"}`,
		"a string":         `"canary"`,
		"null":             `null`,
		"no token":         `{"token":"canary"}`,
		"an empty token":   `{"access_token":""}`,
		"a token object":   `{"access_token":{"canary":1}}`,
		"a form, no token": "token=canary",
		"not a form":       "canary=%zz",
		"a closing brace":  `{"access_token":"canary"}}`,
	} {
		t.Run(name, func(t *testing.T) {
			ee := wiretest.MustFail(t, wiretest.Endpoint(wiretest.Responding(200, "application/json", body)))
			if ee.Class != tokenendpoint.Transient || ee.Status != 200 || !ee.Sent || !errors.Is(ee, tokenendpoint.ErrUnavailable) {
				t.Errorf("%+v: want transient, sent, status 200", *ee)
			}
			if strings.Contains(strings.ToLower(ee.Error()), "canary") {
				t.Errorf("the error shows the body: %v", ee)
			}
		})
	}
}

// Attack 7: a token that would not be one header value is refused.
func TestTokensThatMustNotBeInjected(t *testing.T) {
	for _, token := range []string{`z\r\nX-Evil: 1`, `z\nb`, `z\rb`, `z\tb`, `z b`, `zä`, `z\u0000`, `z\u007f`, `z\u00a0b`, `z\u2028`, `z\ud800`, ` z`, `z `} {
		w := wiretest.Responding(200, "application/json", `{"access_token":"`+token+`"}`)
		if ee := wiretest.MustFail(t, wiretest.Endpoint(w)); strings.Contains(ee.Error(), token) {
			t.Errorf("the error shows the token: %v", ee)
		}
	}
	ep := wiretest.Endpoint(wiretest.Responding(200, "text/plain", "a b"))
	ep.Response.Format = tokenendpoint.FormatText
	wiretest.MustFail(t, ep)
	ep = wiretest.Endpoint(wiretest.Responding(200, formType, "access_token=a%0d%0ab"))
	wiretest.MustFail(t, ep)
	ep = wiretest.Endpoint(wiretest.Responding(200, "", "", "X-Auth", "a\tb"))
	ep.Response.AccessToken = []string{"header:X-Auth"}
	wiretest.MustFail(t, ep)
}

// K10: GitHub, Slack, Zoho and WeChat say errors with status 200.
func TestErrorWhen(t *testing.T) {
	const token = `"access_token":"a"`
	for name, c := range map[string]struct {
		when tokenendpoint.Matcher
		body string
		fail bool
	}{
		"Slack, an error":     {tokenendpoint.Matcher{JSON: "ok", Values: []string{"false"}}, `{"ok":false,` + token + `}`, true},
		"Slack, none":         {tokenendpoint.Matcher{JSON: "ok", Values: []string{"false"}}, `{"ok":true,` + token + `}`, false},
		"a member is there":   {tokenendpoint.Matcher{JSON: "error"}, `{"error":"x",` + token + `}`, true},
		"a member is null":    {tokenendpoint.Matcher{JSON: "error"}, `{"error":null,` + token + `}`, false},
		"a member is empty":   {tokenendpoint.Matcher{JSON: "error"}, `{"error":"",` + token + `}`, false},
		"an object is there":  {tokenendpoint.Matcher{JSON: "error"}, `{"error":{"code":1},` + token + `}`, true},
		"Fitbit's list":       {tokenendpoint.Matcher{JSON: "errors.0.errorType"}, `{"errors":[{"errorType":"x"}],` + token + `}`, true},
		"WeChat's number":     {tokenendpoint.Matcher{JSON: "errcode", Values: []string{"4*"}}, `{"errcode":40001,` + token + `}`, true},
		"another number":      {tokenendpoint.Matcher{JSON: "errcode", Values: []string{"4*"}}, `{"errcode":0,` + token + `}`, false},
		"whatever the case":   {tokenendpoint.Matcher{JSON: "status", Values: []string{"FAIL*"}}, `{"status":"Failure",` + token + `}`, true},
		"a pattern's middle":  {tokenendpoint.Matcher{JSON: "e", Values: []string{"a*b*c"}}, `{"e":"a-bb-c",` + token + `}`, true},
		"a pattern's overlap": {tokenendpoint.Matcher{JSON: "e", Values: []string{"ab*ba"}}, `{"e":"aba",` + token + `}`, false},
		"text":                {tokenendpoint.Matcher{Text: []string{`"denied`}}, `{"why":"Denied by rule 7",` + token + `}`, true},
		"other text":          {tokenendpoint.Matcher{Text: []string{`"denied`}}, `{"why":"not denied",` + token + `}`, false},
		"a member text":       {tokenendpoint.Matcher{JSON: `\text`, Values: []string{"no"}}, `{"text":"no",` + token + `}`, true},
		"a header":            {tokenendpoint.Matcher{Header: "X-Status", Values: []string{"bad"}}, `{` + token + `}`, true},
		"a status":            {tokenendpoint.Matcher{Status: []int{200}}, `{` + token + `}`, true},
	} {
		t.Run(name, func(t *testing.T) {
			ep := wiretest.Endpoint(wiretest.Responding(200, "application/json", c.body, "X-Status", "bad"))
			ep.Response.ErrorWhen = []tokenendpoint.Matcher{c.when}
			if _, err := wiretest.Call(ep); (err != nil) != c.fail {
				t.Errorf("error %v, want one: %v", err, c.fail)
			}
		})
	}
}

// What an answer holds besides can be used, but none of its tokens.
func TestFields(t *testing.T) {
	ep := wiretest.Endpoint(wiretest.Responding(200, "", `{"access_token":"a","refresh_token":"r","id_token":"i","expires_in":1,
		"instance_url":"https://eu.example","uid":7,"ok":true,"list":[1],"null":null,
		"authed_user":{"id":"U1","access_token":"xoxp-canary","refresh_token":"xoxe-canary"}}`))
	var got []string
	for _, f := range wiretest.MustCall(t, ep).Fields {
		got = append(got, f.Name+"="+f.Value)
	}
	want := []string{"authed_user.id=U1", "instance_url=https://eu.example", "ok=true", "uid=7"}
	if !slices.Equal(got, want) {
		t.Errorf("fields %q, want %q", got, want)
	}
}

// Unasked, what is kept is the first few members that are short, by their names as
// by their values; of two with the same name the last.
func TestFieldsAreFewAndShort(t *testing.T) {
	long, many := strings.Repeat("n", 1<<10), ""
	for i := range 30 {
		many += fmt.Sprintf(`"%02d":%d,`, 30-i, i)
	}
	ep := wiretest.Endpoint(wiretest.Responding(200, "", `{"`+long+`":1,"a":{"`+long[1:]+`":{"b":2}},"v":"`+long+`v","30":"twice",`+many+`"last":1,"access_token":"t"}`))
	var got []string
	for _, f := range wiretest.MustCall(t, ep).Fields {
		got = append(got, f.Name+"="+f.Value)
	}
	want := []string{"16=14", "17=13", "18=12", "19=11", "20=10", "21=9", "22=8", "23=7", "24=6", "25=5", "26=4", "27=3", "28=2", "29=1", "30=0", long + "=1"}
	if !slices.Equal(got, want) {
		t.Errorf("fields %q, want %q", got, want)
	}
}

// Any member can be asked for, but the refresh token.
func TestMember(t *testing.T) {
	long := strings.Repeat("s", 1500)
	many := ""
	for i := range 20 {
		many += fmt.Sprintf(`"a%02d":%d,`, i, i)
	}
	ep := wiretest.Endpoint(wiretest.Responding(200, "", `{`+many+`"access_token":"a","refresh_token":"r","id_token":"i","long":"`+long+`",
		"user":{"tenant":"T1"},"tenants":["T2",{"id":3}],"null":null,"empty":"","a.b":"dots","again":"r"}`))
	res := wiretest.MustCall(t, ep)
	for path, want := range map[string]string{
		"id_token": "i", "long": long, "user.tenant": "T1", "tenants.0": "T2", "tenants.1.id": "3", "a19": "19", "a.b": "dots", "empty": "", "access_token": "a",
	} {
		if got, ok := res.Member(path); !ok || got != want {
			t.Errorf("%s is %q, %v, want %q", path, got, ok, want)
		}
	}
	for _, path := range []string{"refresh_token", "again", "user", "tenants", "tenants.2", "tenants.x", "null", "nothing", ""} {
		if got, ok := res.Member(path); ok {
			t.Errorf("%s is %q", path, got)
		}
	}
	byHand := tokenendpoint.Response{Fields: []tokenendpoint.Field{{Name: "x", Value: "1"}}}
	if got, ok := byHand.Member("x"); !ok || got != "1" {
		t.Errorf("a response that a program made: %q, %v", got, ok)
	}
	if _, ok := byHand.Member("y"); ok {
		t.Error("y is there")
	}
	if text := wiretest.Printed(t, res); strings.Contains(text, long) {
		t.Error("the body is printed")
	}
}

func TestRetryAfterForms(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in := time.Now().Add(90 * time.Second).UTC()
		for text, want := range map[string]time.Duration{
			"":                      0,
			"120":                   2 * time.Minute,
			" 7 ":                   7 * time.Second,
			"1.5":                   1500 * time.Millisecond,
			"1000000000":            time.Hour,
			"1e400":                 0,
			"-5":                    0,
			"NaN":                   0,
			"soon":                  0,
			in.Format(time.RFC850):  90 * time.Second,
			in.Format(time.RFC1123): 0, // UTC for GMT is no HTTP date
			strings.Replace(in.Format(time.RFC1123), "UTC", "GMT", 1): 90 * time.Second,
			"Sun, 06 Nov 1994 08:49:37 GMT":                           0,
			"Fri, 31 Dec 9999 23:59:59 GMT":                           time.Hour,
		} {
			ee := wiretest.MustFail(t, wiretest.Endpoint(wiretest.Responding(503, "", "", "Retry-After", text)))
			if got := ee.RetryAfter; got != want {
				t.Errorf("Retry-After %q: %v, want %v", text, got, want)
			}
		}
	})
}
