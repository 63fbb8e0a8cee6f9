package caddymodule

import (
	"context"
	"errors"
	"net"
	"net/http"
	"slices"
	"strings"

	"github.com/caddy-bearer/caddy-bearer/tokensource"
)

// attempt is one request's way through the transport: sent with a token, and
// if the token is refused, sent once more with another.
type attempt struct {
	t      *Transport
	req    *http.Request
	key    tokensource.Key
	values []string // the key's, for templates
	body   *capturedBody
}

// The results of a refused request, for the metric.
const (
	replayOK         = "ok"           // sent again, and accepted
	replayRefused    = "refused"      // sent again, and refused again
	replayError      = "error"        // sent again, and no answer came
	replayNoToken    = "no_token"     // no other token to be had
	replayNoBody     = "body_gone"    // the body cannot be sent again
	replayNeedPerson = "needs_person" // only a person can replace the token
)

var replayResults = []string{replayOK, replayRefused, replayError, replayNoToken, replayNoBody, replayNeedPerson}

// run sends the request. The verdict is for the API's breaker.
func (a *attempt) run(token *tokensource.Token) (*http.Response, tokensource.Verdict, error) {
	defer a.body.release()
	res, refused, err := a.send(token)
	var bad injectError
	switch {
	case errors.As(err, &bad):
		return a.t.answer(a.req, notInjected(bad)), tokensource.Neutral, nil
	case err != nil:
		a.t.requests.count(resultError)
		return nil, tokensource.Neutral, err
	}
	if !refused {
		return a.accepted(res, token)
	}
	next, why := a.anotherToken(token)
	if why != "" {
		return a.passOn(res, why)
	}
	a.discard(res)
	res, refused, err = a.send(next)
	switch {
	case err != nil:
		a.t.replays.count(replayError)
		a.t.requests.count(resultError)
		if a.body.touched() {
			err = lastError{err}
		}
		return nil, tokensource.Neutral, err
	case refused:
		return a.passOn(res, replayRefused)
	}
	a.t.replays.count(replayOK)
	return a.accepted(res, next)
}

// injectError: the token could not be put into the request.
type injectError struct{ error }

// send makes one round trip and reports whether the API refused the token.
func (a *attempt) send(token *tokensource.Token) (*http.Response, bool, error) {
	out, err := a.t.injector.inject(a.req, token, a.values)
	if err != nil {
		return nil, false, injectError{err}
	}
	if a.body != nil {
		out.Body = a.body.open()
	}
	a.t.failure.prepare(out)
	res, err := a.t.HTTPTransport.RoundTrip(out)
	if err != nil {
		return nil, false, err
	}
	refused, err := a.t.failure.matches(res)
	if err != nil {
		_ = res.Body.Close()
		return nil, false, err
	}
	return res, refused, nil
}

func (a *attempt) accepted(res *http.Response, token *tokensource.Token) (*http.Response, tokensource.Verdict, error) {
	a.t.requests.count(resultOK)
	keepPrivate(res.Header)
	if res.StatusCode >= http.StatusInternalServerError {
		return res, tokensource.Neutral, nil // out of order: says nothing of the token
	}
	token.Accepted()
	return res, tokensource.Works, nil
}

var private = []string{"private"}

// keepPrivate has shared caches between the app and the sidecar treat the
// answer as what it is, one to a request with Authorization: such a cache saw
// none, and would store what RFC 9111, section 3.5 forbids.
func keepPrivate(h http.Header) {
	cc, ok := h["Cache-Control"]
	if !ok {
		h["Cache-Control"] = private
		return
	}
	for _, line := range cc {
		line = strings.ToLower(line)
		for _, allowed := range []string{"public", "private", "no-store", "s-maxage", "must-revalidate"} {
			if strings.Contains(line, allowed) {
				return
			}
		}
	}
	h["Cache-Control"] = append(slices.Clone(cc), "private")
}

// anotherToken renews the refused token and makes the body ready to be sent
// again; why is not empty if that is impossible.
func (a *attempt) anotherToken(refused *tokensource.Token) (next *tokensource.Token, why string) {
	src := a.t.source
	if !src.CanRenew(refused) {
		return nil, replayNeedPerson
	}
	ctx := a.req.Context()
	if !a.body.replayable() {
		// The next request wants a good token all the same.
		go func() { _, _ = src.Renew(detached(a.req), a.key, refused) }()
		return nil, replayNoBody
	}
	next, err := src.Renew(ctx, a.key, refused)
	switch {
	case errors.Is(err, tokensource.ErrAuthorizationRequired):
		return nil, replayNeedPerson
	case err != nil: // also when the endpoint issued the refused token again
		return nil, replayNoToken
	}
	if err := a.body.rewind(ctx); err != nil {
		return nil, replayNoBody
	}
	return next, ""
}

// proxyStatusOf explains in Proxy-Status why a refusal was passed on.
var proxyStatusOf = map[string]string{
	replayRefused:    "token refused again after its renewal",
	replayNoToken:    "token refused and not renewed",
	replayNoBody:     "token refused; the request's body cannot be sent again",
	replayNeedPerson: "token refused; only a person can replace it",
}

// passOn hands the API's refusal to the app, as it came.
func (a *attempt) passOn(res *http.Response, why string) (*http.Response, tokensource.Verdict, error) {
	a.t.replays.count(why)
	a.t.requests.count(resultRefused)
	res.Header.Add("Proxy-Status", proxyStatus("received-status", res.StatusCode, proxyStatusOf[why]))
	if why == replayNoBody {
		return res, tokensource.Neutral, nil // a new token may well be good
	}
	return res, tokensource.Fails, nil
}

// lastError is an error after which the request must not be sent to another
// upstream: its body was read. Caddy retries what it finds to be a DialError,
// and would send nothing for a body. So the error keeps what it says, and
// whether it was a time-out or the client's end, and hides what it is.
type lastError struct{ err error }

func (e lastError) Error() string { return e.err.Error() }

// Is lets the client's end be seen.
func (e lastError) Is(target error) bool {
	return target == context.Canceled && errors.Is(e.err, context.Canceled)
}

// Timeout implements net.Error.
func (e lastError) Timeout() bool {
	var ne net.Error
	return errors.As(e.err, &ne) && ne.Timeout()
}

// Temporary implements net.Error.
func (lastError) Temporary() bool { return false }

// discard lets go of the first answer. Where it is short the rest is read, so
// that its connection can be used again. Where it came before the whole body was
// read, rewind has ended the connection: the other side may be about to close.
func (a *attempt) discard(res *http.Response) {
	const short = 64 << 10
	if res.ContentLength >= 0 && res.ContentLength <= short {
		drain(res.Body, short)
	}
	_ = res.Body.Close()
}
