package bearer

import (
	"context"
	"errors"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/caddy-bearer/caddy-bearer/internal/plainerror"
	"github.com/caddy-bearer/caddy-bearer/tokensource"
)

// attempt sends one request with a token. If the API refuses the token, retry
// takes over and decides whether a second sending can help.
type attempt struct {
	t      *Transport
	req    *http.Request
	key    tokensource.Key
	values []string // of the key, for templates
	own    bool     // the first sending may change req
	body   *capturedBody

	sendings int
	latency  time.Duration // of the last sending; 0: no response came
	replay   Replay        // what came of a refusal; empty: there was none
	// blamed is the refusal that counts for the breaker; nil: there is none.
	blamed *blamed
}

// run sends the request. The verdict tells the API's breaker whether the token
// was accepted, was refused, or whether the response says nothing about it.
func (a *attempt) run(token *tokensource.Token) (*http.Response, tokensource.Verdict, error) {
	defer a.body.release()
	// Asked before the request is sent: a success of another request that comes
	// while this one is under way must not count as evidence from before it.
	worked := token.Worked()
	res, refused, err := a.send(token)
	switch {
	case err != nil:
		return nil, tokensource.Neutral, a.failed(err)
	case !refused:
		return a.accepted(res, token)
	}
	// retry gets a copy of the attempt. A pointer would move every attempt to the
	// heap, also that of a request which the API accepts at once.
	r := retry{attempt: *a, res: res, token: token, worked: worked, since: time.Now()}
	res, verdict, err := r.run()
	a.sendings, a.latency, a.replay, a.blamed = r.sendings, r.latency, r.replay, r.blamed
	return res, verdict, err
}

// injectError says that the token could not be put into the request, so that
// nothing was sent.
type injectError struct{ error }

// send makes one round trip and reports whether the API refused the token. It
// sends a copy: the request is the caller's, who may log it afterwards, and a further
// sending starts from it again. Of a request that is ours, only a further sending is a
// copy: net/http may still be using what was sent first.
func (a *attempt) send(token *tokensource.Token) (*http.Response, bool, error) {
	out := a.req
	if !a.own || a.sendings > 0 {
		out = copyRequest(a.req)
	}
	if err := a.t.injector.inject(out, token, a.values); err != nil {
		return nil, false, injectError{err}
	}
	a.sendings++
	a.latency = 0
	if a.body != nil {
		out.Body = a.body.open()
		// With GetBody, net/http sends the request again by itself after GOAWAY or on
		// a dead idle connection. Without it, a request with a body would fail there.
		if out.GetBody == nil {
			out.GetBody = a.body.getBody
		}
		if a.body.trailer != nil {
			out.Trailer = a.body.trailer
		}
	}
	a.t.failure.prepare(out)
	sent := time.Now()
	res, err := a.t.base.RoundTrip(a.t.injector.cleanInformational(out, token))
	if err != nil {
		return nil, false, plainerror.Of(err)
	}
	a.latency = time.Since(sent)
	a.t.injector.cleanResponse(res, token)
	refused, err := a.t.failure.matches(res)
	if err != nil {
		_ = res.Body.Close()
		return nil, false, plainerror.Of(err)
	}
	return res, refused, nil
}

// failed counts the failure of the first sending, and returns the caller's
// error. An error of the connection keeps its types: Caddy's load balancing looks at
// them to decide about another upstream.
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
		return res, tokensource.Neutral, nil // a broken API says nothing about the token
	}
	token.Accepted()
	// The common case, an API that refuses nothing, costs one atomic load here.
	if m := &a.t.breakers.memory; m.watching.Load() != 0 {
		m.accepted(a.key, a.req, res.StatusCode, time.Now())
	}
	return res, tokensource.Works, nil
}

var private = []string{"private"}

// keepPrivate marks a response as private, unless it already says how caches may
// treat it. A shared cache must not store the response to a request with
// Authorization (RFC 9111, section 3.5). But a cache between the app and this
// transport sees a request without that header, and would give one user's
// response to another.
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

// lastError is the error of a request that nobody may send again, because its
// body has been read. Caddy retries a DialError at another upstream, and
// net/http retries some errors of its own. Both would send the request with an
// empty body, and the app would see a success. So lastError keeps the text, and
// tells a timeout and a canceled request, but hides the type of the error.
type lastError struct{ err error }

func (e lastError) Error() string { return e.err.Error() }

// Is matches context.Canceled only: it says that the client has gone.
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
