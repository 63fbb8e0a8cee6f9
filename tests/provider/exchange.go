package provider

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"
)

// maxTokenBody bounds what a token endpoint reads of a request.
const maxTokenBody = 1 << 20

// Exchange is one call while it is being answered: what a [Step] acts upon.
type Exchange struct {
	W http.ResponseWriter
	R *http.Request

	p        *Provider
	call     *Call
	body     []byte // of a token request
	read     bool   // the body was read
	faults   []string
	query    tokenRequest
	thinking time.Duration // before a token request is decided
	refusal  *Answer
	outcome  Outcome // of a token request, where it is a special one
	token    *accessToken
	next     *Answer
}

// Answer is a whole answer.
type Answer struct {
	Status int
	Header http.Header
	Body   []byte
}

// jsonAnswer makes an answer of a value.
func jsonAnswer(status int, v any) Answer {
	body, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("provider: an answer that JSON cannot hold: %v", err))
	}
	return Answer{
		Status: status,
		Header: http.Header{"Content-Type": {"application/json"}},
		Body:   body,
	}
}

// with adds a header to an answer.
func (a Answer) with(name, value string) Answer {
	a.Header = a.Header.Clone()
	a.Header.Set(name, value)
	return a
}

// serve answers one call.
func (p *Provider) serve(part Part, w http.ResponseWriter, r *http.Request) {
	e := p.dialect.endpoint(r)
	call := p.begin(e, r)
	x := &Exchange{W: &recorder{w, p, call}, R: r, p: p, call: call}
	if home := p.dialect.part(e); part != Whole && home != Whole && home != part {
		x.misplaced()
		return
	}
	step := p.nextStep(e)
	if !step.early {
		if err := x.readBody(); err != nil {
			panic(http.ErrAbortHandler)
		}
	}
	x.inspect()
	if step.run == nil {
		x.reply()
		return
	}
	step.run(x)
}

// misplaced refuses a call that belongs on another host of the provider.
func (x *Exchange) misplaced() {
	x.p.note(func() { x.violation("not on this host") })
	x.Answer(jsonAnswer(http.StatusNotFound, map[string]any{"error": "NOT_FOUND"}))
}

// readBody reads the request's body: a token request's into memory, an API call's only into a hash.
func (x *Exchange) readBody() error {
	if x.read {
		return nil
	}
	x.read = true
	hash := sha256.New()
	var kept bytes.Buffer
	var sink io.Writer = hash
	var source io.Reader = x.R.Body
	if x.call.Endpoint != API {
		sink = io.MultiWriter(hash, &kept)
		source = io.LimitReader(source, maxTokenBody)
	}
	n, err := io.Copy(sink, source)
	x.body = kept.Bytes()
	x.p.note(func() {
		x.call.BodyLength = n
		x.call.BodySHA256 = hex.EncodeToString(hash.Sum(nil))
	})
	return err
}

// inspect applies the provider's rules to the call, whatever a script will answer: a malformed request is a
// violation also while the provider is down.
func (x *Exchange) inspect() {
	x.p.mu.Lock()
	defer x.p.mu.Unlock()
	switch x.call.Endpoint {
	case API:
		if x.refusal = x.p.admitCall(x); x.refusal != nil {
			x.p.tally.Unauthorized++
		}
	case Token, User:
		x.query, x.refusal = x.p.dialect.read(x.p, x)
		x.call.GrantType = x.query.grant
		x.arrive()
	case Authorize:
	}
}

// Next is the answer that the provider would give if nothing were scripted. Asking for it does the grant.
func (x *Exchange) Next() Answer {
	if x.next != nil {
		return *x.next
	}
	if err := x.readBody(); err != nil {
		panic(http.ErrAbortHandler)
	}
	var a Answer
	switch x.call.Endpoint {
	case Token, User:
		a = x.grant(x.think())
	case Authorize, API:
		a = x.decide()
	}
	x.next = &a
	if x.call.Endpoint == Token || x.call.Endpoint == User {
		x.hold()
	}
	return a
}

// grant works out the answer to a token request, and notes what came of it.
func (x *Exchange) grant(now time.Time) Answer {
	x.p.mu.Lock()
	defer x.p.mu.Unlock()
	if x.refusal != nil {
		x.decided(Rejected, now)
		return *x.refusal
	}
	a := x.p.dialect.grant(x.p, x, x.query)
	switch {
	case x.outcome != "":
	case a.Status == http.StatusOK:
		x.outcome = Issued
	default:
		x.outcome = Unknown
	}
	x.decided(x.outcome, now)
	return a
}

// decide works out the answer to any other call.
func (x *Exchange) decide() Answer {
	x.p.mu.Lock()
	defer x.p.mu.Unlock()
	switch {
	case x.refusal != nil:
		return *x.refusal
	case x.call.Endpoint == Authorize:
		return x.p.authorize(x)
	}
	return x.p.dialect.echo(x.echo())
}

// reply sends the answer that is not scripted.
func (x *Exchange) reply() {
	a := x.Next()
	if x.call.Endpoint == API {
		x.Answer(a)
		return
	}
	x.Answer(a.with("Content-Length", strconv.Itoa(len(a.Body))))
	_ = http.NewResponseController(x.W).Flush()
	x.p.note(func() { x.call.Sent = time.Now() })
}

// hold waits for as long as SetTokenDelay says.
func (x *Exchange) hold() {
	x.p.mu.Lock()
	delay := x.p.settings.delay
	x.p.mu.Unlock()
	if delay <= 0 {
		return
	}
	x.wait(delay)
}

// wait lets time pass. If the client goes away meanwhile, the call ends.
func (x *Exchange) wait(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-x.R.Context().Done():
		panic(http.ErrAbortHandler)
	case <-x.p.closing:
		panic(http.ErrAbortHandler)
	}
}

// Answer sends an answer.
func (x *Exchange) Answer(a Answer) {
	for name, values := range a.Header {
		x.W.Header()[name] = values
	}
	x.W.WriteHeader(a.Status)
	if len(a.Body) > 0 {
		// the client may have gone: there is nobody to tell
		_, _ = x.W.Write(a.Body)
	}
}

// issued notes which token a token call led to. The lock is held.
func (x *Exchange) issued(t *accessToken) {
	x.call.Holder, x.call.Serial = t.holder, t.serial
}

// violation remembers a breach of the provider's rules. The lock is held.
func (x *Exchange) violation(format string, args ...any) {
	what := fmt.Sprintf(format, args...)
	x.call.Refused = what
	x.p.violations = append(x.p.violations,
		fmt.Sprintf("%s: %s %s: %s", x.p.kind, x.call.Method, x.call.Path, what))
}

// decline refuses a call that is no breach: a revoked token, an unknown code. The lock is held.
func (x *Exchange) decline(why string, a Answer) Answer {
	if x.call.Refused == "" {
		x.call.Refused = why
	}
	return a
}
