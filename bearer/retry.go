package bearer

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/caddy-bearer/caddy-bearer/tokensource"
)

// retry is what becomes of a request whose token the API has refused.
type retry struct {
	attempt
	res    *http.Response     // the last refusal
	token  *tokensource.Token // the newest that the request had
	worked bool               // the API had accepted it before it was sent last

	since       time.Time // the first refusal
	sendings    int
	waits       int
	again       bool // the request was refused with token before
	renewed     bool // another token was refused before it
	predecessor bool // the token before it was sent
}

// run decides and acts until the API accepts a token or the refusal is passed on.
func (r *retry) run() (*http.Response, tokensource.Verdict, error) {
	for {
		e, now := r.evidence()
		d := decide(e)
		r.note(&e, &d, now)
		token, res, verdict, err := r.act(&e, &d)
		if token == nil {
			return res, verdict, err
		}
		worked := token.Worked()
		r.sendings++
		res, refused, err := r.send(token)
		switch {
		case err != nil:
			return r.failed(err)
		case !refused:
			return r.succeeded(res, token)
		}
		r.res = res
		if token == r.token { // else it was the predecessor, which says nothing of this one
			r.worked = worked
		}
	}
}

// evidence is what is known now.
func (r *retry) evidence() (evidence, time.Time) {
	t, now := r.t, time.Now()
	age := now.Sub(r.token.Received())
	e := evidence{
		worked: r.worked, works: r.token.Worked(),
		// A token from the store may have been issued by a clock that is ahead.
		young:      age < t.settle && age > -t.settle,
		again:      r.again,
		renewable:  t.Source.CanRenew(r.token),
		sendings:   r.sendings,
		waits:      r.waits,
		renewed:    r.renewed,
		replayable: r.body.replayable(),
	}
	if e.young && !e.works && !r.predecessor {
		e.predecessor = r.token.Predecessor() != nil
	}
	if r.waits < len(settleWaits) {
		end := now.Add(settleWaits[r.waits])
		deadline, ok := r.req.Context().Deadline()
		e.patient = !end.After(r.since.Add(t.Source.MaxWait())) && (!ok || end.Before(deadline))
	}
	t.breakers.memory.recall(&e, r.key, r.req, r.token, now)
	return e, now
}

// note remembers what the refusal teaches of the requests to come.
func (r *retry) note(e *evidence, d *decision, now time.Time) {
	m := &r.t.breakers.memory
	if !e.worked && !e.works {
		switch {
		case e.young:
			m.doubt(r.key, r.token, now)
			if d.do == renew || d.do == renewOnly {
				m.replacedYoung(r.key, now)
			}
		case d.do == renew || d.do == renewOnly:
			m.hadItsTime(r.key, r.token, now)
		}
	}
	if d.remember {
		m.notCured(r.key, r.req, r.token, r.renewed, now)
	}
	if d.do == renewOnly {
		m.renewedBlindly(r.key, r.req, r.token, now)
	}
}

// act does what was decided. It returns the token to send next; nil: what it
// returns besides is final.
func (r *retry) act(e *evidence, d *decision) (token *tokensource.Token, res *http.Response, verdict tokensource.Verdict, err error) {
	pass := func(why Replay, verdict tokensource.Verdict, reason error) (*tokensource.Token, *http.Response, tokensource.Verdict, error) {
		r.passOn(why, verdict, reason)
		return nil, r.res, verdict, nil
	}
	ctx, src := r.req.Context(), r.t.Source
	switch d.do {
	case renewOnly: // the next request wants a good token all the same
		key, refused := r.key, r.token
		go func() { _, _ = src.Renew(context.WithoutCancel(ctx), key, refused) }()
		fallthrough
	case passOn:
		return pass(d.why, d.verdict, nil)
	case renew:
		next, err := src.Renew(ctx, r.key, r.token)
		switch {
		case errors.Is(err, tokensource.ErrAuthorizationRequired):
			return pass(ReplayNeedPerson, tokensource.Fails, nil)
		case err != nil: // also when the endpoint issued the refused token again
			return pass(ReplayNoToken, tokensource.Neutral, err)
		}
		if !r.body.rewind() {
			return pass(ReplayBodyGone, tokensource.Neutral, nil)
		}
		discard(r.res)
		r.take(next)
		return next, nil, 0, nil
	}
	before := r.token.Predecessor()
	if !r.body.rewind() {
		return pass(ReplayBodyGone, tokensource.Neutral, nil)
	}
	discard(r.res)
	switch d.do {
	case sendPredecessor:
		r.predecessor = true
		if before != nil { // else the other token was accepted this very moment
			return before, nil, 0, nil
		}
	case sendLater:
		r.waits++
		next, err := r.pause(d.wait)
		if err != nil {
			res, verdict, err := r.failed(err)
			return nil, res, verdict, err
		}
		if next.AccessToken() != r.token.AccessToken() {
			r.take(next)
			return next, nil, 0, nil
		}
		r.token = next
	}
	r.again = true
	return r.token, nil, 0, nil
}

// take goes on with another token.
func (r *retry) take(next *tokensource.Token) { r.token, r.renewed, r.again = next, true, false }

// lookEvery is how often a wait looks whether it has become pointless.
const lookEvery = 100 * time.Millisecond

