package provider

import (
	"net/http"
	"strings"
)

// Step replaces the provider's answer to one call.
type Step struct {
	run     func(x *Exchange)
	early   bool // answers before the request's body was read
	forever bool
}

// Normal lets one call be answered as if nothing were scripted, in the middle of a script.
func Normal() Step { return Step{} }

// Always makes a step stay for every further call, until ClearScripts.
func Always(s Step) Step {
	s.forever = true
	return s
}

// Committed has the provider do what was asked, and then answer by the step: the grant is done, a refresh token is
// rotated, and the answer is lost.
func Committed(s Step) Step {
	inner := s.run
	s.run = func(x *Exchange) {
		if inner == nil {
			x.reply()
			return
		}
		x.Next()
		inner(x)
	}
	return s
}

// ScriptToken queues steps for the token endpoint.
func (p *Provider) ScriptToken(steps ...Step) { p.Script(Token, steps...) }

// ScriptAPI queues steps for the API.
func (p *Provider) ScriptAPI(steps ...Step) { p.Script(API, steps...) }

// Script queues steps for one endpoint. Each is used up by one call.
func (p *Provider) Script(e Endpoint, steps ...Step) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.scripts[e] = append(p.scripts[e], steps...)
}

// ClearScripts drops the steps that are left, for all endpoints.
func (p *Provider) ClearScripts() {
	p.mu.Lock()
	defer p.mu.Unlock()
	clear(p.scripts)
}

// nextStep takes the step for a call. The zero Step is the normal answer.
func (p *Provider) nextStep(e Endpoint) Step {
	p.mu.Lock()
	defer p.mu.Unlock()
	queue := p.scripts[e]
	if len(queue) == 0 {
		return Step{}
	}
	step := queue[0]
	if !step.forever {
		p.scripts[e] = queue[1:]
	}
	return step
}

// answering makes a step of an answer.
func answering(a Answer) Step {
	return Step{run: func(x *Exchange) { x.Answer(a) }}
}

// Status answers with a status, headers and a body of one's own. A body that looks like JSON is called JSON.
func Status(status int, header http.Header, body string) Step {
	h := header.Clone()
	if h == nil {
		h = http.Header{}
	}
	if h.Get("Content-Type") == "" && strings.HasPrefix(body, "{") {
		h.Set("Content-Type", "application/json")
	}
	return answering(Answer{Status: status, Header: h, Body: []byte(body)})
}

// Unauthorized refuses an API call in this provider's words, whatever its token.
func (p *Provider) Unauthorized() Step { return answering(p.dialect.unauthorized()) }

// Restricted is Mbanq's refusal for want of a second factor, which no new token cures. It comes as 403; the API
// client library finds the code under "details".
func Restricted(status int) Step {
	a := jsonAnswer(status, map[string]any{
		"name":    "AUTHORIZATION_ERROR",
		"message": "second factor expired",
		"details": map[string]any{"errorCode": "RESTRICTED"},
	})
	return answering(a)
}

// Business is one of MondiaPay's refusals for reasons that have nothing to do with the token: INCORRECT_OTP with
// 401, USER_IS_BLOCKED with 403 and others.
func Business(status int, code string) Step { return answering(*mondiaPay{}.fail(status, code)) }

// Function hands the call to f. If f returns false, it has written nothing and the provider answers as usual.
func Function(f func(w http.ResponseWriter, r *http.Request) bool) Step {
	return Step{run: func(x *Exchange) {
		if !f(x.W, x.R) {
			x.reply()
		}
	}}
}
