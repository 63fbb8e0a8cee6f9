package bearer

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/caddy-bearer/caddy-bearer/internal/sleep"
	"github.com/caddy-bearer/caddy-bearer/tokensource"
	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenendpoint"
)

// retry handles a request whose token the API has refused. It gathers the
// evidence, lets decide choose an action (verdict.go), performs the action, and
// begins again if the API still refuses. It ends after at most maxSendings
// sendings.
type retry struct {
	attempt
	res    *http.Response     // the last refusal
	token  *tokensource.Token // the newest token of this request
	worked bool               // the API had accepted token before it was last sent

	since       time.Time // when the API first refused
	waits       int
	again       bool // the API refused this request with token before
	renewed     bool // the API refused this request with another token before
	predecessor bool // the previous token was sent, too
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
		// Read before the sending, as in attempt.run.
		worked := token.Worked()
		res, refused, err := r.send(token)
		switch {
		case err != nil:
			return r.failed(err)
		case !refused:
			return r.succeeded(res, token)
		}
		r.res = res
		// A refusal of the predecessor says nothing about the newer token.
		if token == r.token {
			r.worked = worked
		}
	}
}

// evidence returns what is known now: of the token, of this request, and of other
// requests in the last minute.
func (r *retry) evidence() (evidence, time.Time) {
	t, now := r.t, time.Now()
	age := now.Sub(r.token.Received())
	e := evidence{
		worked: r.worked, works: r.token.Worked(),
		// The age may be negative: another process may have stored the token, and its
		// clock may be ahead of ours.
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
	// No wait may end after max wait or after the request's own deadline: the app
	// would get an error in place of the refusal.
	if r.waits < len(settleWaits) {
		end := now.Add(settleWaits[r.waits])
		deadline, ok := r.req.Context().Deadline()
		e.patient = !end.After(r.since.Add(t.Source.MaxWait())) && (!ok || end.Before(deadline))
	}
	t.breakers.memory.recall(&e, r.key, r.req, r.token, now)
	return e, now
}

// note remembers what this refusal says about later requests.
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

// act performs the decision. It returns the token to send next. If the token is
// nil, the request has ended with the other values.
func (r *retry) act(e *evidence, d *decision) (token *tokensource.Token, res *http.Response, verdict tokensource.Verdict, err error) {
	pass := func(why Replay, verdict tokensource.Verdict, reason error) (*tokensource.Token, *http.Response, tokensource.Verdict, error) {
		r.passOn(why, verdict, reason)
		return nil, r.res, verdict, nil
	}
	ctx, src := r.req.Context(), r.t.Source
	switch d.do {
	case renewOnly:
		// This request cannot be sent again, but the next one needs a good token. The
		// app must not wait for it, nor end the renewal by going away.
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
		case err != nil:
			// Neutral for the breaker, also if the endpoint issued the same token again:
			// that no new token came says nothing about how the API takes new ones.
			return pass(ReplayNoToken, tokensource.Neutral, err)
		}
		// Only now: while the renewal ran, the first sending may have read more of the
		// body than is remembered.
		if !r.body.rewind() {
			return pass(ReplayBodyGone, tokensource.Neutral, nil)
		}
		discard(r.res)
		r.take(next)
		return next, nil, 0, nil
	}
	// The other actions send again without a renewal. Take the predecessor first:
	// the source drops it as soon as the API accepts the newer token.
	before := r.token.Predecessor()
	if !r.body.rewind() {
		return pass(ReplayBodyGone, tokensource.Neutral, nil)
	}
	discard(r.res)
	switch d.do {
	case sendPredecessor:
		r.predecessor = true
		if before != nil { // else the API has accepted the newer token just now
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

// take continues with another token.
func (r *retry) take(next *tokensource.Token) { r.token, r.renewed, r.again = next, true, false }

// lookEvery is how often a waiting request checks whether it can continue.
const lookEvery = 100 * time.Millisecond

// pause waits up to d until the API knows the token. It ends early if another
// request succeeds with the token, or if the source has another token. It returns
// the token to send.
func (r *retry) pause(d time.Duration) (*tokensource.Token, error) {
	ctx := r.req.Context()
	for {
		if err := sleep.For(ctx, min(d, lookEvery)); err != nil {
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

// failed ends a request whose replay got no response. If any of the body was read,
// nobody else may send the request again.
func (r *retry) failed(err error) (*http.Response, tokensource.Verdict, error) {
	r.told(ReplayError)
	r.t.observer.Request(ResultError)
	if r.body.touched() {
		err = lastError{err}
	}
	return nil, tokensource.Neutral, err
}

// told reports what came of the refusal.
func (r *retry) told(why Replay) {
	r.replay = why
	r.t.observer.Replay(why)
}

// succeeded ends a request whose replay the API has accepted.
func (r *retry) succeeded(res *http.Response, token *tokensource.Token) (*http.Response, tokensource.Verdict, error) {
	why := ReplaySettled
	switch {
	case token != r.token:
		why = ReplayPredecessor
	case r.renewed:
		why = ReplayOK
		r.t.breakers.memory.cured(r.key)
	}
	r.told(why)
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

// notRenewed says why no renewal was possible, by the result's name
// ([tokensource.Result]).
var notRenewed = map[string]string{
	"too_soon":     "it was renewed only just now",
	"same_token":   "the token endpoint issued it again",
	"breaker_open": "the token endpoint keeps failing",
	"throttled":    "the token endpoint asks for fewer calls",
	"refused":      "the token endpoint refuses",
	"unavailable":  "the token endpoint or the store fails",
}

// passOn gives the API's refusal to the app. It adds only Proxy-Status.
func (r *retry) passOn(why Replay, verdict tokensource.Verdict, reason error) {
	r.told(why)
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

// blamed describes a refusal for the breaker's log line.
type blamed struct {
	status             int
	method, path, code string
}

// blame describes a refusal. It leaves out a path that contains the token or a part
// of it, because an app may put it there, removes control characters, and limits the
// length. The error code is one of a closed list, or "other": an API may write
// anything there, also a token.
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
		code:   tokenendpoint.Code(challengeError(res.Header)).String(),
	}
}

// maxChallenge is how much of WWW-Authenticate is looked at, in bytes. A challenge
// has some hundred.
const maxChallenge = 4 << 10

// challengeError returns the error parameter of WWW-Authenticate (RFC 6750, section
// 3), or "". It does not parse the header strictly, because many APIs do not write
// it strictly.
func challengeError(h http.Header) string {
	left := maxChallenge
	for _, line := range h["Www-Authenticate"] {
		line = line[:min(len(line), left)]
		left -= len(line)
		lower := asciiLower(line)
		for at := 0; ; {
			i := strings.Index(lower[at:], "error")
			if i < 0 {
				break
			}
			begin := at + i
			at = begin + len("error")
			inWord := begin > 0 && !strings.ContainsRune(" \t,", rune(line[begin-1]))
			value, ok := strings.CutPrefix(strings.TrimLeft(line[at:], " \t"), "=")
			if inWord || !ok {
				continue // error_description, or a word that ends in "error"
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

// asciiLower is text with its ASCII letters in lower case, and as long as it was.
func asciiLower(text string) string {
	lower := []byte(text)
	for i, c := range lower {
		if 'A' <= c && c <= 'Z' {
			lower[i] = c + 'a' - 'A'
		}
	}
	return string(lower)
}

// discard closes a refusal that the app will not see. If it is short, the rest is
// read first, so that net/http can use the connection again. A new connection over
// TLS costs more than reading a few bytes.
func discard(res *http.Response) {
	const short = 64 << 10
	if res.ContentLength >= 0 && res.ContentLength <= short {
		drain(res.Body, short)
	}
	_ = res.Body.Close()
}
