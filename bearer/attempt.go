package bearer

import (
	"context"
	"errors"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/caddy-bearer/caddy-bearer/tokensource"
)

// attempt is the sending of one request: with a token, and again if the API
// refuses it and there is reason to think that this helps.
type attempt struct {
	t      *Transport
	req    *http.Request
	key    tokensource.Key
	values []string // the key's, for templates
	body   *capturedBody
	// blamed is the refusal that counts for the breaker; nil: there is none.
	blamed *blamed
}

// run sends the request. The verdict is for the API's breaker.
func (a *attempt) run(token *tokensource.Token) (*http.Response, tokensource.Verdict, error) {
	defer a.body.release()
	worked := token.Worked()
	res, refused, err := a.send(token)
	switch {
	case err != nil:
		return nil, tokensource.Neutral, a.failed(err)
	case !refused:
		return a.accepted(res, token)
	}
	// A copy: so the attempt of a request that is accepted at once stays off the heap.
	r := retry{attempt: *a, res: res, token: token, worked: worked, sendings: 1, since: time.Now()}
	res, verdict, err := r.run()
	a.blamed = r.blamed
	return res, verdict, err
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
		if out.GetBody == nil {
			out.GetBody = a.body.getBody
		}
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
	if m := &a.t.breakers.memory; m.watching.Load() != 0 {
		m.accepted(a.key, a.req, res.StatusCode, time.Now())
	}
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
