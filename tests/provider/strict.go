package provider

import (
	"encoding/base64"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// tokenRequest is what a token request asks for.
type tokenRequest struct {
	grant    string
	code     string
	redirect string
	verifier string
	refresh  string
	username string
	password string
	holder   string // who the token is for, where the request names them
}

// fault notes one thing that is wrong with a request. The lock is held, as by all that follows here.
func (x *Exchange) fault(format string, args ...any) {
	x.faults = append(x.faults, format)
	x.violation(format, args...)
}

// broken tells whether anything was wrong.
func (x *Exchange) broken() bool { return len(x.faults) > 0 }

// wantPost refuses other methods.
func (x *Exchange) wantPost() {
	if x.R.Method != http.MethodPost {
		x.fault("method is not POST")
	}
}

// wantSomeHeader refuses an absent or empty header.
func (x *Exchange) wantSomeHeader(name string) {
	if x.R.Header.Get(name) == "" {
		x.fault("header %s is missing", name)
	}
}

// wantContentType refuses another media type. Parameters, such as a charset, are let pass.
func (x *Exchange) wantContentType(want string) {
	got, _, err := mime.ParseMediaType(x.R.Header.Get("Content-Type"))
	if err != nil || got != want {
		x.fault("Content-Type is not %s", want)
	}
}

// wantAcceptJSON refuses a request that does not name JSON among what it accepts.
func (x *Exchange) wantAcceptJSON() {
	for _, line := range x.R.Header.Values("Accept") {
		for item := range strings.SplitSeq(line, ",") {
			if media, _, err := mime.ParseMediaType(item); err == nil && media == "application/json" {
				return
			}
		}
	}
	x.fault("Accept does not name application/json")
}

// wantNoBody refuses a body.
func (x *Exchange) wantNoBody() {
	if len(x.body) > 0 {
		x.fault("parameters in the body")
	}
}

// wantNoQuery refuses parameters in the URL, but for those that may be there.
func (x *Exchange) wantNoQuery(allowed ...string) {
	for name := range x.R.URL.Query() {
		if !slices.Contains(allowed, name) {
			x.fault("parameter %s in the query", name)
		}
	}
}

// wantNoAuthorization refuses client credentials in a header.
func (x *Exchange) wantNoAuthorization() {
	if len(x.R.Header.Values("Authorization")) > 0 {
		x.fault("an Authorization header where the credentials belong among the parameters")
	}
}

// form reads a form body.
func (x *Exchange) form() url.Values {
	values, err := url.ParseQuery(string(x.body))
	if err != nil {
		x.fault("the body is no form")
	}
	return values
}

// urlQuery reads the query.
func (x *Exchange) urlQuery() url.Values {
	values, err := url.ParseQuery(x.R.URL.RawQuery)
	if err != nil {
		x.fault("the query is malformed")
	}
	return values
}

// wantOnce refuses parameters that are absent, empty or repeated.
func (x *Exchange) wantOnce(values url.Values, names ...string) {
	for _, name := range names {
		if got := values[name]; len(got) != 1 || got[0] == "" {
			x.fault("parameter %s is missing, empty or repeated", name)
		}
	}
}

// rightClient checks client credentials.
func (x *Exchange) rightClient(id, secret string) bool {
	if id == x.p.ClientID && secret == x.p.ClientSecret {
		return true
	}
	x.violation("wrong client credentials")
	return false
}

// basic reads client credentials from a Basic header, form-decoded as RFC 6749, section 2.3.1, has it.
func (x *Exchange) basic() (id, secret string, ok bool) {
	values := x.R.Header.Values("Authorization")
	if len(values) != 1 {
		return "", "", false
	}
	scheme, encoded, _ := strings.Cut(values[0], " ")
	if !strings.EqualFold(scheme, "Basic") {
		return "", "", false
	}
	plain, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		return "", "", false
	}
	id, secret, ok = strings.Cut(string(plain), ":")
	if !ok {
		return "", "", false
	}
	id, idErr := url.QueryUnescape(id)
	secret, secretErr := url.QueryUnescape(secret)
	return id, secret, idErr == nil && secretErr == nil
}
