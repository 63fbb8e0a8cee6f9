package provider

import (
	"net/http"
	"net/url"
	"slices"
	"time"
)

// Endpoint is what a call was addressed to.
type Endpoint string

// The endpoints of a provider.
const (
	// Token is the token endpoint.
	Token Endpoint = "token"
	// User is Mondia's user creation, which answers with a token too.
	User Endpoint = "user"
	// Authorize is a Generic provider's authorization endpoint.
	Authorize Endpoint = "authorize"
	// API is everything else.
	API Endpoint = "api"
)

// Call is one request that the provider received.
type Call struct {
	// Endpoint is what it was addressed to, and Number counts the calls to it from 1.
	Endpoint Endpoint
	Number   int
	// Time is when it arrived.
	Time time.Time
	// Method, Host and Path are as received.
	Method, Host, Path string
	// Query and Header are as received. Both may hold secrets.
	Query  url.Values
	Header http.Header
	// BodySHA256 and BodyLength are of the body received, or empty where the answer did not wait for it.
	BodySHA256 string
	BodyLength int64
	// GrantType is the grant asked for, at a token endpoint.
	GrantType string
	// Holder and Serial tell whose token came with the call, and which of the tokens issued: zero if none did. At a
	// token endpoint they tell of the token issued.
	Holder string
	Serial int
	// Family is the grant that a token request is about, where it is for a code or a refresh token. Generation is that of
	// the refresh token that it brought.
	Family, Generation int
	// Outcome is what came of a token request, and Decided when: a refresh token was used up at that time, a moment before
	// the answer went out. Sent is when an answer without a script was given to the kernel.
	Outcome       Outcome
	Decided, Sent time.Time
	// Refused says why the call was refused, where it was by the provider's own rules and not by a script.
	Refused string
	// Status is what was answered: zero if nothing was.
	Status int
}

// selectCalls copies the calls that match.
func (p *Provider) selectCalls(match func(*Call) bool) []Call {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []Call
	for _, c := range p.calls {
		if match(c) {
			out = append(out, *c)
		}
	}
	return out
}

// TokenCalls lists the calls to the token endpoints, user creation included.
func (p *Provider) TokenCalls() []Call {
	return p.selectCalls(func(c *Call) bool { return c.Endpoint == Token || c.Endpoint == User })
}

// LastTokenCalls lists the last n calls to the token endpoints, user creation included.
func (p *Provider) LastTokenCalls(n int) []Call {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []Call
	for _, c := range slices.Backward(p.calls) {
		if len(out) == n {
			break
		}
		if c.Endpoint == Token || c.Endpoint == User {
			out = append(out, *c)
		}
	}
	slices.Reverse(out)
	return out
}

// APICalls lists the calls to the API.
func (p *Provider) APICalls() []Call { return p.CallsTo(API) }

// CallsTo lists the calls to one endpoint.
func (p *Provider) CallsTo(e Endpoint) []Call {
	return p.selectCalls(func(c *Call) bool { return c.Endpoint == e })
}

// count tells how many calls there were.
func (p *Provider) count(endpoints ...Endpoint) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for _, e := range endpoints {
		n += p.counts[e]
	}
	return n
}

// TokenCount is the number of calls to the token endpoints, user creation included.
func (p *Provider) TokenCount() int { return p.count(Token, User) }

// APICount is the number of calls to the API.
func (p *Provider) APICount() int { return p.count(API) }

// Forget empties the lists of calls and starts their counts anew. What was issued stays.
func (p *Provider) Forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.calls = nil
	p.tally = Counts{}
	clear(p.counts)
}

// begin notes the arrival of a call.
func (p *Provider) begin(e Endpoint, r *http.Request) *Call {
	c := &Call{
		Endpoint: e,
		Time:     time.Now(),
		Method:   r.Method,
		Host:     r.Host,
		Path:     r.URL.Path,
		Query:    r.URL.Query(),
		Header:   r.Header.Clone(),
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.counts[e]++
	c.Number = p.counts[e]
	if !p.settings.forgetful || e != API {
		p.calls = append(p.calls, c)
	}
	return c
}

// note changes the record of a call.
func (p *Provider) note(change func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change()
}

// recorder notes the status before the client can see it, so that a test that has its answer finds it in the list.
type recorder struct {
	http.ResponseWriter
	p    *Provider
	call *Call
}

// WriteHeader implements http.ResponseWriter.
func (w *recorder) WriteHeader(status int) {
	if status >= 200 || status == http.StatusSwitchingProtocols {
		w.p.note(func() { w.call.Status = status })
	}
	w.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (w *recorder) Write(b []byte) (int, error) {
	w.p.note(func() {
		if w.call.Status == 0 {
			w.call.Status = http.StatusOK
		}
	})
	return w.ResponseWriter.Write(b)
}

// Unwrap lets an http.ResponseController reach the connection.
func (w *recorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }
