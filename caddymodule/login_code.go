package caddymodule

import (
	"encoding/json"
	"io"
	"mime"
	"net/http"
	"net/url"
	"time"

	"github.com/caddy-bearer/caddy-bearer/tokensource"
	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenendpoint"
)

// code takes a code that the app received.
func (tl *TokenLogin) code(w http.ResponseWriter, r *http.Request) error {
	if p := tl.callers.check(r); p != nil {
		return p.write(w)
	}
	key, values, err := tl.keys.read(r)
	if err != nil {
		return keyMissing(err).write(w)
	}
	code, p := readCode(w, r)
	if p != nil {
		return p.write(w)
	}
	token, err := tl.source.Exchange(r.Context(), key, tokensource.Code{Code: code})
	tl.report("code", err)
	if err != nil {
		return tl.source.problemOf(err, values).write(w)
	}
	return writeAuthorized(w, tl.Source, token)
}

// maxCodeForm is the longest form with a code.
const maxCodeForm = 16 << 10

// readCode reads the form. A provider's redirect may carry a code and an
// error at once (MondiaPay's do): an app that hands over all of it must not
// see the code of a failed purchase spent.
func readCode(w http.ResponseWriter, r *http.Request) (tokenendpoint.Secret, *problem) {
	bad := func(detail string) (tokenendpoint.Secret, *problem) {
		return tokenendpoint.Secret{}, &problem{name: problemBadRequest, status: http.StatusBadRequest, detail: detail}
	}
	if mediaType, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); mediaType != "application/x-www-form-urlencoded" {
		return bad("expected Content-Type application/x-www-form-urlencoded with the field code")
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxCodeForm))
	if err != nil {
		return bad("the form is too long or was cut off")
	}
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return bad("the form is not well-formed")
	}
	if form.Has("error") {
		return tokenendpoint.Secret{}, &problem{
			name: problemCodeRefused, status: http.StatusUnprocessableEntity,
			detail: "the provider's redirect carried an error; its code was not sent",
		}
	}
	if codes := form["code"]; len(codes) != 1 || codes[0] == "" {
		return bad("expected the field code, once")
	}
	return tokenendpoint.NewSecret(form.Get("code")), nil
}

func writeAuthorized(w http.ResponseWriter, source string, token *tokensource.Token) error {
	answer := struct {
		Source    string     `json:"source"`
		Status    string     `json:"status"`
		ExpiresAt *time.Time `json:"expires_at,omitempty"`
	}{Source: source, Status: "authorized"}
	if expiry := token.Expiry(); !expiry.IsZero() {
		expiry = expiry.Round(0).UTC().Truncate(time.Second)
		answer.ExpiresAt = &expiry
	}
	w.Header().Set("Content-Type", "application/json")
	return json.NewEncoder(w).Encode(answer)
}