// pause waits for a token to become known, at most so long: less if another
// request's success shows that it is, or if the source has another one. It
// returns the token to send.
func (r *retry) pause(d time.Duration) (*tokensource.Token, error) {
	ctx := r.req.Context()
	for {
		if err := sleep(ctx, min(d, lookEvery)); err != nil {
			return nil, err
		}
		d -= lookEvery
		next, err := r.t.Source.Token(ctx, r.key)
		switch {
		case err != nil:
			next = r.token
		case next != r.token:
			return next, nil
		}
		if d <= 0 || next.Worked() {
			return next, nil
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// failed is the end of a request that was sent before, and got no answer now.
func (r *retry) failed(err error) (*http.Response, tokensource.Verdict, error) {
	r.t.observer.Replay(ReplayError)
	r.t.observer.Request(ResultError)
	if r.body.touched() {
		err = lastError{err}
	}
	return nil, tokensource.Neutral, err
}

// succeeded is the end of a request whose token the API has accepted at last.
func (r *retry) succeeded(res *http.Response, token *tokensource.Token) (*http.Response, tokensource.Verdict, error) {
	why := ReplaySettled
	switch {
	case token != r.token:
		why = ReplayPredecessor
	case r.renewed:
		why = ReplayOK
		r.t.breakers.memory.cured(r.key)
	}
	r.t.observer.Replay(why)
	return r.accepted(res, token)
}

// detailOf explains in Proxy-Status (RFC 9209) why a refusal was passed on.
var detailOf = map[Replay]string{
	ReplayRefused:    "token refused again after its renewal",
	ReplayUnsettled:  "token refused; it is new, and the API may not know it yet",
	ReplayRequest:    "refused because of the request, not of the token, which works for others",
	ReplayNoToken:    "token refused and not renewed",
	ReplayBodyGone:   "token refused; the request's body cannot be sent again",
	ReplayNeedPerson: "token refused; only a person can replace it",
}

// notRenewed says why no renewal was possible, by the name that
// [tokensource.Result] has for it.
var notRenewed = map[string]string{
	"too_soon":     "it was renewed only just now",
	"same_token":   "the token endpoint issued it again",
	"breaker_open": "the token endpoint keeps failing",
	"throttled":    "the token endpoint asks for fewer calls",
	"refused":      "the token endpoint refuses",
	"unavailable":  "the token endpoint or the store fails",
}

// passOn hands the API's refusal to the app, as it came.
func (r *retry) passOn(why Replay, verdict tokensource.Verdict, reason error) {
	r.t.observer.Replay(why)
	r.t.observer.Request(ResultRefused)
	detail := detailOf[why]
	if text := notRenewed[tokensource.Result(reason)]; reason != nil && text != "" {
		detail += ": " + text
	}
	r.res.Header.Add("Proxy-Status", fmt.Sprintf("caddy-bearer; received-status=%d; details=%q", r.res.StatusCode, detail))
	if verdict == tokensource.Fails {
		r.blamed = blame(r.req, r.res, r.token)
	}
}

// blamed is a refusal as the breaker's log line has it.
type blamed struct {
	status             int
	method, path, code string
}

// blame describes a refusal, without the token: an API may repeat it anywhere.
func blame(req *http.Request, res *http.Response, token *tokensource.Token) *blamed {
	clean := func(text string, most int) string {
		access := token.AccessToken()
		if strings.Contains(text, access) || (len(text) >= 8 && strings.Contains(access, text)) {
			return ""
		}
		text = strings.Map(func(c rune) rune {
			if c < ' ' || c > '~' {
				return -1
			}
			return c
		}, text)
		return text[:min(len(text), most)]
	}
	return &blamed{
		status: res.StatusCode,
		method: clean(req.Method, 20),
		path:   clean(req.URL.EscapedPath(), 200),
		code:   clean(challengeError(res.Header), 60),
	}
}

// challengeError returns the error in WWW-Authenticate (RFC 6750, section 3);
// empty: none.
func challengeError(h http.Header) string {
	for _, line := range h["Www-Authenticate"] {
		for rest := line; ; {
			i := strings.Index(strings.ToLower(rest), "error")
			if i < 0 {
				break
			}
			inWord := i > 0 && !strings.ContainsRune(" \t,", rune(rest[i-1]))
			rest = rest[i+len("error"):]
			value, ok := strings.CutPrefix(strings.TrimLeft(rest, " \t"), "=")
			if inWord || !ok {
				continue // error_description, or a word that ends so
			}
			value = strings.TrimLeft(value, " \t")
			if quoted, ok := strings.CutPrefix(value, `"`); ok {
				value, _, _ = strings.Cut(quoted, `"`)
			} else {
				value, _, _ = strings.Cut(value, ",")
				value = strings.TrimSpace(value)
			}
			return value
		}
	}
	return ""
}

// discard lets go of a refusal. Where it is short the rest is read, so that its
// connection can be used again. Where it came before the whole body was read,
// rewind has ended the connection: the other side may be about to close.
func discard(res *http.Response) {
	const short = 64 << 10
	if res.ContentLength >= 0 && res.ContentLength <= short {
		drain(res.Body, short)
	}
	_ = res.Body.Close()
}
