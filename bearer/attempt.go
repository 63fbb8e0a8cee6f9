package bearer

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"

	"github.com/caddy-bearer/caddy-bearer/tokensource"
)

// attempt is the sending of one request: with a token, and once more with
// another if the API refuses the first.
type attempt struct {
	t      *Transport
	req    *http.Request
	key    tokensource.Key
	values []string // the key's, for templates
	body   *capturedBody
}

// run sends the request. The verdict is for the API's breaker.
func (a *attempt) run(token *tokensource.Token) (*http.Response, tokensource.Verdict, error) {
	defer a.body.release()
	res, refused, err := a.send(token)
	switch {
	case err != nil:
		return nil, tokensource.Neutral, a.failed(err)
	case !refused:
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
		a.t.observer.Replay(ReplayError)
		a.t.observer.Request(ResultError)
		if a.body.touched() {
			err = lastError{err}
		}
		return nil, tokensource.Neutral, err
	case refused:
		return a.passOn(res, ReplayRefused)
	}
	a.t.observer.Replay(ReplayOK)
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
		if a.body.trailer != nil {
			out.Trailer = a.body.trailer
		}
	}
	a.t.failure.prepare(out)
	res, err := a.t.base.RoundTrip(out)
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

// failed counts the failure of the first sending, and returns it as the caller
// gets it.
func (a *attempt) failed(err error) error {
	var bad injectError
	if errors.As(err, &bad) {
		a.t.observer.Request(ResultNotSent)
		return a.t.newError(a.key, ErrNotInjected, bad.error)
	}
	a.t.observer.Request(ResultError)
	return err
}

func (a *attempt) accepted(res *http.Response, token *tokensource.Token) (*http.Response, tokensource.Verdict, error) {
	a.t.observer.Request(ResultOK)
	keepPrivate(res.Header)
	if res.StatusCode >= http.StatusInternalServerError {
		return res, tokensource.Neutral, nil // out of order: says nothing of the token
	}
	token.Accepted()
	return res, tokensource.Works, nil
}

var private = []string{"private"}

// keepPrivate has shared caches between the app and this transport treat the
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
func (a *attempt) anotherToken(refused *tokensource.Token) (next *tokensource.Token, why Replay) {
	src := a.t.Source
	if !src.CanRenew(refused) {
		return nil, ReplayNeedPerson
	}
	ctx, key := a.req.Context(), a.key
	if !a.body.replayable() {
		// The next request wants a good token all the same.
		go func() { _, _ = src.Renew(context.WithoutCancel(ctx), key, refused) }()
		return nil, ReplayBodyGone
	}
	next, err := src.Renew(ctx, key, refused)
	switch {
	case errors.Is(err, tokensource.ErrAuthorizationRequired):
		return nil, ReplayNeedPerson
	case err != nil: // also when the endpoint issued the refused token again
		return nil, ReplayNoToken
	}
	if err := a.body.rewind(ctx); err != nil {
		return nil, ReplayBodyGone
	}
	return next, ""
}

// proxyStatusOf explains in Proxy-Status (RFC 9209) why a refusal was passed on.
var proxyStatusOf = map[Replay]string{
	ReplayRefused:    "token refused again after its renewal",
	ReplayNoToken:    "token refused and not renewed",
	ReplayBodyGone:   "token refused; the request's body cannot be sent again",
	ReplayNeedPerson: "token refused; only a person can replace it",
}

// passOn hands the API's refusal to the app, as it came.
func (a *attempt) passOn(res *http.Response, why Replay) (*http.Response, tokensource.Verdict, error) {
	a.t.observer.Replay(why)
	a.t.observer.Request(ResultRefused)
	res.Header.Add("Proxy-Status", fmt.Sprintf("caddy-bearer; received-status=%d; details=%q", res.StatusCode, proxyStatusOf[why]))
	if why == ReplayBodyGone {
		return res, tokensource.Neutral, nil // a new token may well be good
	}
	return res, tokensource.Fails, nil
}

// lastError is an error after which the request must not be sent to another
// upstream: its body was read. Caddy retries what it finds to be a DialError,
// net/http what may be sent again, and both would send nothing for a body. So the error keeps what it says, and
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
